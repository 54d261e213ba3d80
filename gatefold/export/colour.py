"""sRGB: its ICC profile, whether a profile is that, and pictures brought into it. It knows Pillow's ImageCms alone."""

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms

SAME = 2
"""steps of 255 that the colours of a profile may differ from sRGB's and still be called sRGB"""
_CREATED, _CREATED_BYTES = 24, 12  # place of the date in a profile's header (ICC.1, 7.2.8)


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB; always the same bytes, so its date of creation is left out."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[_CREATED : _CREATED + _CREATED_BYTES] = bytes(_CREATED_BYTES)
    return bytes(made)


def describe(icc: bytes) -> str:
    """The name a profile gives itself, or that it cannot be read."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc))).strip() or "without a name"
    except (ImageCms.PyCMSError, OSError) as error:
        return f"cannot be read ({error})"


def is_srgb(icc: bytes) -> bool:
    """Whether colours through this profile are sRGB's, measured on a grid of 125; False for one that is damaged."""
    steps = np.linspace(0, 255, 5).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    try:
        seen = np.asarray(_transformed(Image.fromarray(grid), icc))
    except (ImageCms.PyCMSError, OSError):
        return False
    return int(np.abs(seen.astype(int) - grid).max()) <= SAME


def to_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """The same colours in sRGB; one without a profile, or with a damaged one, is taken to be sRGB.

    Args:
        picture: RGB.
        icc: the profile that its file has.
    """
    if icc is None or is_srgb(icc):
        return picture
    try:
        return _transformed(picture, icc)
    except (ImageCms.PyCMSError, OSError):  # a profile of another kind of picture than RGB, or none at all
        return picture


def _transformed(picture: Image.Image, icc: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    target = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    changed = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
    assert changed is not None  # it is None only for a change in place
    return changed
