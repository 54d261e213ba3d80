"""Pictures: from the bytes of any cover to the square the models see, and from a generated square to a file.

Shape legend: S = pixels a side. It knows Pillow, and no place where covers are kept.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from gatefold.config import CoverSettings
from gatefold.errors import EmptyFile, TooLarge, UndecodableCover

if TYPE_CHECKING:  # who decodes covers needs none of it, and it takes seconds
    from torch import Tensor

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)
"""All that Pillow's decoders raise on bytes that are not what they claim."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks of a PNG that say what its pixels are; another says how it is to be held."""
_ORIENTATION = 0x0112  # tag of EXIF
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def decode_cover(data: bytes, cover: CoverSettings) -> NDArray[np.uint8]:
    """The square in the middle of a picture, uint8 [3, S, S] with S = `cover.size`; see `decode_at`."""
    return decode_at(data, cover, cover.size)[0]


def decode_at(data: bytes, cover: CoverSettings, size: int) -> tuple[NDArray[np.uint8], int]:
    """The square in the middle of a picture, and the length of its side in the file.

    EXIF orientation is honoured, transparency lies over white, of an animation the first frame counts.

    Args:
        data: an encoded JPEG, PNG, WebP, GIF or BMP.
        cover: the limits that it is held to.
        size: pixels a side of the square; a smaller picture is enlarged.

    Returns: uint8 [3, size, size], RGB; pixels of the file's shorter side.
    Raises: EmptyFile; TooLarge, before decoding, for bytes or pixels above the limits; UndecodableCover.
    """
    if not data:
        raise EmptyFile("cover: the file is empty; replace it by a JPEG, PNG, WebP, GIF or BMP")
    if len(data) > cover.max_bytes:
        raise TooLarge(f"cover: {len(data):,} bytes, limit {cover.max_bytes:,}; shrink it or raise cover.max_bytes")
    try:
        with Image.open(io.BytesIO(_pixels_alone(data)), formats=_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > cover.max_pixels:
                raise TooLarge(f"cover: {picture.width} x {picture.height} pixels, limit {cover.max_pixels:,} in all; "
                               "shrink it or raise cover.max_pixels")
            side = min(picture.size)
            picture.draft(None, (2 * size, 2 * size))  # a JPEG decoder skips detail that would be averaged away
            square = _square(_over_white(_upright(picture)), size)
    except _BOMB as error:
        raise TooLarge(f"cover: {error}; limit {cover.max_pixels:,} pixels (cover.max_pixels)") from error
    except UnidentifiedImageError as error:
        raise UndecodableCover(f"cover: {len(data):,} bytes beginning {data[:8]!r} are no picture; "
                               "allowed: JPEG, PNG, WebP, GIF, BMP") from error
    except _BROKEN as error:
        raise UndecodableCover(f"cover: the picture is damaged or cut short ({error}); replace it") from error
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), side


def to_model(pixels: "Tensor") -> "Tensor":
    """float32 [..., 3, S, S] in [-1, 1], which is what the models take.

    Args:
        pixels: uint8 [..., 3, S, S].
    """
    return pixels.float() / 127.5 - 1.0


def to_pixels(values: "Tensor") -> "Tensor":
    """uint8 [..., 3, S, S]. Inverse of `to_model`.

    Args:
        values: float [..., 3, S, S]; clipped to [-1, 1].
    """
    return ((values.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte()


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The same pictures at another size: each new pixel is the average of those it covers, or Lanczos where S is less.

    Args:
        pixels: uint8 [..., 3, S, S], RGB; returned as they are, not copied, where S is `size`.
        size: pixels a side.

    Returns: uint8 [..., 3, size, size].
    """
    side = pixels.shape[-1]
    if side == size:
        return pixels
    filter = Image.Resampling.BOX if size < side else Image.Resampling.LANCZOS
    result = np.empty((int(np.prod(pixels.shape[:-2])), size, size), np.uint8)
    for number, channel in enumerate(np.ascontiguousarray(pixels).reshape(-1, side, side)):
        plane = Image.fromarray(channel)
        whole = side % size == 0  # averaged in one pass, which takes a third of the time of two
        result[number] = np.asarray(plane.reduce(side // size) if whole else plane.resize((size, size), filter))
    return result.reshape(*pixels.shape[:-2], size, size)


def encode_picture(
    pixels: NDArray[np.uint8], size: int, format: Literal["png", "jpeg"], texts: Mapping[str, str] | None = None
) -> bytes:
    """A picture file of `size` pixels a side; the same pixels always give the same bytes.

    Args:
        pixels: uint8 [3, S, S], RGB.
        size: pixels a side, larger or smaller than S.
        texts: by keyword, written into a PNG; Latin-1 keywords, any text.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    if format == "png":
        chunks = PngInfo()
        for keyword, text in (texts or {}).items():
            chunks.add_itxt(keyword, text)
        picture.save(sink, "PNG", pnginfo=chunks)
    else:
        picture.save(sink, "JPEG", quality=92, subsampling=0)
    return sink.getvalue()


def _pixels_alone(data: bytes) -> bytes:
    """A PNG without its texts, times and profiles, which may be damaged or huge where the pixels are fine."""
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunk = data[at : at + 12 + length]
        name, checksum = chunk[4:8], zlib.crc32(chunk[4:-4]).to_bytes(4, "big") if chunk[4:8] == b"eXIf" else b""
        if name in _PNG_PIXELS or (name == b"eXIf" and checksum == chunk[-4:]):
            kept.append(chunk)
        at += 12 + length
    return b"".join(kept)


def _upright(picture: Image.Image) -> Image.Image:
    """As EXIF says it is to be held; as it lies where EXIF cannot be read."""
    try:
        picture.getexif().get(_ORIENTATION)
    except _BROKEN:
        return picture
    return ImageOps.exif_transpose(picture)


def _over_white(picture: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which convert() would clip instead of scale
        grey = np.asarray(picture).astype(np.int64).clip(0, 65_535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
