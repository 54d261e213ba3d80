"""Preflight: every rule of a profile that can be measured on a file, with what was found and what is allowed.

It reads any file, of whatever origin, and holds it to limits before decoding. What a person must judge is in
`NOT_MEASURED`.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from PIL import Image, UnidentifiedImageError

from gatefold.errors import PreflightFailed
from gatefold.export.colour import describe, is_srgb
from gatefold.export.disclosure import VOCABULARY, source_type_in
from gatefold.export.profiles import FORMATS, Profile

MAX_PIXELS = 40_000_000
"""width times height that is decoded, as in `cover.max_pixels`"""
NOT_MEASURED = (
    "the rights to everything on it",
    "no text beside title and artist, no logos, no nudity or hate",
    "sharpness; no borders",
    "the same cover on no other release",
)
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_ORIENTATION = 0x0112
_REFUSED_TEXT = {
    "a web address": re.compile(r"https?://|www\.|\b[\w-]+\.(?:com|net|org|io|fm)\b", re.IGNORECASE),
    "a handle or e-mail address": re.compile(r"(?:^|\s)@\w|\w@[\w-]+\.\w"),
    "a price": re.compile(r"[$€£¥]\s?\d|\d\s?[$€£¥]"),
}


@dataclass(frozen=True)
class Check:
    """One rule, and whether a file keeps it."""

    rule: str
    found: str
    allowed: str
    passed: bool


def preflight(data: bytes, profile: Profile, *, title: str | None = None, artist: str | None = None) -> list[Check]:
    """Every rule of a profile on a file; a file that cannot be read has the one rule that it breaks.

    Args:
        title, artist: as they stand on the picture; None where there are none.
    """
    checks = [_within("bytes", len(data), 1, profile.max_bytes)]
    try:
        with Image.open(io.BytesIO(data)) as picture:
            checks += [_format(picture, profile), *_shape(picture, profile)]
            checks += [_mode(picture), _alpha(picture), _profile(picture), _orientation(picture), _frames(picture)]
            checks += [_disclosure(picture), _decoded(picture)]
    except UnidentifiedImageError:
        checks.append(Check("format", f"no picture, beginning {data[:8]!r}", _listed(profile.formats), False))
    except (*_BROKEN, *_BOMB) as error:
        checks.append(Check("decodes", f"no: {error}", "whole", False))
    if profile.is_store:
        checks += [_text(name, text) for name, text in (("title", title), ("artist", artist)) if text]
    return checks


def require(checks: Sequence[Check]) -> None:
    """Raises: PreflightFailed naming each rule that is broken, what was found and what is allowed."""
    if broken := [check for check in checks if not check.passed]:
        raise PreflightFailed("; ".join(f"{one.rule}: found {one.found}, allowed {one.allowed}" for one in broken))


def _within(rule: str, found: int, least: int, most: int) -> Check:
    return Check(
        rule, f"{found:,}", f"{least:,} to {most:,}" if least != most else f"{least:,}", least <= found <= most
    )


def _format(picture: Image.Image, profile: Profile) -> Check:
    found = (picture.format or "").lower()
    return Check("format", found, _listed(profile.formats), found in profile.formats)


def _shape(picture: Image.Image, profile: Profile) -> list[Check]:
    wanted, exact = (
        _ratio(profile.width, profile.height),
        picture.width * profile.height == picture.height * profile.width,
    )
    return [
        _within("width in pixels", picture.width, profile.min_width, profile.max_width),
        Check("width to height", f"{_ratio(*picture.size)} ({picture.width} x {picture.height})", wanted, exact),
    ]


def _ratio(width: int, height: int) -> str:
    common = gcd(width, height) or 1
    return f"{width // common}:{height // common}"


def _mode(picture: Image.Image) -> Check:
    return Check("colour mode", picture.mode, "RGB, 8 bits a channel", picture.mode == "RGB")


def _alpha(picture: Image.Image) -> Check:
    found = picture.has_transparency_data
    return Check("transparency", "yes" if found else "none", "none", not found)


def _profile(picture: Image.Image) -> Check:
    icc = picture.info.get("icc_profile")
    return Check("colour profile", describe(icc) if icc else "none", "sRGB, embedded", icc is not None and is_srgb(icc))


def _orientation(picture: Image.Image) -> Check:
    found = picture.getexif().get(_ORIENTATION, 1)
    return Check("EXIF orientation", str(found), "none, or 1", found == 1)


def _frames(picture: Image.Image) -> Check:
    found = getattr(picture, "n_frames", 1)
    return Check("frames", str(found), "1", found == 1)


def _disclosure(picture: Image.Image) -> Check:
    found = source_type_in(picture)
    passed = found is not None and found.startswith((VOCABULARY, VOCABULARY.replace("http:", "https:")))
    return Check("IPTC digital source type", "none" if found is None else found.removeprefix(VOCABULARY),
                 f"one of {VOCABULARY}", passed)  # fmt: skip


def _decoded(picture: Image.Image) -> Check:
    pixels = picture.width * picture.height
    if pixels > MAX_PIXELS:
        return Check("decodes", f"not tried: {pixels:,} pixels", f"whole, at most {MAX_PIXELS:,} pixels", False)
    try:
        picture.load()
    except _BROKEN as error:
        return Check("decodes", f"no: {error}", "whole", False)
    return Check("decodes", "whole", "whole", True)


def _text(name: str, text: str) -> Check:
    found = [what for what, pattern in _REFUSED_TEXT.items() if pattern.search(text)]
    return Check(
        f"{name} on the picture", " and ".join(found) or "a name", "no addresses, handles or prices", not found
    )


def _listed(formats: Sequence[str]) -> str:
    return " or ".join(one for one in FORMATS if one in formats)
