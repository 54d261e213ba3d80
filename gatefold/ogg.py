"""Pages of an ogg file: whether what was read of it shows one stream from its beginning to its end.

Files are joined by writing one behind another (a chain), and cut from live streams, whose places count from elsewhere.
Knows no decoder.
"""

import statistics
import struct
from dataclasses import dataclass
from itertools import pairwise

from gatefold.ranged import RangedFile

_BEGINS = 2  # flag of a page with which a stream begins
_NO_PLACE = (1 << 64) - 1  # of a page in which no packet ends
_MOST_HEADER_BYTES = 27 + 255
_MOST_PAGE_BYTES = _MOST_HEADER_BYTES + 255 * 255
_UNEVEN, _UNSEEN = 0.1, 0.02  # share of what was not read, and of the file, by which sizes of pages may mislead


@dataclass(frozen=True)
class Page:
    """A page: its first byte, its size in bytes, the stream it is of, its number there, and where that stream is."""

    start: int
    size: int
    begins: bool
    stream: int
    number: int
    place: int | None
    """samples at its end, as the codec counts them; None where no packet ends in it"""


def pages(data: bytes, start: int = 0) -> list[Page]:
    """All pages that begin in these bytes, which stand at byte `start` of the file."""
    found = []
    at = data.find(b"OggS")
    while at >= 0:
        head = data[at : at + 27]
        if len(head) == 27 and head[4] == 0 and head[5] < 8:
            place, stream, number = struct.unpack("<QII", head[6:22])
            sizes = data[at + 27 : at + 27 + head[26]]
            if len(sizes) < head[26]:
                break
            size = 27 + head[26] + sum(sizes)
            ends = None if place == _NO_PLACE else place
            found.append(Page(start + at, size, bool(head[5] & _BEGINS), stream, number, ends))
            at = data.find(b"OggS", at + (size if data[at + size : at + size + 4] == b"OggS" else 4))
        else:
            at = data.find(b"OggS", at + 4)
    return found


def is_one_stream(file: RangedFile) -> bool:
    """Whether all pages that were read so far, and the last, are of streams that begin together at the first byte.

    Joined files show themselves by a second beginning, by pages of another stream, or by numbers that do not rise
    evenly with the bytes; where they do not, all of the file is read to be sure.
    """
    seen = _seen(file)
    if not seen or seen[-1].start + seen[-1].size < file.size:
        file.seek(max(0, file.size - _MOST_PAGE_BYTES))
        file.read(_MOST_PAGE_BYTES)
        file.check()
        seen = _seen(file)
    if not _begins_once(seen):
        return False
    return _rises_evenly(seen, file.size) or _rises(_walked(file))


def _seen(file: RangedFile) -> list[Page]:
    found = [page for start, data in file.segments() for page in pages(data, start)]
    return sorted(found, key=lambda page: page.start)


def _begins_once(seen: list[Page]) -> bool:
    first = next((place for place, page in enumerate(seen) if not page.begins), len(seen))
    streams = {page.stream for page in seen[:first]}
    return not any(page.begins or page.stream not in streams for page in seen[first:])


def _rises_evenly(seen: list[Page], total: int) -> bool:
    """Whether the pages that were not read may be as many as the numbers say."""
    if len({page.stream for page in seen}) > 1:
        return False
    usual = statistics.median(page.size for page in seen) if seen else 0  # the first and the last are small
    for one, other in pairwise(seen):
        missing, between = other.number - one.number - 1, other.start - one.start - one.size
        if missing < 0 or between - missing * usual > _UNEVEN * missing * usual + _UNSEEN * total:
            return False
    return True


def _rises(walked: list[Page]) -> bool:
    """Whether the streams begin once, and the numbers of each rise to its end."""
    last: dict[int, int] = {}
    for page in walked:
        if page.number <= last.get(page.stream, -1):
            return False
        last[page.stream] = page.number
    return _begins_once(walked)


def _walked(file: RangedFile) -> list[Page]:
    """Every page, found from the one before it, or by looking for it where something else stands between."""
    found: list[Page] = []
    at = 0
    while at < file.size:
        file.seek(at)
        file.expect(file.size - at)
        data = file.read(_MOST_PAGE_BYTES)
        file.check()
        here = pages(data, at)
        found += here
        behind = here[-1].start + here[-1].size if here else 0
        at = max(at + max(1, len(data) - _MOST_HEADER_BYTES), behind)
    return found
