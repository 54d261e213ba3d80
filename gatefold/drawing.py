"""From a synthetic track to its cover: a flat, printed-looking picture, drawn from the traits as seen, never from
the true ones.

Each trait has its place in the picture. Tempo is how often the motif repeats; energy is contrast, colour and sharp
corners; brightness is the lightness of the paper; mode turns the palette from cool to warm; density is how many
small shapes lie on top. The genre is the motif itself, the shapes and whether ink is lighter or darker than paper.
The rest no song can know: where things lie, how the light falls, a stray accent, grain. This chapter knows nothing
of sound and of files.

Shape legend: S = pixels a side, P = points of an outline. Lengths are shares of the picture's side.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gatefold.motifs import LOOKS, Look, Palette, Sketch, oklch
from gatefold.synthesis import SyntheticTrack

_SUPERSAMPLING = 3


def draw_cover(track: SyntheticTrack, size: int) -> NDArray[np.uint8]:
    """The cover, uint8 [S, S, 3], RGB, S = size. The same track and size give the same pixels in every process."""
    rng = np.random.default_rng(track.cover_seed)
    seen, look = track.seen, LOOKS[track.genre]
    energy, density = _held(seen.energy), _held(seen.density)
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
    _scatter(sketch, look.corners, round(3 + 42 * density))
    _stray_accent(sketch)
    if track.signature.stroke > 0.6:
        _frame(sketch)
    return _print(image.reduce(_SUPERSAMPLING), rng)


def _held(trait: float) -> float:
    """What was seen, kept within what can be drawn."""
    return min(max(trait, 0.0), 1.0)


def _palette(track: SyntheticTrack, look: Look) -> Palette:
    seen = track.seen
    contrast = 0.16 + 0.32 * _held(seen.energy)
    light = min(max(seen.brightness, -0.2), 1.2)
    paper = 0.20 + 0.38 * light if look.light_ink else 0.52 + 0.38 * light
    hue = 245 + 155 * min(max(seen.mode, -0.3), 1.3) + look.hue + track.signature.hue
    return Palette(paper, paper + contrast * (1 if look.light_ink else -1), 0.05 + 0.11 * _held(seen.energy), hue)


def _scatter(s: Sketch, corners: int, count: int) -> None:
    """Small shapes all over: round where energy is low, stars where it is high."""
    angle = np.linspace(0, 2 * math.pi, 2 * corners + 1)[:-1]
    radius = np.where(np.arange(2 * corners) % 2, 1 - 0.55 * s.energy, 1.0)
    star = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] * (1 + 0.35 * s.energy)
    for x, y, scale in s.rng.random((count, 3)):
        s.polygon([0.05 + 0.9 * x, 0.05 + 0.9 * y] + star * (0.016 + 0.010 * scale), s.palette.spark)


def _stray_accent(s: Sketch) -> None:
    """A bar or a disc in a colour that means nothing."""
    colour = oklch(float(s.rng.uniform(0.45, 0.85)), 0.12, float(s.rng.uniform(0, 360)))
    x, y, length = (float(value) for value in s.rng.uniform(0.1, 0.75, 3))
    if s.rng.random() < 0.5:
        s.box(x, y, min(x + 0.35 * length, 1.0), y + 0.018, colour)
    else:
        s.disc(x, y, 0.03 + 0.03 * length, colour)


def _frame(s: Sketch) -> None:
    width = round((0.02 + 0.02 * s.stroke) * s.side)
    s.draw.rectangle([0, 0, s.side - 1, s.side - 1], outline=s.palette.shade(0.0), width=width)


def _print(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light from one side, darker corners, and the grain of paper."""
    pixels = np.asarray(image, dtype=np.float32)
    axis = np.linspace(-1, 1, pixels.shape[0], dtype=np.float32)
    fall, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.02, 0.08)
    light = 1 + np.float32(slope * math.cos(fall)) * axis[:, None] + np.float32(slope * math.sin(fall)) * axis[None, :]
    light -= np.float32(0.06) * (axis[:, None] ** 2 + axis[None, :] ** 2) ** 2 / 2
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * np.float32(3.0)
    return np.asarray(np.clip(pixels * light[..., None] + grain[..., None], 0, 255), dtype=np.uint8)
