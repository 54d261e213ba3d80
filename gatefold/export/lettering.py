"""Title and artist on a picture: where they are legible, how large, in which colour. Layouts are in `layouts.py`.

Shape legend: H, W = pixels of the reduced picture that places are judged on, its shorter side JUDGED_SIDE.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from gatefold.errors import InputError, UnsupportedText
from gatefold.export.fonts import Font, font_for, has_shaping
from gatefold.export.layouts import LAYOUTS, Layout, Placed, TextBlock, set_block

CONTRAST_MIN = 4.5
"""WCAG contrast of text and what lies behind it, at all but a twentieth of the place; a veil brings it about"""
JUDGED_SIDE = 256
_INKS: tuple[tuple[int, int, int], ...] = ((255, 255, 255), (17, 17, 17))
_VEILS = tuple(step / 20 for step in range(20))
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Lettered:
    """A picture with its title and artist.

    Args:
        lines: of the title, then of the artist, as they were set.
        contrast: WCAG contrast of text and background, worst twentieth left out.
        veil: 0 to 1, how far the background was darkened or lightened behind the text.
    """

    picture: Image.Image
    layout: str
    font: str
    lines: tuple[tuple[str, ...], tuple[str, ...]]
    contrast: float
    veil: float


@dataclass(frozen=True)
class _Group:
    """Blocks that stand together and so have one ink."""

    blocks: tuple[TextBlock, ...]
    ink: tuple[int, int, int]
    veil: float
    contrast: float
    unrest: float
    """mean difference of neighbouring pixels behind them"""


@dataclass(frozen=True)
class _Choice:
    placed: Placed
    layout: Layout
    groups: tuple[_Group, ...]
    score: float


def letter(
    picture: Image.Image,
    title: str | None,
    artist: str | None,
    layout: str = "auto",
    *,
    shaping: bool | None = None,
) -> Lettered:
    """The picture with title and artist, spelled as given: lines break at spaces alone and no letter changes its case.

    The place is the calmest with the most contrast of those that the layout has, or that any has.

    Args:
        picture: RGB; not changed.
        title, artist: either may be None, not both.
        layout: one of LAYOUTS, or auto.
        shaping: whether Pillow can set right-to-left and joined scripts; looked up when None.

    Raises: InputError for another layout, no text, or text too long to be legible at 64 pixels; UnsupportedText for
        characters that no font has.
    """
    texts = _words_of("title", title), _words_of("artist", artist)
    if not any(texts):
        raise InputError("lettering: neither title nor artist was given")
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"layout = '{layout[:80]}': there are auto, {', '.join(LAYOUTS)}")
    tried = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    able = has_shaping() if shaping is None else shaping
    luminance = _luminance(picture)
    choices = []
    for one in tried:
        font = font_for([word for words in texts for word in words], one.font, shaping=able)
        _check_ink(font, texts)
        choices += [_judged(placed, one, luminance, picture) for placed in set_block(one, font, texts, picture.size)]
    if not choices:
        length = len(" ".join(texts[0])) + len(" ".join(texts[1]))
        raise InputError(f"layout = '{layout}': title and artist, {length} characters, are too long to be legible at "
                         "64 pixels; shorten them, take another layout, or export without lettering")  # fmt: skip
    return _drawn(picture, max(choices, key=lambda choice: choice.score))


def _words_of(name: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    wrong = next((one for one in text if one != " " and unicodedata.category(one) in ("Cc", "Zl", "Zp")), None)
    if wrong is not None:
        raise UnsupportedText(f"{name} holds U+{ord(wrong):04X}, a line break or control character; leave it out")
    words = tuple(text.split(" "))
    if not all(words):
        raise InputError(
            f"{name} = '{text[:80]}' is empty, or has a space at an end or two in a row; as in the release"
        )
    return words


def _check_ink(font: Font, texts: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Unicode has blanks in many categories, letters among them."""
    for name, words in zip(("title", "artist"), texts, strict=True):
        if words and font.at(32).getmask(" ".join(words)).getbbox() is None:
            raise InputError(f"{name} = {' '.join(words)[:80]!a}: these characters leave no mark; leave it out")


def _luminance(picture: Image.Image) -> Values:
    """WCAG relative luminance [H, W] of the reduced picture."""
    return _relative(np.asarray(picture.resize(_judged_size(picture), Image.Resampling.BOX), np.float64))


