"""A seekable file over a source of byte ranges, which fetches only the ranges that are read.

Decoders read in small steps; stores are paid by the request. Between them are segments: what was fetched is kept, as
far as it is little, and a caller that knows how much it will read next says so first. Knows no store and no format.
"""

import io
from typing import Protocol

from typing_extensions import Buffer

from gatefold.errors import TooLarge

_LEAST = 1 << 15  # bytes of a fetch that nobody announced
_MOST = 1 << 25  # bytes of a fetch that was announced: what will be wanted is reckoned from headers, which may lie
_KEPT = 1 << 26  # bytes of all segments; the one least recently read goes first


class Source(Protocol):
    """Bytes at rest, wherever they lie."""

    @property
    def size(self) -> int:
        """bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """At most `length` bytes from `offset` on; fewer only at the end."""
        ...


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        """bytes."""
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """As `Source.read_at`; a view, not a copy."""
        return self._data[offset : offset + length]


class PrefixedRange:
    """Some bytes of our own, then a range of another source: a file without what does not belong to it."""

    def __init__(self, prefix: bytes, source: Source, start: int, size: int) -> None:
        """Args: start, size: of the range, in bytes; it lies inside the source."""
        self._prefix, self._source, self._start = prefix, source, start
        self.size = len(prefix) + size

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        """As `Source.read_at`; a copy only where both parts are in it."""
        length = min(length, self.size - offset)
        begin = offset - len(self._prefix)
        if begin >= 0:
            return self._source.read_at(self._start + begin, length)
        own = self._prefix[offset : offset + length]
        rest = length - len(own)
        return own + bytes(self._source.read_at(self._start, rest)) if rest else own


class SourceFile(io.RawIOBase):
    """A source as a file to read from, for readers that join their reads to few and great ones themselves."""

    def __init__(self, source: Source) -> None:
        self.size = source.size
        self.source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Reads into a buffer as much as there is; the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.source.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class RangedFile(SourceFile):
    """A source as a file for decoders, which read in small steps.

    A decoder cannot pass on what goes wrong here, be it written in C or in the habit of making every error its own: it
    is shown the end of the file instead, and the caller of the decoder calls `check` before believing that.
    """

    def __init__(self, source: Source, max_bytes: int, name: str = "") -> None:
        """Args: max_bytes: that may be fetched in all; name: for readers that go by it."""
        super().__init__(source)
        self.name = name
        self.fetched = 0
        self.max_bytes = max_bytes
        self._expected = 0
        self._segments: list[tuple[int, bytes | memoryview]] = []  # the last read comes last
        self._failure: Exception | None = None

    def expect(self, length: int) -> None:
        """Announces that so many bytes will be read from the next place on that is not here yet."""
        self._expected = min(length, _MOST)

    def prefetch(self, length: int) -> None:
        """Fetches the first `length` bytes, if they are not here, and goes back to the beginning.

        For decoders that are opened under a lock: a wait for the store meanwhile would keep all others from opening
        theirs.
        Raises: as `check`.
        """
        self.seek(0)
        self.read(min(length, self.size))
        self.check()
        self.seek(0)

    def segments(self) -> list[tuple[int, bytes]]:
        """What was fetched and is still here: first byte, and the bytes."""
        return [(start, bytes(data)) for start, data in self._segments]

    def check(self) -> None:
        """Raises: what a read raised since the last check; TooLarge when more than `max_bytes` were wanted."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def read(self, size: int = -1) -> bytes:
        """As of any raw file; what lies within the segment last read is copied once, not three times."""
        start, data = self._segments[-1] if self._segments else (0, b"")
        begin = self._position - start
        if 0 <= begin <= begin + size <= len(data):
            self._position += size
            return bytes(data[begin : begin + size])
        return super().read(size)

    def readinto(self, buffer: Buffer) -> int:
        """The same from segments; 0 where a read failed, which `check` raises."""
        whole = memoryview(buffer).cast("B")
        view = whole[: max(0, self.size - self._position)]
        filled = 0
        try:
            while filled < len(view):
                start, data = self._segment(len(view) - filled)
                there = memoryview(data)[self._position - start :][: len(view) - filled]
                view[filled : filled + len(there)] = there
                filled += len(there)
                self._position += len(there)
        except Exception as failure:  # noqa: BLE001 - raised by `check`
            self._failure = failure
            return 0
        finally:  # what failed remembers this frame, and the buffer is not ours to keep
            view.release()
            whole.release()
        return filled

    def _segment(self, wanted: int) -> tuple[int, bytes | memoryview]:
        """The segment that holds the byte at the present position, fetched if none does."""
        at = self._position
        for number, (start, data) in enumerate(self._segments):
            if start <= at < start + len(data):
                self._segments.append(self._segments.pop(number))
                return self._segments[-1]
        length = max(wanted, self._expected, _LEAST)
        self._expected = 0
        behind = min((start for start, _ in self._segments if start > at), default=self.size)
        allowed = self.max_bytes - self.fetched
        if allowed <= 0:
            raise TooLarge(f"more than {self.max_bytes:,} of its {self.size:,} bytes would have to be read")
        data = self.source.read_at(at, min(length, behind - at, allowed))
        if not data:
            raise EOFError(f"nothing at byte {at:,} of {self.size:,}")
        self.fetched += len(data)
        self._segments.append((at, data))
        while len(self._segments) > 1 and sum(len(kept) for _, kept in self._segments) > _KEPT:
            self._segments.pop(0)
        return self._segments[-1]
