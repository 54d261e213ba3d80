"""Parts of the synthetic covers: colours that are of even lightness (OKLCH), and a motif for every genre.

A motif is drawn on a sketch, which holds what it may depend on: how often to repeat, how sharp to be, a palette, and
chance for all that is free. It knows nothing of songs.

Shape legend: P = points of an outline. Lengths are shares of the picture's side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = NDArray[np.float64]

# ---- colour ------------------------------------------------------------------------------------------------------


def oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """The sRGB bytes of an OKLCH colour. Chroma gives way where the screen has no such colour.

    Args:
        lightness: 0 (black) to 1 (white).
        chroma: from 0 (grey); about 0.3 is the most that a screen has.
        hue: degrees.

    Source: B. Ottosson, "A perceptual color space for image processing" (2020).
    """
    lightness = min(max(lightness, 0.0), 1.0)
    for share in (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0):
        a, b = (share * chroma * turn(math.radians(hue)) for turn in (math.cos, math.sin))
        l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3  # noqa: E741 (the source's letter)
        m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        linear = (
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        )
        if all(-0.002 <= channel <= 1.002 for channel in linear):
            break
    red, green, blue = (_gamma(channel) for channel in linear)
    return red, green, blue


def _gamma(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


@dataclass(frozen=True)
class Palette:
    """Paper and ink, and everything between them."""

    paper_lightness: float
    ink_lightness: float
    chroma: float
    hue: float

    def shade(self, ink: float, turn: float = 0.0) -> Colour:
        """From paper (0) to ink (1), and beyond; `turn` moves the hue, in degrees."""
        lightness = self.paper_lightness + ink * (self.ink_lightness - self.paper_lightness)
        return oklch(lightness, self.chroma * (0.45 + 0.55 * ink), self.hue + turn)

    @property
    def spark(self) -> Colour:
        """Of the small shapes: vivid and of the opposite hue, so that they stand out from paper and ink alike."""
        lighter = self.ink_lightness > self.paper_lightness
        return oklch(min(max(self.ink_lightness + 0.08, 0.70), 0.86) if lighter else 0.58, 0.18, self.hue + 165)


@dataclass(frozen=True)
class Sketch:
    """What a motif is drawn with: a canvas, colours, and the traits as seen, held to what can be drawn."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    side: int
    palette: Palette
    cycles: float
    """how often the motif repeats from edge to edge"""
    energy: float
    stroke: float
    rng: np.random.Generator

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fills an outline.

        Args:
            points: x and y from the top left, float64 [P, 2].
        """
        self.draw.polygon((points * self.side).ravel().tolist(), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fills a circle; centre and radius are shares of the side."""
        box = [(x - radius) * self.side, (y - radius) * self.side, (x + radius) * self.side, (y + radius) * self.side]
        self.draw.ellipse(box, fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills a rectangle; its edges are shares of the side, from the top left."""
        self.draw.rectangle([left * self.side, top * self.side, right * self.side, bottom * self.side], fill=colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """Draws a line through the points, at least one pixel wide.

        Args:
            points: x and y from the top left, float64 [P, 2].
            width: of the line, as a share of the side.
        """
        self.draw.line(
            (points * self.side).ravel().tolist(), fill=colour, width=max(1, round(width * self.side)), joint="curve"
        )

    def jitter(self, spread: float) -> float:
        """A number between -spread and spread, drawn at random."""
        return float(self.rng.uniform(-spread, spread))


# ---- motifs, one a genre -----------------------------------------------------------------------------------------


def _ripples(s: Sketch) -> None:
    """Rings that spread from a point; energy bends them."""
    x, y = 0.5 + s.jitter(0.22), 0.5 + s.jitter(0.22)
    angle = np.linspace(0, 2 * math.pi, 121)
    lobes, phase = 3 + int(s.rng.integers(3)), s.jitter(math.pi)
    shape = 1 + 0.22 * s.energy * np.sin(lobes * angle + phase)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * shape[:, None]
    spacing = 0.5 / s.cycles
    for ring in range(math.ceil(1.1 / spacing), 0, -1):
        fade = max(0.25, 1 - ring * spacing)
        s.polygon([x, y] + circle * ring * spacing, s.palette.shade(fade if ring % 2 else 0.12 * fade, 25 * (1 - fade)))


def _leaves(s: Sketch) -> None:
    """Stems with pairs of leaves; energy points them."""
    for stem in range(3):
        foot, lean = 0.2 + 0.3 * stem + s.jitter(0.08), s.jitter(0.16)
        ink = (0.6, 1.0, 0.78)[stem]
        height = np.arange(0.04, 0.95 + s.jitter(0.04), 0.5 / s.cycles + 0.012)
        along = np.linspace(0, 1, 24)
        s.line(
            np.stack([foot + lean * along**2, 1 - along * height[-1]], axis=1),
            0.008 + 0.008 * s.stroke,
            s.palette.shade(ink),
        )
        for up in height[1:]:
            for side in (-1, 1):
                reach = (0.10 + 0.09 * s.energy) * (1.15 - 0.5 * up)
                _leaf(s, foot + lean * (up / height[-1]) ** 2, 1 - up, side, reach, s.palette.shade(ink, 18 * side))


def _leaf(s: Sketch, x: float, y: float, side: int, reach: float, colour: Colour) -> None:
    along = np.linspace(0, 1, 10)
    belly = np.sin(math.pi * along) ** (0.7 + 1.4 * s.energy) * min(0.20 / s.cycles + 0.006, 0.06)
    rise = along * (0.25 + 0.5 * s.energy) * reach
    upper = np.stack([x + side * along * reach, y - rise - belly], axis=1)
    lower = np.stack([x + side * along * reach, y - rise + belly], axis=1)
    s.polygon(np.concatenate([upper, lower[::-1]]), colour)


def _keys(s: Sketch) -> None:
    """Tall bars of uneven reach, as on the sleeves of the fifties; energy slants them."""
    width = 1 / s.cycles
    slant = 0.30 * s.energy * float(s.rng.choice([-1, 1]))
    start = s.jitter(width / 2) - width - abs(slant)
    for bar in range(math.ceil((1 + 2 * abs(slant)) / width) + 3):
        left = start + bar * width
        top, bottom = 0.10 + float(s.rng.uniform(0, 0.34)), 0.90 - float(s.rng.uniform(0, 0.34))
        right = left + width * (0.50 + 0.2 * s.stroke)
        lean = np.array([top, top, bottom, bottom]) * slant
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        corners[:, 0] += lean
        s.polygon(corners, s.palette.shade(1.0 if bar % 2 else 0.62, 30 * (bar % 2)))


def _shards(s: Sketch) -> None:
    """Splinters that burst from a point."""
    x, y = 0.5 + s.jitter(0.15), 0.5 + s.jitter(0.15)
    count, phase = round(3.2 * s.cycles), s.jitter(math.pi)
    for shard in range(count):
        angle = phase + 2 * math.pi * (shard + s.jitter(0.15)) / count
        reach = 0.75 - (0.15 + 0.35 * s.energy) * float(s.rng.random())
        half = 0.62 * math.pi / count * (0.75 + 0.4 * s.stroke)
        base = 0.06 + 0.06 * s.energy
        tip = [x + reach * math.cos(angle), y + reach * math.sin(angle)]
        foot = [
            [x + (base + reach * 0.35) * math.cos(angle + d), y + (base + reach * 0.35) * math.sin(angle + d)]
            for d in (-half, half)
        ]
        heart = [x + 0.03 * math.cos(angle), y + 0.03 * math.sin(angle)]
        s.polygon(np.array([heart, foot[0], tip]), s.palette.shade(1.0))
        s.polygon(np.array([heart, foot[1], tip]), s.palette.shade(0.58, 14))


def _lattice(s: Sketch) -> None:
    """A grid of squares, some missing; energy tilts and swells them."""
    count = max(2, s.cycles)
    pitch, tilt = 1 / count, math.pi / 4 * s.energy
    x0, y0 = s.jitter(pitch / 2), s.jitter(pitch / 2)
    corner = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * pitch * (0.26 + 0.14 * s.energy)
    turned = corner @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    for row in range(-1, math.ceil(count) + 1):
        for column in range(-1, math.ceil(count) + 1):
            ink = float(s.rng.choice([0.0, 0.5, 0.8, 1.0, 1.0]))
            if ink:
                place = np.array([x0 + (column + 0.5) * pitch, y0 + (row + 0.5) * pitch])
                s.polygon(turned + place, s.palette.shade(ink, 30 * (ink < 1)))


def _arches(s: Sketch) -> None:
    """Four tiles of nested arches, each turned its own way."""
    spacing = 0.5 / s.cycles
    half = math.ceil(s.side / 2)
    for row in (0, 1):
        for column in (0, 1):
            tile = Image.new("RGB", (half, half), s.palette.shade(0.0))
            pen = ImageDraw.Draw(tile)
            for ring in range(math.ceil(0.5 / spacing), 0, -1):
                reach = min(ring * spacing, 0.5) * s.side
                ink = (1.0 if (row + column) % 2 else 0.72) if ring % 2 else 0.10 + 0.12 * s.energy
                pen.ellipse([-reach, -reach, reach, reach], fill=s.palette.shade(ink, 35 * ((row + column) % 2)))
            turned = tile.rotate(90 * int(s.rng.integers(4)))
            s.image.paste(turned, (column * half, row * half))


def _skyline(s: Sketch) -> None:
    """Two rows of towers before a moon, and a crossing at their feet; energy makes the towers uneven."""
    s.disc(0.25 + float(s.rng.random()) * 0.5, 0.30 + s.jitter(0.08), 0.16, s.palette.shade(0.45, 40))
    for row, (roof, ink) in enumerate(((0.45, 0.62), (0.66, 1.0))):
        width = 1 / s.cycles
        left = s.jitter(width / 2) - width
        while left < 1:
            top = roof - (0.06 + 0.26 * s.energy) * float(s.rng.uniform(-0.5, 1))
            s.box(left, top, left + width * (0.70 + 0.2 * s.stroke), 1, s.palette.shade(ink, 12 * row))
            s.box(left + width * 0.3, top - 0.05 * s.energy, left + width * 0.4, top, s.palette.shade(ink, 12 * row))
            left += width
    s.box(0, 0.88, 1, 1, s.palette.shade(0.85, 12))
    for stripe in np.arange(s.jitter(0.5), s.cycles + 1):
        s.box(stripe / s.cycles, 0.905, (stripe + 0.5) / s.cycles, 0.975, s.palette.shade(0.0))


def _strings(s: Sketch) -> None:
    """Bands that flow from side to side; energy makes waves of them."""
    x = np.linspace(-0.02, 1.02, 60)
    phase, turns = s.jitter(math.pi), 1.0 + 0.5 * float(s.rng.random())
    spacing = 1 / s.cycles
    swell = (0.02 + 0.16 * s.energy) * np.sin(2 * math.pi * turns * x + phase)
    thickness = spacing * (0.32 + 0.25 * s.stroke)
    for band in range(-3, math.ceil(s.cycles) + 4):
        depth = (band + 3) / (s.cycles + 6)
        y = band * spacing + swell * (0.6 + 0.8 * depth)
        outline = np.concatenate([np.stack([x, y], 1), np.stack([x, y + thickness], 1)[::-1]])
        s.polygon(outline, s.palette.shade(0.45 + 0.55 * depth, 40 * depth))


def _rays(s: Sketch) -> None:
    """Sunbeams behind a disc."""
    x, y = 0.5 + s.jitter(0.20), 0.62 + s.jitter(0.16)
    count, phase = round(3.0 * s.cycles), s.jitter(math.pi)
    half = math.pi / count * (0.42 + 0.2 * s.stroke)
    for ray in range(count):
        angle = phase + 2 * math.pi * ray / count
        edges = [[x + 1.5 * math.cos(angle + d), y + 1.5 * math.sin(angle + d)] for d in (-half, half)]
        s.polygon(np.array([[x, y], *edges]), s.palette.shade(0.85 if ray % 2 else 0.5, 35 * (ray % 2)))
    s.disc(x, y, 0.17 + 0.03 * s.energy, s.palette.shade(0.0))
    s.disc(x, y, 0.13 + 0.03 * s.energy, s.palette.shade(1.0, 20))


def _horizon(s: Sketch) -> None:
    """A striped sun over a plain of squares; energy raises peaks between them."""
    x, level = 0.5 + s.jitter(0.2), 0.60 + s.jitter(0.04)
    radius, stripes = 0.27, round(0.65 * s.cycles)
    s.disc(x, level - 0.18, radius, s.palette.shade(1.0, 45))
    for stripe in range(stripes):
        top = level - 0.18 - radius * 0.2 + stripe * 1.2 * radius / stripes
        s.box(0, top, 1, top + 0.45 * 1.2 * radius / stripes, s.palette.shade(0.0))
    ridge_x = np.linspace(0, 1, 14)
    ridge = level - (0.02 + 0.24 * s.energy) * s.rng.random(14) * np.abs(np.linspace(-1, 1, 14)) ** 0.7
    s.polygon(np.concatenate([np.stack([ridge_x, ridge], 1), [[1, 1], [0, 1]]]), s.palette.shade(0.35, -15))
    s.box(0, level, 1, 1, s.palette.shade(0.12))
    colour, thickness = s.palette.shade(0.9), 0.008 + 0.006 * s.stroke
    rows = max(2, round(0.7 * s.cycles))
    for row in range(rows):
        depth = level + (1 - level) * (row / rows) ** 1.5
        s.line(np.array([[0.0, depth], [1.0, depth]]), thickness, colour)
    for column in np.arange(-3 * round(s.cycles), 3 * round(s.cycles) + 1):
        near, far = x + column * 1.6 / s.cycles, x + column * 0.55 / s.cycles
        s.line(np.array([[far, level], [near, 1.0]]), thickness, colour)


def _halftone(s: Sketch) -> None:
    """Dots of a coarse screen, large to small, and a torn band."""
    angle = math.radians(30 + s.jitter(15))
    pitch, falling = 0.8 / s.cycles, s.jitter(math.pi)
    steps = np.arange(-math.ceil(0.8 / pitch), math.ceil(0.8 / pitch) + 1) * pitch
    colour = s.palette.shade(1.0)
    for u in steps:
        for v in steps:
            x, y = 0.5 + u * math.cos(angle) - v * math.sin(angle), 0.5 + u * math.sin(angle) + v * math.cos(angle)
            tone = 0.5 + 0.75 * ((x - 0.5) * math.cos(falling) + (y - 0.5) * math.sin(falling))
            s.disc(x, y, pitch * (0.16 + 0.40 * min(max(tone, 0.0), 1.0)), colour)
    top, along = 0.40 + s.jitter(0.22), np.linspace(0, 1, 22)
    edge = (0.015 + 0.05 * s.energy) * s.rng.uniform(-1, 1, (2, 22))
    lean = s.jitter(0.12) * (along - 0.5)
    torn = np.concatenate(
        [np.stack([along, top + lean + edge[0]], 1), np.stack([along, top + 0.16 + lean + edge[1]], 1)[::-1]]
    )
    s.polygon(torn, s.palette.shade(0.55, 50))


def _hills(s: Sketch) -> None:
    """Ranges behind ranges; energy makes peaks of them."""
    x = np.linspace(0, 1, 200)
    s.disc(0.5 + s.jitter(0.3), 0.20 + s.jitter(0.06), 0.10, s.palette.shade(0.5, 50))
    for layer in range(4):
        turn = x * s.cycles * 0.8 + s.jitter(1)
        rounded = np.sin(2 * math.pi * turn)
        pointed = 4 * np.abs(turn - np.floor(turn + 0.5)) - 1
        crest = (1 - s.energy) * rounded + s.energy * pointed
        y = 0.36 + 0.18 * layer + (0.045 + 0.035 * s.energy) * crest
        outline = np.concatenate([np.stack([x, y], 1), [[1, 1], [0, 1]]])
        s.polygon(outline, s.palette.shade((0.3, 0.75, 0.5, 1.0)[layer], 30 - 10 * layer))


@dataclass(frozen=True)
class Look:
    """What a genre's covers have in common: the motif, whether ink is lighter than paper, a turn of the hue, the
    corners of the small shapes.
    """

    motif: Callable[[Sketch], None]
    light_ink: bool
    hue: float
    corners: int


LOOKS: dict[str, Look] = {
    "ambient": Look(_ripples, True, -10, 12),
    "folk": Look(_leaves, False, 12, 5),
    "jazz": Look(_keys, False, -6, 8),
    "metal": Look(_shards, True, 6, 3),
    "techno": Look(_lattice, True, -14, 4),
    "house": Look(_arches, False, 16, 6),
    "hip-hop": Look(_skyline, False, 4, 4),
    "classical": Look(_strings, True, 10, 6),
    "reggae": Look(_rays, False, 18, 5),
    "synthwave": Look(_horizon, True, -4, 4),
    "punk": Look(_halftone, False, 0, 7),
    "blues": Look(_hills, False, -16, 9),
}
