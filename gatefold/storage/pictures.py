"""The bytes of a cover, be it a file of its own or a picture inside an audio file (`<audio uri>#picture`).

Whether the bytes are a picture at all is for `gatefold.covers` to say.
"""

import base64
import binascii
import io
from contextlib import suppress
from typing import BinaryIO, cast

import mutagen
from mutagen.flac import FLAC, Picture
from mutagen.flac import error as FlacError
from mutagen.id3 import ID3
from mutagen.mp4 import MP4

from gatefold.errors import EmptyFile, ObjectNotFound, TooLarge, UndecodableAudio
from gatefold.storage import objects

FRAGMENT = "#picture"
_BLOCK_BYTES = 64 * 1024
_BLOCKS_KEPT = 64
_FRONT_COVER = 3  # the number ID3 and FLAC give to it


class RangedFile(io.RawIOBase):
    """A stored object as a seekable file that fetches no more than the blocks that are read; one thread's own."""

    def __init__(self, source: objects.ObjectSource) -> None:
        super().__init__()
        self.name = objects.name(source.uri)  # mutagen knows a bare MP3 stream by its name alone
        self._source = source
        self._place = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._source.size}[whence]
        if place < 0:
            raise OSError(f"'{self._source.uri}': cannot seek to {place}, before the first byte")
        self._place = place
        return place

    def read(self, size: int | None = -1) -> bytes:
        end = self._source.size if size is None or size < 0 else min(self._place + size, self._source.size)
        if end <= self._place:
            return b""
        first, last = self._place // _BLOCK_BYTES, (end - 1) // _BLOCK_BYTES
        data = b"".join(self._block(number) for number in range(first, last + 1))
        start = self._place - first * _BLOCK_BYTES
        found = data[start : start + end - self._place]
        self._place += len(found)
        return found

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            if len(self._blocks) >= _BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = self._source.read_at(number * _BLOCK_BYTES, _BLOCK_BYTES)
        return self._blocks[number]


def read_cover(cover_uri: str, max_bytes: int) -> bytes:
    """The encoded picture, from its own object or from inside an audio file.

    Raises: ObjectNotFound when there is none; TooLarge above `max_bytes`; UndecodableAudio when the audio file around
    it cannot be read; storage errors.
    """
    if not cover_uri.endswith(FRAGMENT):
        return objects.read(cover_uri, max_bytes)
    audio_uri = cover_uri.removesuffix(FRAGMENT)
    with open_audio(audio_uri) as file:
        picture = embedded_picture(tags_of(file, audio_uri))
    if picture is None:
        raise ObjectNotFound(f"'{audio_uri}' holds no picture any more; run `gatefold catalogue SOURCE` again")
    if len(picture) > max_bytes:
        raise TooLarge(f"'{cover_uri}' has {len(picture):,} bytes, limit {max_bytes:,}")
    return picture


def open_audio(uri: str) -> BinaryIO:
    """A stored audio file, seekable, read as far as needed. Raises: ObjectNotFound."""
    return cast(BinaryIO, RangedFile(objects.open_source(uri)))


def tags_of(file: BinaryIO, uri: str) -> mutagen.FileType:
    """What mutagen makes of an audio file. Raises: EmptyFile; UndecodableAudio when that is nothing."""
    if not file.read(1):
        raise EmptyFile(f"'{uri}': the file is empty; upload it again")
    file.seek(0)
    try:
        tags = mutagen.File(file)
    except (mutagen.MutagenError, ValueError, IndexError, KeyError, EOFError) as error:
        raise UndecodableAudio(f"'{uri}': tags cannot be read ({error}); replace the file") from error
    if tags is None:
        raise UndecodableAudio(f"'{uri}' is no audio file that is known; allowed: WAV, FLAC, MP3, Ogg, Opus, M4A, AAC")
    return tags


def embedded_picture(audio: mutagen.FileType) -> bytes | None:
    """The encoded front cover inside an audio file, else the first picture of any kind, else None."""
    if isinstance(audio, MP4):
        covers = (audio.tags or {}).get("covr") or [None]
        return bytes(covers[0]) if covers[0] else None
    pictures: list[Picture] = []
    if isinstance(audio, FLAC):
        pictures = list(audio.pictures)
    elif isinstance(audio.tags, ID3):
        pictures = list(audio.tags.getall("APIC"))
    elif audio.tags:
        pictures = _vorbis_pictures(audio.tags.get("metadata_block_picture", []))
    pictures = [picture for picture in pictures if picture.data]
    pictures.sort(key=lambda picture: picture.type != _FRONT_COVER)
    return bytes(pictures[0].data) if pictures else None


def _vorbis_pictures(texts: list[str]) -> list[Picture]:
    pictures = []
    for text in texts:
        with suppress(binascii.Error, FlacError):  # one that is damaged is no picture
            pictures.append(Picture(base64.b64decode(text)))
    return pictures
