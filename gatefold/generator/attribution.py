"""Attribution of a generated cover's pixels to its sources: shares, connected regions, and a picture of the map.

Shape legend: N = sources, G = pixels a side of the cover.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from gatefold.generator.interface import Attribution, Share

MAP_SIZE = 256
"""pixels a side, at most, of the map's picture"""
_SHOWN = 256  # sources that an indexed picture has room for
_GOLDEN = 0.6180339887498949  # hues in steps of this share of the circle stay far apart


def attribute(
    song_ids: Sequence[str], share: npt.NDArray[np.float64], holder: npt.NDArray[np.integer]
) -> Attribution:
    """The attribution of a cover by the sources' shares and the map of who holds each pixel.

    Args:
        song_ids: [N].
        share: [N], summing to 1.
        holder: [G, G], number of the source that holds most of a pixel.

    Returns: sources with a share of at least 1e-4 or a pixel, at most 256, the largest share first; their shares are
        brought to a sum of 1.
    """
    holds = np.bincount(holder.ravel(), minlength=len(share)) > 0
    order = np.argsort(-np.where(holds, 2.0, 0.0) - share, kind="stable")[:_SHOWN]  # those with pixels first
    kept = order[(share[order] >= 1e-4) | holds[order]]
    kept = kept[np.argsort(-share[kept], kind="stable")]
    place = np.zeros(len(share), np.uint8)
    place[kept] = np.arange(len(kept))
    total = share[kept].sum()
    regions = {number: largest_region(holder == number) for number in kept if holds[number]}
    shares = tuple(Share(song_ids[n], float(share[n] / total), regions.get(n, 0.0)) for n in kept.tolist())
    return Attribution(shares, place[holder])


def largest_region(mask: npt.NDArray[np.bool_]) -> float:
    """The largest connected region, as a share of all pixels, 0 to 1; pixels touch at their sides.

    Args:
        mask: bool [G, G], true in the regions.
    """
    labels, count = ndimage.label(mask)
    return float(np.bincount(labels.ravel())[1:].max() / mask.size) if count else 0.0


def colours(count: int) -> list[tuple[int, int, int]]:
    """RGB of each of so many sources on the map; no two are the same."""
    found: list[tuple[int, int, int]] = []
    for number in range(count):
        hue, light = number * _GOLDEN % 1.0, (210, 150, 255, 110)[number // 16 % 4]
        red, green, blue = (np.clip(abs(((hue + turn) % 1.0) * 6 - 3) - 1, 0.15, 1) for turn in (0.0, 2 / 3, 1 / 3))
        colour = (int(red * light), int(green * light), int(blue * light))
        while colour in found:
            colour = (colour[0], colour[1], (colour[2] + 1) % 256)
        found.append(colour)
    return found


def draw_map(attribution: Attribution) -> bytes:
    """A PNG, at most MAP_SIZE pixels a side, in which each pixel has the colour of the source that holds it."""
    holder = attribution.holder
    step = max(1, -(-holder.shape[0] // MAP_SIZE))
    picture = Image.fromarray(np.ascontiguousarray(holder[step // 2 :: step, step // 2 :: step]), mode="P")
    picture.putpalette([value for colour in colours(len(attribution.shares)) for value in colour])
    sink = io.BytesIO()
    picture.convert("RGB").save(sink, "PNG")
    return sink.getvalue()
