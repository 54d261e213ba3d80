"""Pages of an ogg file: whether what was read of it shows one stream from its beginning to its end.

Files are joined by writing one behind another (a chain), and cut from live streams, whose places count from elsewhere.
Knows no decoder.
"""

import statistics
import struct
from itertools import pairwise
from typing import NamedTuple

from gatefold.ranged import RangedFile

_MARK = b"OggS"
_BEGINS = 2  # flag of a page with which a stream begins
_NO_PLACE = (1 << 64) - 1  # of a page in which no packet ends
_MOST_HEADER_BYTES = 27 + 255
_MOST_PAGE_BYTES = _MOST_HEADER_BYTES + 255 * 255
_BACKWARDS = 1 << 20  # bytes that are looked through at a time for the last page
_MOST_BEHIND = 1 << 24  # bytes behind the last page that are passed over
_UNEVEN, _UNSEEN = 0.1, 0.02  # share of what was not read, and of the file, by which sizes of pages may mislead


class Page(NamedTuple):
    """A page: its first byte, its size in bytes, the stream it is of, its number there, and where that stream is."""

    start: int
    size: int
    begins: bool
    stream: int
    number: int
    place: int | None
    """samples at its end, as the codec counts them; None where no packet ends in it"""


def pages(data: bytes, start: int = 0) -> list[Page]:
    """All pages that begin in these bytes, which begin at byte `start` of the file."""
    found = []
    at = data.find(_MARK)
    while at >= 0:
        page = _page(data, at, start)
        if page is not None:
            found.append(page)
            at = data.find(_MARK, at + (page.size if data.startswith(_MARK, at + page.size) else 4))
        else:
            at = data.find(_MARK, at + 4)
    return found


def _page(data: bytes, at: int, start: int) -> Page | None:
    """The page whose first byte is number `at` of these; None where none is, or its header goes on behind them."""
    head = data[at : at + 27]
    sizes = data[at + 27 : at + 27 + head[26]] if len(head) == 27 else b""
    if len(head) < 27 or head[4] != 0 or head[5] > 7 or len(sizes) < head[26]:
        return None
    place, stream, number = struct.unpack("<QII", head[6:22])
    ends = None if place == _NO_PLACE else place
    return Page(start + at, 27 + len(sizes) + sum(sizes), bool(head[5] & _BEGINS), stream, number, ends)


def is_one_stream(file: RangedFile) -> bool:
    """Whether all pages that were read so far, and the last, are of streams that begin together at the first byte.

    Joined files show themselves by a second beginning, by pages of another stream, or by numbers that do not rise
    evenly with the bytes; where they do not, all of the file is read to be sure.
    """
    rows = _seen(file)
    if not rows or rows[-1].last.start + rows[-1].last.size < file.size:
        file.seek(max(0, file.size - _MOST_PAGE_BYTES))
        file.read(_MOST_PAGE_BYTES)
        file.check()
        rows = _seen(file)
    if not _begins_once([page for row in rows for page in (row.first, row.last)[: row.many]]):
        return False
    return _rises_evenly(rows, file.size) or _rises(_walked(file))


def end_of_pages(file: RangedFile) -> int:
    """The byte behind the last page, looked for from the end; 0 where none begins in the last _MOST_BEHIND bytes.

    Raises: as `RangedFile.check`.
    """
    behind = file.size
    while behind > max(0, file.size - _MOST_BEHIND):
        start = max(0, behind - _BACKWARDS)
        file.seek(start)
        data = file.read(min(behind + _MOST_HEADER_BYTES, file.size) - start)
        file.check()
        at = data.rfind(_MARK)
        while at >= 0:
            page = _page(data, at, start)
            if page is not None:
                return min(file.size, page.start + page.size)
            at = data.rfind(_MARK, 0, at)
        behind = start
    return 0


class _Row(NamedTuple):
    """Pages that follow one another, numbered so; of each row the first and the last are kept."""

    first: Page
    last: Page
    many: int


def _seen(file: RangedFile) -> list[_Row]:
    """The pages that were read, in rows, by their place."""
    rows: list[_Row] = []
    for start, data in file.segments():
        first, last = (_page(data, at, start) if at >= 0 else None for at in (data.find(_MARK), data.rfind(_MARK)))
        count = data.count(_MARK)
        alike = first is not None and last is not None and first.number > 1 and first.stream == last.stream
        if alike and first and last and last.number - first.number == count - 1:
            rows.append(_Row(first, last, count))
        else:
            rows += [_Row(page, page, 1) for page in pages(data, start)]
    return sorted(rows, key=lambda row: row.first.start)


def _begins_once(seen: list[Page]) -> bool:
    first = next((place for place, page in enumerate(seen) if not page.begins), len(seen))
    streams = {page.stream for page in seen[:first]}
    return not any(page.begins or page.stream not in streams for page in seen[first:])


def _rises_evenly(rows: list[_Row], total: int) -> bool:
    """Whether the pages that were not read may be as many as the numbers say."""
    if len({row.first.stream for row in rows}) > 1:
        return False
    sizes = [(row.last.start + row.last.size - row.first.start) / row.many for row in rows for _ in range(row.many)]
    usual = statistics.median(sizes) if sizes else 0.0  # the first and the last are small
    for one, other in pairwise(rows):
        missing = other.first.number - one.last.number - 1
        between = other.first.start - one.last.start - one.last.size
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
    """Every page, found from the one before it, or by looking for it where something else is between."""
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
