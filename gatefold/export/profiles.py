"""What stores, distributors and social networks demand of a picture file, and what is made for each of them.

Sources: help pages of labelcaster, imusician, freshtunes and DistroKid for size, shape, colour and bytes; Spotify's
cover art guide for 640 to 10,000 pixels, sRGB, 24 bits and no orientation. Spotify's 4 MB come from others, and so do
Bandcamp's 1,400 pixels. Where a destination names no limit of bytes, that of most distributors stands, 10 MB.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from gatefold.errors import InputError

Format = Literal["png", "jpeg", "webp"]
ProfileName = Literal["spotify", "apple", "distrokid", "bandcamp", "social-9x16", "social-16x9"]
FORMATS: tuple[Format, ...] = get_args(Format)
SIDE_MIN, SIDE_MAX = 16, 3000
"""pixels a side of a picture without a profile"""
_MB = 1_000_000


@dataclass(frozen=True)
class Profile:
    """One destination.

    Args:
        width, height: pixels of what is made for it.
        format: of what is made for it, unless another of `formats` is asked for.
        formats: that it accepts.
        min_width, max_width: pixels that it accepts; the ratio of the sides is that of width and height.
        max_bytes: that a file may have.
        is_store: whether title and artist are held to the rules of stores.
        is_named: whether it is one of PROFILES.
    """

    name: str
    width: int
    height: int
    format: Format
    formats: tuple[Format, ...]
    min_width: int
    max_width: int
    max_bytes: int
    is_store: bool = True
    is_named: bool = True


_ALL = (
    Profile("spotify", 3000, 3000, "jpeg", ("jpeg", "png"), 640, 10_000, 4 * _MB),
    Profile("apple", 3000, 3000, "jpeg", ("jpeg", "png"), 3000, 10_000, 10 * _MB),
    Profile("distrokid", 3000, 3000, "jpeg", ("jpeg",), 1000, 10_000, 10 * _MB),
    Profile("bandcamp", 3000, 3000, "jpeg", ("jpeg", "png"), 1400, 10_000, 10 * _MB),
    Profile("social-9x16", 1080, 1920, "jpeg", ("jpeg", "png"), 540, 2160, 5 * _MB, is_store=False),
    Profile("social-16x9", 1920, 1080, "jpeg", ("jpeg", "png"), 960, 3840, 5 * _MB, is_store=False),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}
"""by name, those of `ProfileName`"""


def profile_named(name: str) -> Profile:
    """Raises: InputError naming those there are."""
    if name not in PROFILES:
        raise InputError(f"profile = '{name[:80]}': there are {', '.join(PROFILES)}")
    return PROFILES[name]


def plain(size: int, format: Format = "png") -> Profile:
    """A square of this size, for no destination in particular. Raises: InputError for a size out of range."""
    if not SIDE_MIN <= size <= SIDE_MAX:
        raise InputError(f"size = {size} must be {SIDE_MIN} to {SIDE_MAX} pixels a side")
    return Profile(f"{size}x{size}", size, size, format, FORMATS, size, size, 40 * _MB, is_store=False, is_named=False)