def _judged_size(picture: Image.Image) -> tuple[int, int]:
    scale = JUDGED_SIDE / min(picture.size)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _relative(rgb: Values) -> Values:
    """Source: WCAG 2.2, "relative luminance"."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    weighted: Values = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighted


def _judged(placed: Placed, layout: Layout, luminance: Values, picture: Image.Image) -> _Choice:
    scale = JUDGED_SIDE / min(picture.size)
    together = [(block,) for block in placed.blocks] if layout.apart else [placed.blocks]
    groups = tuple(_grouped(blocks, luminance, scale) for blocks in together)
    legible = min(group.contrast for group in groups) / 12
    spoilt = max(6 * group.unrest + group.veil for group in groups)
    return _Choice(placed, layout, groups, min(legible, 1.0) - spoilt + 0.5 * placed.size_share + layout.favour)


def _grouped(blocks: tuple[TextBlock, ...], luminance: Values, scale: float) -> _Group:
    """The better of the inks for these blocks, and the weakest veil that gives it the contrast it needs."""
    parts = []
    for block in blocks:
        left, top, right, bottom = (max(0, round(value * scale)) for value in block.box)
        parts.append(luminance[top : max(bottom, top + 1), left : max(right, left + 1)])
    behind = np.concatenate([part.ravel() for part in parts])
    detail = np.concatenate([np.abs(np.diff(np.sqrt(part), axis=axis)).ravel() for part in parts for axis in (0, 1)])
    options = [(*_veiled(behind, ink), ink) for ink in _INKS]
    veil, contrast, ink = min(options, key=lambda option: (option[0], -option[1]))
    return _Group(blocks, ink, veil, contrast, float(detail.mean()) if len(detail) else 0.0)


def _veiled(behind: Values, ink: tuple[int, int, int]) -> tuple[float, float]:
    """The weakest veil, 0 to 1, under which text in this ink has CONTRAST_MIN, and the contrast it has then."""
    own = float(_relative(np.array(ink, np.float64)))
    grey = np.sqrt(behind)  # close enough to the display's curve to mix in
    veil_grey = 0.0 if own > 0.5 else 1.0
    contrast = 0.0
    for veil in _VEILS:
        mixed = ((1 - veil) * grey + veil * veil_grey) ** 2
        light, dark = np.maximum(mixed, own) + 0.05, np.minimum(mixed, own) + 0.05
        contrast = float(np.quantile(light / dark, 0.05))
        if contrast >= CONTRAST_MIN:
            return veil, contrast
    return _VEILS[-1], contrast


def _drawn(picture: Image.Image, choice: _Choice) -> Lettered:
    result = picture.copy()
    for group in choice.groups:  # all of them before any text, which none may cover
        if group.veil:
            result = _with_veil(result, group)
    draw = ImageDraw.Draw(result)
    for group in choice.groups:
        for block in group.blocks:
            _draw_block(draw, block, choice.placed.font, group.ink)
    by_kind = {block.kind: block.lines for block in choice.placed.blocks}
    lines = by_kind.get("title", ()), by_kind.get("artist", ())
    contrast, veil = min(group.contrast for group in choice.groups), max(group.veil for group in choice.groups)
    return Lettered(result, choice.layout.name, choice.placed.font.name, lines, contrast, veil)


def _draw_block(draw: ImageDraw.ImageDraw, block: TextBlock, font: Font, ink: tuple[int, int, int]) -> None:
    face = font.at(block.size)
    left, top, right, _ = block.box
    across = {"left": left, "centre": (left + right) / 2, "right": right}[block.align]
    anchor = {"left": "ls", "centre": "ms", "right": "rs"}[block.align]
    for number, line in enumerate(block.lines):
        draw.text((across, top + block.ascent + number * block.line_height), line, fill=ink, font=face, anchor=anchor)


def _with_veil(picture: Image.Image, group: _Group) -> Image.Image:
    """The picture darkened (under light text) or lightened behind the blocks, with soft edges outside of them."""
    width, height = _judged_size(picture)
    scale = JUDGED_SIDE / min(picture.size)
    mask = Image.new("L", (width, height), 0)
    edge = JUDGED_SIDE // 20
    for block in group.blocks:
        left, top, right, bottom = (value * scale for value in block.box)
        box = (left - 2 * edge, top - 2 * edge, right + 2 * edge, bottom + 2 * edge)
        ImageDraw.Draw(mask).rectangle(box, fill=round(255 * min(1.0, group.veil + 0.05)))
    soft = mask.filter(ImageFilter.GaussianBlur(edge))
    colour = (0, 0, 0) if group.ink[0] > 128 else (255, 255, 255)
    veil = Image.new("RGB", picture.size, colour)
    return Image.composite(veil, picture, soft.resize(picture.size, Image.Resampling.BICUBIC))
