"""A song to upload, and a multipart body that is read from disk while it is sent, again for each attempt."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from gatefold.client.errors import SongUnreadable

CHUNK_BYTES = 1 << 18
"""of a file that are in memory at a time"""
Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SongUpload:
    """A song: a file on disk, or bytes with a name."""

    name: str
    source: Path | bytes

    @classmethod
    def of(cls, song: str | os.PathLike[str] | bytes, name: str | None = None) -> "SongUpload":
        """Args:
        song: path of a file, or the bytes of one.
        name: file name to send; that of the file where absent, "song" for bytes.
        """
        if isinstance(song, bytes):
            return cls(name or "song", song)
        path = Path(song)
        return cls(name or path.name, path)

    def size(self) -> int:
        """Bytes. Raises: SongUnreadable."""
        if isinstance(self.source, bytes):
            return len(self.source)
        try:
            if not self.source.is_file():
                raise SongUnreadable(f"song '{self.source}' is not a file; give the path of an audio file")
            return self.source.stat().st_size
        except OSError as error:
            raise SongUnreadable(f"song '{self.source}': {error.strerror}") from error


class MultipartBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A form with one file, as a stream that can be sent more than once.

    Raises: SongUnreadable.
    """

    def __init__(self, song: SongUpload, fields: Fields) -> None:
        self._boundary = secrets.token_hex(16)
        self._song = song
        parts = [self._part(f'name="{_quoted(name)}"') + value.encode() + b"\r\n" for name, value in fields]
        file = f'name="song"; filename="{_quoted(song.name)}"\r\nContent-Type: application/octet-stream'
        self._before = b"".join(parts) + self._part(file)
        self._after = f"\r\n--{self._boundary}--\r\n".encode()
        self._song_bytes = song.size()

    @property
    def headers(self) -> dict[str, str]:
        """Content-Type and Content-Length."""
        length = len(self._before) + self._song_bytes + len(self._after)
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(length),
        }

    def __iter__(self) -> Iterator[bytes]:
        yield self._before
        if isinstance(self._song.source, bytes):
            yield self._song.source
        else:
            with self._open(self._song.source) as file:
                left = self._song_bytes
                while left:
                    chunk = self._read(file, left)
                    left -= len(chunk)
                    yield chunk
        yield self._after

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = iter(self)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk

    def _part(self, disposition: str) -> bytes:
        return f"--{self._boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()

    def _open(self, path: Path) -> BinaryIO:
        try:
            return path.open("rb")
        except OSError as error:
            raise SongUnreadable(f"song '{path}': {error.strerror}") from error

    def _read(self, file: BinaryIO, left: int) -> bytes:
        try:
            chunk = file.read(min(left, CHUNK_BYTES))
        except OSError as error:
            raise SongUnreadable(f"song '{self._song.source!s}': {error.strerror}") from error
        if not chunk:
            raise SongUnreadable(f"song '{self._song.source!s}' became {left:,} bytes shorter while it was sent")
        return chunk


def _quoted(name: str) -> str:
    """A name as forms write it: what would end it is percent-encoded; what is no text is replaced."""
    name = name.encode(errors="replace").decode()
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
