"""From a picture of any size to the bytes of a file: framing, enlarging, encoding, fitting into a limit of bytes."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gatefold.errors import InputError, PreflightFailed
from gatefold.export.colour import srgb_profile
from gatefold.export.profiles import Format

QUALITY_FLOOR, QUALITY = 70, 95
"""JPEG and WebP: what a limit of bytes may lower the quality to, and what is asked for by default"""
_FULL_COLOUR_FROM = 90
"""quality of JPEG from which each pixel keeps its own colour (4:4:4); below, four share one (4:2:0)"""
XMP_OF_PNG = "XML:com.adobe.xmp"
"""keyword of the iTXt chunk that holds XMP in a PNG (XMP specification part 3, 1.1.5)"""


@dataclass(frozen=True)
class Encoded:
    """A file, and the quality it was encoded with; None for PNG."""

    data: bytes
    quality: int | None


def framed(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at this size. Of another shape, the part with the most detail is kept, not distorted.

    Args:
        picture: RGB.
    """
    box = _window(picture, width, height)
    if (box[2] - box[0], box[3] - box[1]) == (width, height):
        return picture.crop(box)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _window(picture: Image.Image, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the largest part of this shape, placed where neighbouring pixels differ most."""
    scale = min(picture.width / width, picture.height / height)
    kept_width, kept_height = round(width * scale), round(height * scale)
    small = np.asarray(picture.convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
    across = picture.width > kept_width
    detail = np.abs(np.diff(small, axis=1 if across else 0)).sum(axis=0 if across else 1)
    whole, kept = (picture.width, kept_width) if across else (picture.height, kept_height)
    if whole == kept:
        return 0, 0, kept_width, kept_height
    shown = max(1, round(kept / whole * len(detail)))
    sums = np.convolve(detail, np.ones(shown), "valid")
    middle = (len(sums) - 1) / 2
    best = max(range(len(sums)), key=lambda at: (round(float(sums[at]), 6), -abs(at - middle)))
    start = min(round(best / len(detail) * whole), whole - kept)
    return (start, 0, start + kept, kept_height) if across else (0, start, kept_width, start + kept)


def encode(
    picture: Image.Image, format: Format, quality: int, xmp: bytes | None = None, texts: Mapping[str, str] | None = None
) -> bytes:
    """A file with the ICC profile of sRGB; the same pixels always give the same bytes.

    Args:
        picture: RGB.
        quality: 1 to 100; PNG has none.
        xmp: a packet to embed.
        texts: by keyword, written into a PNG; Latin-1 keywords, any text.
    """
    sink = io.BytesIO()
    icc = srgb_profile()
    if format == "png":
        chunks = PngInfo()
        for keyword, text in (texts or {}).items():
            chunks.add_itxt(keyword, text)
        if xmp:
            chunks.add_itxt(XMP_OF_PNG, xmp.decode())
        picture.save(sink, "PNG", icc_profile=icc, pnginfo=chunks, compress_level=6)
    elif format == "webp":
        picture.save(sink, "WEBP", quality=quality, method=4, icc_profile=icc, xmp=xmp or b"")
    else:
        subsampling = 0 if quality >= _FULL_COLOUR_FROM else 2
        beside = {"xmp": xmp} if xmp else {}
        picture.save(sink, "JPEG", quality=quality, subsampling=subsampling, icc_profile=icc, **beside)
    return sink.getvalue()


def encode_within(
    picture: Image.Image,
    format: Format,
    max_bytes: int,
    *,
    quality: int | None = None,
    xmp: bytes | None = None,
    texts: Mapping[str, str] | None = None,
) -> Encoded:
    """The file of the best quality, up to the one asked for, that has at most `max_bytes`; `xmp` and `texts` as for
    `encode`.

    Raises: InputError for a quality out of range; PreflightFailed where even QUALITY_FLOOR (or a PNG) is larger.
    """
    wanted = QUALITY if quality is None else quality
    if not 1 <= wanted <= 100:
        raise InputError(f"quality = {wanted} must be 1 to 100")
    data = encode(picture, format, wanted, xmp, texts)
    if len(data) <= max_bytes:
        return Encoded(data, None if format == "png" else wanted)
    best: Encoded | None = None
    low, high = QUALITY_FLOOR, wanted - 1
    while format != "png" and low <= high:
        middle = (low + high + 1) // 2 if best else low  # the floor first: it decides whether any fits
        tried = encode(picture, format, middle, xmp)
        if len(tried) <= max_bytes:
            best, low = Encoded(tried, middle), middle + 1
        else:
            data, high = tried, middle - 1
            if middle == QUALITY_FLOOR:
                break
    if best is None:
        least = "PNG" if format == "png" else f"{format} at quality {min(wanted, QUALITY_FLOOR)}"
        advice = "ask for jpeg" if format == "png" else "ask for a smaller size or a picture with less noise"
        raise PreflightFailed(f"bytes: {picture.width} x {picture.height} pixels as {least} are {len(data):,} bytes, "
                              f"allowed {max_bytes:,} beside credentials; {advice}")  # fmt: skip
    return best
