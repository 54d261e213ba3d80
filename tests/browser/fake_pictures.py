"""Pictures of the fake API: covers of invented songs, a spectrogram, and mosaics whose sources are known exactly."""

import base64
import colorsys
import io
import math
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

MAP_SIZE = 256
"""pixels a side of a map of sources, whatever the size of the cover"""
DRAWN_SIZE = 128
"""pixels a side that covers are drawn at: enough to be looked at, and quick"""
BLENDED = 0.003
"""share of a last source that leads at no pixel"""


def _colours(chance: random.Random) -> list[tuple[int, int, int]]:
    hue = chance.random()
    parts = [(hue + shift) % 1 for shift in (0, 0.08, 0.5, 0.62)]
    return [
        tuple(int(255 * (light + 0.35 * math.cos(6.283 * (part + third / 3)))) for third in range(3))  # type: ignore[misc]
        for part, light in zip(parts, (0.25, 0.5, 0.62, 0.4), strict=True)
    ]


def draw_cover(name: str, size: int) -> Image.Image:
    """A square picture, the same for the same name.

    Args:
        size: pixels a side
    """
    chance = random.Random(name)
    colours = _colours(chance)
    image = Image.new("RGB", (size, size), colours[0])
    pen = ImageDraw.Draw(image)
    kind = chance.randrange(4)
    for step in range(chance.randint(3, 9)):
        colour = colours[1 + step % 3]
        x, y, reach = (chance.random() * size for _ in range(3))
        if kind == 0:
            pen.ellipse([x - reach / 2, y - reach / 2, x + reach / 2, y + reach / 2], fill=colour)
        elif kind == 1:
            pen.rectangle([0, y, size, y + reach / 6], fill=colour)
        elif kind == 2:
            pen.polygon([(x, y), (y, reach), (reach, x)], fill=colour)
        else:
            low, high = size / 2 - reach, size / 2 + reach
            pen.arc([low, low, high, high], 0, 360, fill=colour, width=max(2, size // 24))
    return image.filter(ImageFilter.GaussianBlur(size / 60)) if chance.random() < 0.4 else image


@lru_cache(maxsize=8)
def draw_spectrogram(name: str) -> str:
    """A picture of partials and beats as a data URI, time to the right, pitch upwards."""
    chance = random.Random(name)
    width, height, base, beat = 512, 80, chance.uniform(5, 9), chance.uniform(18, 44)
    grey = bytearray()
    for y in range(height):
        pitch = height - 1 - y
        for x in range(width):
            note = base * (1 + 0.25 * ((x // 64 * 7) % 5))
            partial = math.exp(-((pitch % note - note / 2) ** 2) / 3) * math.exp(-pitch / 38)
            hit = math.exp(-(x % beat) / 6) * 0.55
            grey.append(min(255, int(255 * (0.75 * partial + hit * math.exp(-pitch / 60) + 0.08 * chance.random()))))
    picture = encode(Image.frombytes("L", (width, height), bytes(grey)), "PNG")
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


@lru_cache(maxsize=1024)
def cover_jpeg(name: str, size: int) -> bytes:
    """A cover as JPEG, drawn once."""
    return encode(draw_cover(name, size), "JPEG")


def encode(image: Image.Image, kind: str) -> bytes:
    """The bytes of a picture as PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@dataclass(frozen=True)
class Mosaic:
    """A new cover cut out of existing ones.

    names: song_id of each source, largest share first
    shares: of each source, summing to 1
    regions: share of the largest connected region of each source
    holder: int [256, 256], the index in `names` of the source that holds a pixel
    palette: song_id whose colours lead, or None
    """

    names: list[str]
    shares: list[float]
    regions: list[float]
    holder: np.ndarray
    palette: str | None

    def picture(self, size: int) -> Image.Image:
        """The cover at a size in pixels, enlarged from a small drawing."""
        return self._drawn.resize((size, size), Image.Resampling.BICUBIC)

    @cached_property
    def _drawn(self) -> Image.Image:
        picture = self._source(self.names[0], DRAWN_SIZE)
        for index, name in enumerate(self.names):
            mask = Image.fromarray(np.uint8(self.holder == index) * 255).resize(picture.size, Image.Resampling.BICUBIC)
            picture.paste(self._source(name, DRAWN_SIZE), mask=mask)
        return picture

    def _source(self, name: str, size: int) -> Image.Image:
        source = draw_cover(name, size)
        if self.palette is None:
            return source
        dark, _, light, middle = _colours(random.Random(self.palette))
        return ImageOps.colorize(ImageOps.autocontrast(ImageOps.grayscale(source)), dark, light, middle)

    @property
    def colours(self) -> list[str]:
        """A colour of the map for each source, as '#rrggbb', no two alike."""
        rows = [colorsys.hsv_to_rgb((0.618 * index) % 1, 0.9 - 0.3 * (index % 3) / 2, 0.95 - index / 200)
                for index in range(len(self.names))]  # fmt: skip
        return ["#" + "".join(f"{round(255 * part):02x}" for part in row) for row in rows]

    def map(self) -> Image.Image:
        """Each pixel in the colour of the source that holds it."""
        table = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in self.colours], np.uint8)
        return Image.fromarray(table[self.holder])


def compose(seed: int, candidates: list[str], novelty: float, palette: str | None) -> Mosaic:
    """A mosaic of some of the candidates, the same for the same arguments.

    Args:
        candidates: song_ids, nearest first
        novelty: 0 (few sources) to 1 (up to 40)
        palette: song_id whose colours lead, or None
    """
    chance = random.Random(f"{seed}")
    count = min(len(candidates), 4 + round(36 * novelty))
    chosen = chance.sample(candidates, count)
    y, x = np.mgrid[0:MAP_SIZE, 0:MAP_SIZE] / MAP_SIZE
    wave = chance.uniform(4, 9)
    warped_x, warped_y = x + 0.05 * np.sin(wave * y + seed), y + 0.05 * np.cos(wave * x)
    reach = [chance.uniform(0, 0.12) / (1 + novelty) for _ in chosen]
    owner = np.array([*range(count), *range(0, count, 3)])  # every third source holds two cells
    cells = [np.hypot(warped_x - chance.random(), warped_y - chance.random()) - reach[index] for index in owner]
    cell = np.argmin(np.stack(cells), axis=0)
    cell_shares = np.bincount(cell.ravel(), minlength=len(owner)) / cell.size
    shares = np.bincount(owner, cell_shares)
    order = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index]]
    place = np.zeros(count, np.int64)
    place[order] = np.arange(len(order))
    blended = [name for name in candidates if name not in chosen][:1]
    return Mosaic(
        names=[chosen[index] for index in order] + blended,
        shares=[float(shares[index]) * (1 - BLENDED * len(blended)) for index in order] + [BLENDED] * len(blended),
        regions=[float(cell_shares[owner == index].max()) for index in order] + [0.0] * len(blended),
        holder=place[owner[cell]],
        palette=palette,
    )
