"""The fonts that titles are set in, which characters each of them has, and what a text needs of the layout engine.

Their files and licences lie in the folder `fonts` of this package, as they are published.
"""

import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from PIL import ImageFont, features

from gatefold.errors import UnsupportedText

_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_JOINERS = "\u200c\u200d"
"""the two format characters that spelling needs, as in Persian"""
_SHOWN = 12


@dataclass(frozen=True)
class Font:
    """A font file of this package."""

    name: str
    file: str

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font, `size` pixels an em. With the layout engine that shapes every script, where Pillow has it."""
        engine = ImageFont.Layout.RAQM if has_shaping() else ImageFont.Layout.BASIC
        return ImageFont.truetype(str(_path(self.file)), size, layout_engine=engine)

    def missing(self, text: str) -> list[str]:
        """Characters of the text, composed as far as Unicode can, that the font lacks; each once."""
        known = _characters(self.file)
        composed = unicodedata.normalize("NFC", text)
        return [one for one in dict.fromkeys(composed) if ord(one) not in known and one not in " " + _JOINERS]


SANS = Font("Manrope ExtraBold", "Manrope-ExtraBold.ttf")
SERIF = Font("Noto Serif Bold", "NotoSerif-Bold.ttf")
WIDE = Font("DejaVu Sans Bold", "DejaVuSans-Bold.ttf")
"""the one with the most scripts"""
FONTS = (SANS, SERIF, WIDE)


def has_shaping() -> bool:
    """Whether Pillow can set right-to-left scripts, joined letters and combining marks (Raqm with FriBiDi)."""
    return bool(features.check("raqm"))


def font_for(texts: Sequence[str], preferred: Font, *, shaping: bool) -> Font:
    """The preferred font if it has all characters, else the first that has.

    Args:
        shaping: what `has_shaping` says.

    Raises: UnsupportedText naming the characters that cannot be set, and why.
    """
    whole = "".join(texts)
    _check_characters(whole)
    order = sorted(FONTS, key=lambda font: font is not preferred)
    lacking = {font: font.missing(whole) for font in order}
    found = next((font for font in order if not lacking[font]), None)
    if found is None:
        fewest = min(lacking.values(), key=len)
        names = ", ".join(font.name for font in FONTS)
        raise UnsupportedText(f"no font has {_named(fewest)}; the fonts are {names}. Export without lettering, or "
                              "with a title and artist in their characters")  # fmt: skip
    if not shaping and (complex_ones := [one for one in dict.fromkeys(whole) if _needs_shaping(one)]):
        raise UnsupportedText(f"{_named(complex_ones)} are written from right to left, joined or combined, which "
                              "Pillow cannot set here; install FriBiDi (Debian: libfribidi0)")  # fmt: skip
    return found


def _check_characters(text: str) -> None:
    """Raises: UnsupportedText for what is no letter, mark, digit, sign or space, such as line breaks."""
    wrong = [one for one in dict.fromkeys(text) if unicodedata.category(one)[0] == "C" and one not in _JOINERS]
    wrong += [one for one in dict.fromkeys(text) if unicodedata.category(one) in ("Zl", "Zp")]
    if wrong:
        raise UnsupportedText(f"title and artist hold {_named(wrong)}, which cannot be written; leave them out")


def _needs_shaping(one: str) -> bool:
    return unicodedata.bidirectional(one) in _RIGHT_TO_LEFT or unicodedata.category(one)[0] == "M" or one in _JOINERS


def _named(characters: Sequence[str]) -> str:
    """As in `'界' (U+754C)`."""
    shown = [f"{one!r} (U+{ord(one):04X})" for one in characters[:_SHOWN]]
    more = len(characters) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _path(file: str) -> object:
    return resources.files("gatefold.export").joinpath("fonts", file)


@cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a TrueType or OpenType font maps to a glyph (table `cmap`, formats 4 and 12).

    Source: OpenType specification, "cmap - Character to Glyph Index Mapping Table".
    """
    data = resources.files("gatefold.export").joinpath("fonts", file).read_bytes()
    tables = struct.unpack(">H", data[4:6])[0]
    entries = {
        data[at : at + 4]: struct.unpack(">I", data[at + 8 : at + 12])[0] for at in range(12, 12 + 16 * tables, 16)
    }
    cmap = entries[b"cmap"]
    count = struct.unpack(">H", data[cmap + 2 : cmap + 4])[0]
    offsets = {cmap + struct.unpack(">I", data[at : at + 4])[0] for at in range(cmap + 8, cmap + 8 + 8 * count, 8)}
    found: set[int] = set()
    for offset in sorted(offsets):
        format = struct.unpack(">H", data[offset : offset + 2])[0]
        if format == 4:
            found |= _format_4(data, offset)
        elif format == 12:
            groups = struct.unpack(">I", data[offset + 12 : offset + 16])[0]
            table = np.frombuffer(data, ">u4", 3 * groups, offset + 16).reshape(groups, 3)
            found.update(code for first, last, _ in table.tolist() for code in range(first, last + 1))
    return frozenset(found)


def _format_4(data: bytes, offset: int) -> set[int]:
    segments = struct.unpack(">H", data[offset + 6 : offset + 8])[0] // 2
    ends = np.frombuffer(data, ">u2", segments, offset + 14)
    starts = np.frombuffer(data, ">u2", segments, offset + 16 + 2 * segments)
    deltas = np.frombuffer(data, ">u2", segments, offset + 16 + 4 * segments)
    at = offset + 16 + 6 * segments
    ranges = np.frombuffer(data, ">u2", segments, at)
    found = set()
    for number in range(segments):
        for code in range(int(starts[number]), int(ends[number]) + 1):
            glyph = code
            if ranges[number]:
                place = at + 2 * number + int(ranges[number]) + 2 * (code - int(starts[number]))
                glyph = struct.unpack(">H", data[place : place + 2])[0]
            if (glyph + int(deltas[number])) % 65_536 and code != 0xFFFF:
                found.add(code)
    return found
