"""Drawing of a track's cover: a flat picture in few colours, from the noisy traits, never
from the true ones.

Each trait has its place in the picture. Tempo is how often the motif repeats; energy is contrast, colour and sharp
corners; brightness is the lightness of the paper; mode turns the palette from cool to warm; density is how many
small shapes lie on top. The genre is the motif itself, the shapes and whether ink is lighter or darker than paper.
The rest no song can know: where things lie, how the light falls, a stray accent, grain. It knows nothing
of sound and of files.

Shape legend: S = pixels a side, P = points of an outline. Lengths are shares of the picture's side.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gatefold.synthetic.catalogue import SyntheticTrack
from gatefold.synthetic.motifs import LOOKS, Look, Palette, Sketch, oklch

_SUPERSAMPLING = 3
_GRID = 7  # cells a side that the small shapes are spread over


def draw_cover(track: SyntheticTrack, size: int) -> NDArray[np.uint8]:
    """The cover, uint8 [S, S, 3], RGB, S = size. The same track and size give the same pixels in every process."""
    rng = np.random.default_rng(track.cover_seed)
    seen, look = track.seen, LOOKS[track.genre]
    energy, density = _clipped(seen.energy), _clipped(seen.density)
    palette = _palette(track, look)
    side = size * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), palette.shade(0.0))
    sketch = Sketch(
        image=image,
        draw=ImageDraw.Draw(image),
        side=side,
        palette=palette,
        cycles=max(2.0, 3.5 + 8.0 * seen.tempo),
        energy=energy,
        stroke=track.signature.stroke,
        rng=rng,
    )
    look.motif(sketch)
    _stray_accent(sketch)
    _scatter(sketch, look.corners, round(2 + 46 * density))
    if track.signature.stroke > 0.6:
        _frame(sketch)
    return _print(image.reduce(_SUPERSAMPLING), rng)


def _clipped(trait: float) -> float:
    """A noisy trait, clipped to what can be drawn."""
    return min(max(trait, 0.0), 1.0)


def _palette(track: SyntheticTrack, look: Look) -> Palette:
    seen = track.seen
    contrast = 0.16 + 0.32 * _clipped(seen.energy)
    light = min(max(seen.brightness, -0.2), 1.2)
    paper = 0.20 + 0.38 * light if look.light_ink else 0.52 + 0.38 * light
    hue = 248 + 135 * min(max(seen.mode, -0.3), 1.3) + look.hue + track.signature.hue
    return Palette(paper, paper + contrast * (1 if look.light_ink else -1), 0.06 + 0.11 * _clipped(seen.energy), hue)


def _scatter(s: Sketch, corners: int, count: int) -> None:
    """Small shapes all over, none on another: round where energy is low, stars where it is high."""
    angle = np.linspace(0, 2 * math.pi, 2 * corners + 1)[:-1]
    radius = np.where(np.arange(2 * corners) % 2, 1 - 0.5 * s.energy, 1.0)
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] * (1 + 0.35 * s.energy)
    cells = s.rng.permutation(_GRID**2)[:count]
    for cell, (x, y, scale) in zip(cells.tolist(), s.rng.random((count, 3)), strict=True):
        place = (np.array([cell % _GRID, cell // _GRID]) + 0.2 + 0.6 * np.array([x, y])) / _GRID
        s.polygon(0.03 + 0.94 * place + star * (0.015 + 0.014 * scale), s.palette.spark)


def _stray_accent(s: Sketch) -> None:
    """A band along an edge, a disc, or nothing, in a colour that means nothing."""
    colour = oklch(float(s.rng.uniform(0.45, 0.85)), 0.12, float(s.rng.uniform(0, 360)))
    x, y, size = (float(value) for value in s.rng.uniform(0.12, 0.88, 3))
    kind = int(s.rng.integers(4))
    if kind == 0:
        left = 0.0 if x < 0.5 else 0.94
        s.box(left, 0, left + 0.06, 1, colour)
    elif kind == 1:
        s.box(0, 0.95 if y > 0.5 else 0.0, 1, 1.0 if y > 0.5 else 0.05, colour)
    elif kind == 2:
        s.disc(x, y, 0.04 + 0.03 * size, colour)


def _frame(s: Sketch) -> None:
    width = round((0.02 + 0.02 * s.stroke) * s.side)
    s.draw.rectangle([0, 0, s.side - 1, s.side - 1], outline=s.palette.shade(0.0), width=width)


def _print(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A wash of tinted light from one side, darker corners, and the grain of paper."""
    pixels = np.asarray(image, dtype=np.float32)
    axis = np.linspace(-1, 1, pixels.shape[0], dtype=np.float32)
    down, right = axis[:, None, None], axis[None, :, None]
    fall = rng.uniform(0, 2 * math.pi)
    wash = rng.uniform(0.04, 0.08) + rng.uniform(-0.07, 0.07, 3)
    towards_light = np.float32(math.cos(fall)) * down + np.float32(math.sin(fall)) * right
    light = 1 + wash.astype(np.float32) * towards_light - np.float32(0.03) * (down**2 + right**2) ** 2
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * np.float32(3.0)
    return np.asarray(np.clip(pixels * light + grain[..., None], 0, 255), dtype=np.uint8)
