"""The bytes of a cover, be it a file of its own or a picture inside an audio file (`<audio uri>#picture`).

Whether the bytes are a picture at all is for `gatefold.covers` to say.
"""

import base64
import binascii
from contextlib import suppress

import mutagen
from mutagen.flac import FLAC, Picture
from mutagen.flac import error as FlacError
from mutagen.id3 import ID3
from mutagen.mp4 import MP4

from gatefold.errors import EmptyFile, ObjectNotFound, TooLarge, UndecodableAudio
from gatefold.ranged import RangedFile
from gatefold.storage import objects

FRAGMENT = "#picture"
_TAGS_BYTES = 1 << 26  # that may be read of an audio file for its tags, pictures among them
_FRONT_COVER = 3  # the number ID3 and FLAC give to it


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


def open_audio(uri: str) -> RangedFile:
    """A stored audio file, read as far as needed. Raises: ObjectNotFound."""
    return RangedFile(objects.open_source(uri), _TAGS_BYTES, objects.name(uri))  # a bare mp3 is known by its name alone


def tags_of(file: RangedFile, uri: str) -> mutagen.FileType:
    """What mutagen makes of an audio file.

    Raises: EmptyFile; UndecodableAudio when that is nothing; TooLarge when tags are; storage errors.
    """
    if not file.size:
        raise EmptyFile(f"'{uri}': the file is empty; upload it again")
    try:
        try:
            tags = mutagen.File(file)
        finally:
            file.check()  # first: what mutagen makes of a read that failed says nothing of the file
    except TooLarge as error:
        raise TooLarge(f"'{uri}': its tags are too large: {error}; take pictures out of it") from error
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
