"""Layouts of title and artist: where their blocks may lie, and how large text is set so that it fits and stays legible.

    corner          band            poster
    +----------+    +----------+    +----------+
    |          |    |          |    |  TITLE   |
    |          |    |          |    |          |
    |TITLE     |    |  TITLE   |    |          |
    |artist    |    |  artist  |    |  artist  |
    +----------+    +----------+    +----------+

Sizes are in shares of the picture's shorter side; a block's box holds its letters from ascent to descent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from gatefold.export.fonts import SANS, SERIF, Font

LEGIBLE_SIDE, CAPITAL_MIN = 64, 4.5
"""pixels a side of a picture in a player's list, and pixels that a capital letter is high there at least"""
_MARGIN = 0.06
_STEP = 0.93  # from one size that is tried to the next
_LEADING = 1.16  # ems from line to line
_BETWEEN = 0.35  # of an em of the artist, between title and artist
_PROBE = 1000  # pixels an em, at which text is measured

Align = Literal["left", "centre", "right"]
TextKind = Literal["title", "artist"]
Place = tuple[Literal["top", "middle", "bottom"], Align]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A way to place title and artist.

    Args:
        places: (how far down, how it is aligned) of each place; down is top, middle or bottom.
        width: share of the picture's width that a line may have.
        height: share of the picture's height that all lines may have.
        capital_max: share of the shorter side that a capital of the title is high at most.
        apart: whether the artist stands at the other end of the picture.
        favour: added to its score, for layouts that look better where all else is equal.
    """

    name: str
    font: Font
    places: tuple[Place, ...]
    width: float
    height: float
    capital_max: float
    apart: bool = False
    favour: float = 0.0


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "corner",
            SANS,
            (("bottom", "left"), ("top", "left"), ("bottom", "right"), ("top", "right")),
            0.7,
            0.5,
            0.12,
            favour=0.05,
        ),
        Layout("band", SERIF, (("bottom", "centre"), ("top", "centre"), ("middle", "centre")), 0.88, 0.6, 0.12),
        Layout("poster", SANS, (("top", "centre"), ("bottom", "centre")), 0.88, 0.88, 0.18, apart=True),
    )
}
"""by name"""


@dataclass(frozen=True)
class TextBlock:
    """Lines of one size. Pixels of the picture, but `lines`.

    Args:
        size: an em.
        ascent: from the box's top to the first baseline.
        box: left, top, right, bottom.
    """

    kind: TextKind
    lines: tuple[str, ...]
    size: int
    ascent: float
    line_height: float
    align: Align
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Placed:
    """Title and artist at one place. `size_share` is 1 where the title is as large as the layout lets it be."""

    font: Font
    blocks: tuple[TextBlock, ...]
    size_share: float


def set_block(layout: Layout, font: Font, texts: tuple[Words, Words], picture: tuple[int, int]) -> list[Placed]:
    """Title and artist at each place of a layout, as large as fits; empty where they do not fit and stay legible.

    Args:
        texts: words of the title and of the artist.
        picture: width and height in pixels.
    """
    side = min(picture)
    capital = _capital(font)
    least = CAPITAL_MIN / LEGIBLE_SIDE / capital * side
    largest = size = layout.capital_max / capital * side
    while size >= least:
        sizes = (size, max(least, 0.55 * size)) if texts[0] else (size, size)
        rows = [_wrapped(font, words, layout.width * picture[0] / em) for words, em in zip(texts, sizes, strict=True)]
        height = _height(rows, sizes)
        if all(row is not None for row in rows) and height <= layout.height * picture[1]:
            lines = [row or () for row in rows]
            share = size / largest
            return [_placed(layout, font, lines, sizes, picture, place, share) for place in layout.places]
        size *= _STEP
    return []


@cache
def _capital(font: Font) -> float:
    """Height of a capital, in ems."""
    _, top, _, bottom = font.at(_PROBE).getbbox("H", anchor="ls")
    return float(bottom - top) / _PROBE


@cache
def _wide(font: Font, text: str) -> float:
    """Width in ems."""
    left, _, right, _ = font.at(_PROBE).getbbox(text, anchor="ls")
    return float(max(right, 0) - min(left, 0)) / _PROBE


def _wrapped(font: Font, words: Words, width: float) -> tuple[str, ...] | None:
    """Lines of at most `width` ems, as few as can be and then as even as can be; None where a word is wider."""
    lines = _filled(font, words, width)
    if lines is None:
        return None
    for share in (0.55, 0.65, 0.75, 0.85, 0.93):
        narrower = _filled(font, words, width * share)
        if narrower is not None and len(narrower) == len(lines):
            return narrower
    return lines


def _filled(font: Font, words: Words, width: float) -> tuple[str, ...] | None:
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _wide(font, longer) <= width:
            lines[-1] = longer
        elif _wide(font, word) <= width:
            lines.append(word)
        else:
            return None
    return tuple(lines)


def _height(rows: Sequence[tuple[str, ...] | None], sizes: Sequence[float]) -> float:
    lines = sum(len(row or ()) * em * _LEADING for row, em in zip(rows, sizes, strict=True))
    return lines + (_BETWEEN * sizes[1] if all(rows) else 0.0)


def _placed(
    layout: Layout,
    font: Font,
    rows: Sequence[tuple[str, ...]],
    sizes: Sequence[float],
    picture: tuple[int, int],
    place: Place,
    size_share: float,
) -> Placed:
    down, align = place
    margin = _MARGIN * min(picture)
    height = _height(rows, sizes)
    tops = {"top": margin, "middle": (picture[1] - height) / 2, "bottom": picture[1] - margin - height}
    top = tops[down]
    blocks: list[TextBlock] = []
    kinds: tuple[TextKind, TextKind] = ("title", "artist")
    for kind, lines, em in zip(kinds, rows, sizes, strict=True):
        if not lines:
            continue
        own = len(lines) * em * _LEADING
        if kind == "artist" and layout.apart and blocks:
            top = picture[1] - margin - own if down == "top" else margin
        elif layout.apart and down == "bottom":
            top = picture[1] - margin - own
        blocks.append(_block(kind, font, lines, em, align, top, picture[0], margin))
        top += own + _BETWEEN * sizes[1]
    return Placed(font, tuple(blocks), size_share)


def _block(
    kind: TextKind, font: Font, lines: tuple[str, ...], em: float, align: Align, top: float, width: int, margin: float
) -> TextBlock:
    wide = max(_wide(font, line) for line in lines) * em
    left = {"left": margin, "centre": (width - wide) / 2, "right": width - margin - wide}[align]
    line_height = em * _LEADING
    ascent = (line_height + _capital(font) * em) / 2  # capitals in the middle of their line
    return TextBlock(
        kind, lines, int(em), ascent, line_height, align, (left, top, left + wide, top + len(lines) * line_height)
    )
