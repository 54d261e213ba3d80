"""Contact sheet: each row a song, the covers nearest to it, and the new ones generated for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]

_CELL, _GAP, _LABEL, _HEAD = 112, 8, 232, 44  # pixels
_PAPER, _INK, _FAINT = (247, 244, 238), (28, 26, 24), (120, 112, 104)


@dataclass(frozen=True)
class SheetRow:
    """One song."""

    title: str
    subtitle: str
    spectrogram: Pixels
    """uint8 [height, width, 3]"""
    nearest: Sequence[Pixels]
    """covers uint8 [3, S, S], nearest first"""
    new: Sequence[Pixels]
    """covers uint8 [3, S, S]"""


def draw_contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """RGB, one row for each song; all rows show as many covers as the first."""
    nearest, new = len(rows[0].nearest), len(rows[0].new)
    new_at = _LABEL + _CELL + _GAP + nearest * (_CELL + _GAP) + 2 * _GAP
    size = (new_at + new * (_CELL + _GAP) + _GAP, _HEAD + len(rows) * (_CELL + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    heads = (
        (_GAP * 2, "song"),
        (_LABEL, "spectrogram"),
        (_LABEL + _CELL + _GAP, f"{nearest} nearest covers"),
        (new_at, "new covers"),
    )
    for x, text in heads:
        pen.text((x, 16), text, _FAINT, ImageFont.load_default(15))
    for number, row in enumerate(rows):
        top = _HEAD + number * (_CELL + _GAP)
        for text, below, colour, height in ((row.title, 34, _INK, 17), (row.subtitle, 60, _FAINT, 14)):
            font = ImageFont.load_default(height)
            pen.text((_GAP * 2, top + below), _fitted(text, font), colour, font)
        spectrogram = Image.fromarray(row.spectrogram).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
        sheet.paste(spectrogram, (_LABEL, top))
        for place, pixels in enumerate(row.nearest):
            sheet.paste(_cell(pixels), (_LABEL + (place + 1) * (_CELL + _GAP), top))
        for place, pixels in enumerate(row.new):
            sheet.paste(_cell(pixels), (new_at + place * (_CELL + _GAP), top))
    return sheet


def _cell(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).resize(
        (_CELL, _CELL), Image.Resampling.LANCZOS
    )


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the text as there is room for before the spectrogram."""
    text = text[:_LABEL]  # a tag may have any length, and letters are wider than a pixel
    shown, rest = text, len(text)
    while font.getlength(shown) > _LABEL - 3 * _GAP:
        rest -= 1
        shown = text[:rest].rstrip() + "…"
    return shown
