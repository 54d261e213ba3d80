"""From a picture to a file that a store takes: framed, lettered, encoded, disclosed, signed, checked.

picture -> frame -> letter -> encode with ICC and XMP, within the bytes allowed -> sign -> preflight -> file, sidecar
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gatefold.errors import InputError
from gatefold.export.credentials import Signer, reserve_bytes, sign
from gatefold.export.disclosure import Disclosure, png_texts, sidecar, xmp_packet
from gatefold.export.encoding import encode, encode_within, framed
from gatefold.export.lettering import Lettered, letter
from gatefold.export.preflight import Check, preflight, require
from gatefold.export.profiles import Format, Profile


@dataclass(frozen=True)
class Lettering:
    """What is set on the picture; None in the place of either leaves it out."""

    title: str | None
    artist: str | None
    layout: str = "auto"


@dataclass(frozen=True)
class Exported:
    """A file that passed its preflight, and the sidecar to lie beside it."""

    data: bytes
    format: Format
    checks: list[Check]
    sidecar: dict[str, Any]

    @property
    def suffix(self) -> str:
        """As in `.jpg`."""
        return ".jpg" if self.format == "jpeg" else f".{self.format}"


def export_cover(
    picture: Image.Image | NDArray[np.uint8],
    profile: Profile,
    disclosure: Disclosure,
    *,
    lettering: Lettering | None = None,
    signer: Signer | None = None,
    format: Format | None = None,
    quality: int | None = None,
) -> Exported:
    """The file for a profile, its preflight and its sidecar. A picture smaller than the profile is enlarged (Lanczos).

    Args:
        picture: sRGB; pixels are uint8 [3, S, S].
        signer: None leaves the file without content credentials.
        format: one of the profile's; its own when None.
        quality: of JPEG and WebP, 1 to 100; the bytes allowed may lower it.

    Raises: InputError for what the profile or the lettering cannot do; PreflightFailed where a rule stays broken.
    """
    chosen = format or profile.format
    if chosen not in profile.formats:
        raise InputError(f"format = '{chosen}': profile '{profile.name}' takes {', '.join(profile.formats)}")
    opened = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.transpose(1, 2, 0).copy())
    made = framed(opened, profile.width, profile.height)
    lettered = letter(made, lettering.title, lettering.artist, lettering.layout) if lettering else None
    reserved = reserve_bytes(signer, disclosure) if signer else 0
    final, limit = lettered.picture if lettered else made, profile.max_bytes - reserved
    xmp, texts = xmp_packet(disclosure), png_texts(disclosure)
    encoded = encode_within(final, chosen, limit, quality=quality, xmp=xmp, texts=texts)
    data = encoded.data
    if signer:
        data = sign(data, chosen, signer, disclosure, lettered=lettered is not None)
    title, artist = (lettering.title, lettering.artist) if lettering else (None, None)
    checks = preflight(data, profile, title=title, artist=artist)
    require(checks)
    facts = {
        "profile": profile.name,
        "format": chosen,
        "quality": encoded.quality,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": [profile.width, profile.height],
        "enlarged": _enlarged(opened, profile),
        "lettering": _lettering_facts(lettered),
        "content_credentials": signer is not None,
        "preflight": [asdict(check) for check in checks],
    }
    return Exported(data, chosen, checks, sidecar(disclosure, facts))


def _enlarged(picture: Image.Image, profile: Profile) -> dict[str, Any] | None:
    """How far, where the picture was smaller than what was made of it."""
    factor = max(profile.width / picture.width, profile.height / picture.height)
    if factor <= 1:
        return None
    return {"from": list(picture.size), "factor": round(factor, 3), "filter": "Lanczos"}


def _lettering_facts(lettered: Lettered | None) -> dict[str, Any] | None:
    if lettered is None:
        return None
    facts = replace(lettered, contrast=round(lettered.contrast, 2))
    return {name: getattr(facts, name) for name in ("layout", "font", "lines", "contrast", "veil")}


def picture_file(
    pixels: NDArray[np.uint8], size: tuple[int, int], format: Format, quality: int, disclosure: Disclosure
) -> bytes:
    """A new cover to look at, of any size; it discloses its origin, and no store's rules are applied. Equal pixels and
    disclosures always give the same bytes.

    Args:
        pixels: uint8 [3, S, S], RGB.
        size: pixels across and down.
        quality: 1 to 100; PNG has none.
    """
    framed_to_size = framed(Image.fromarray(pixels.transpose(1, 2, 0).copy()), *size)
    return encode(framed_to_size, format, quality, xmp_packet(disclosure), png_texts(disclosure))
