"""Pictures and tags embedded in audio files (`<audio uri>#picture`), and the bytes of covers that are files of their
own.

What an audio file is, `gatefold.audio.containers` says by its content, as to the decoder. Tags that cannot be read are
no tags: they never cost the song.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import mutagen
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import ID3
from mutagen.mp4 import MP4
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggspeex import OggSpeex
from mutagen.oggvorbis import OggVorbis

from gatefold.audio import riff
from gatefold.audio.containers import FORMATS, Container, identify
from gatefold.config import CoverSettings
from gatefold.errors import EmptyFile, InputError, ObjectNotFound, TooLarge, UndecodableAudio
from gatefold.images.pixels import decode_cover
from gatefold.ranged import RangedFile
from gatefold.storage import objects

FRAGMENT = "#picture"
FIELDS = ("title", "artist", "album", "genre")
_TAGS_BYTES = 1 << 26  # that may be read of an audio file for its tags, pictures among them
_CHUNK_BYTES = 1 << 24  # of a chunk of tags in a wav or aiff
_FRONT_COVER = 3  # the number ID3 and FLAC give to it
_LINK = "-->"  # what ID3 calls a picture that is only an address
_FRAMES = ("TIT2", "TPE1", "TALB", "TCON")
_ATOMS = ("\xa9nam", "\xa9ART", "\xa9alb", "\xa9gen")
_INFO = (b"INAM", b"IART", b"IPRD", b"IGNR")
_AIFF_TEXTS = (b"NAME", b"AUTH")
UNREADABLE = (
    mutagen.MutagenError, OSError, ValueError, IndexError, KeyError, EOFError, TypeError, AttributeError,
    OverflowError, ZeroDivisionError, struct.error, zlib.error,
)  # fmt: skip
"""All that mutagen raises on bytes that are not what they claim."""
_BLANKS = "\0" + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())
_T = TypeVar("_T")


@dataclass
class Tagged:
    """What the tags of an audio file say, those first that count most."""

    texts: dict[str, str] = field(default_factory=dict)
    """by field, of `FIELDS`; none of them blank"""
    pictures: list[bytes] = field(default_factory=list)
    """encoded, the front cover first, as far as they are there: links are left out"""
    unreadable: bool = False
    """whether some could not be read"""

    def add(self, texts: Iterable[Iterable[object]], pictures: Iterable[bytes] = ()) -> None:
        """Adds what is not known yet: values of each field of `FIELDS`, in their order."""
        for name, values in zip(FIELDS, texts, strict=False):
            found = next((text for value in values if (text := str(value).strip(_BLANKS))), None)
            if found:
                self.texts.setdefault(name, found)
        self.pictures += [picture for picture in pictures if picture]


def read_cover(cover_uri: str, max_bytes: int) -> bytes:
    """The encoded picture, from its own object or from inside an audio file: the first there that can be decoded.

    Raises: ObjectNotFound when there is none; TooLarge above `max_bytes`; UndecodableAudio when the audio file around
    it is none; storage errors.
    """
    if not cover_uri.endswith(FRAGMENT):
        return objects.read(cover_uri, max_bytes)
    audio_uri = cover_uri.removesuffix(FRAGMENT)
    with open_audio(audio_uri) as file:
        pictures = tags_of(file, audio_uri).pictures
    if not pictures:
        raise ObjectNotFound(f"'{audio_uri}' holds no picture any more; run `gatefold catalogue SOURCE` again")
    picture = pictures[0] if len(pictures) == 1 else first_decodable(pictures, max_bytes) or pictures[0]
    if len(picture) > max_bytes:
        raise TooLarge(f"'{cover_uri}' has {len(picture):,} bytes, limit {max_bytes:,}")
    return picture


def first_decodable(pictures: list[bytes], max_bytes: int) -> bytes | None:
    """The first of these encoded pictures that is one and within the limit; None where none is."""
    cover = CoverSettings(size=16, max_bytes=max_bytes)  # small: it is thrown away
    for picture in pictures:
        with suppress(InputError):
            decode_cover(picture, cover)
            return picture
    return None


def open_audio(uri: str) -> RangedFile:
    """A stored audio file, read as far as needed. Raises: ObjectNotFound."""
    return RangedFile(objects.open_source(uri), _TAGS_BYTES, objects.name(uri))


def tags_of(file: RangedFile, uri: str) -> Tagged:
    """The tags of an audio file.

    Raises: EmptyFile; UndecodableAudio when it is no audio file; storage errors.
    """
    if not file.size:
        raise EmptyFile(f"'{uri}': the file is empty; upload it again")
    found = identify(file)
    if found is None:
        raise UndecodableAudio(f"'{uri}' is no audio file that is known; allowed: {FORMATS}")
    tagged = Tagged()
    inner = file if found.start == 0 else RangedFile(found.of(file.source), _TAGS_BYTES, file.name)
    for read in (_READERS[found.kind], _id3, _ape):
        outer = read in (_id3, _ape)  # they stand before and behind whatever the file is
        _attempt(tagged, file if outer else inner, found, read)
    return tagged


def _attempt(
    tagged: Tagged, file: RangedFile, found: Container, read: Callable[[Tagged, RangedFile, Container], None]
) -> None:
    file.seek(0)
    try:
        try:
            read(tagged, file, found)
        finally:
            file.check()  # first: what mutagen makes of a read that failed says nothing of the file
    except (TooLarge, *UNREADABLE):
        tagged.unreadable = True


# ---- by kind --------------------------------------------------------------------------------------------------------


def _nothing(tagged: Tagged, file: RangedFile, found: Container) -> None:
    """Bare frames have no tags but those around them."""


def _id3(tagged: Tagged, file: RangedFile, found: Container) -> None:
    if file.read(3) != b"ID3" and found.kind not in ("mp3", "aac"):
        return
    file.seek(0)
    with suppress(mutagen.id3.ID3NoHeaderError):
        _add_id3(tagged, ID3(file))


def _add_id3(tagged: Tagged, tags: ID3) -> None:
    # "(17)" in an ID3 genre means Rock; only `genres` says so
    texts = [[text for frame in tags.getall(key) for text in (frame.genres if key == "TCON" else frame.text)]
             for key in _FRAMES]  # fmt: skip
    pictures = [picture for picture in tags.getall("APIC") if picture.mime != _LINK]
    pictures.sort(key=lambda picture: picture.type != _FRONT_COVER)
    tagged.add(texts, (bytes(picture.data) for picture in pictures))


def _ape(tagged: Tagged, file: RangedFile, found: Container) -> None:
    if found.kind not in ("mp3", "aac") or len(tagged.texts) == len(FIELDS):
        return
    with suppress(mutagen.apev2.APENoHeaderError):
        tags = APEv2(file)
        texts = [list(tags[name]) if name in tags and tags[name].kind == 0 else [] for name in FIELDS]
        # a name, a zero, and then the picture
        pictures = [bytes(tags[name].value).partition(b"\0")[2]
                    for name in sorted(tags, key=lambda name: "front" not in name.lower())
                    if name.lower().startswith("cover art") and tags[name].kind == 1]  # fmt: skip
        tagged.add(texts, pictures)


def _flac(tagged: Tagged, file: RangedFile, _: Container) -> None:
    audio = FLAC(file)
    pictures = sorted(audio.pictures, key=lambda picture: picture.type != _FRONT_COVER)
    _add_vorbis(tagged, audio.tags, [picture for picture in pictures if picture.mime != _LINK])


def _ogg(tagged: Tagged, file: RangedFile, _: Container) -> None:
    audio = mutagen.File(file, options=[OggVorbis, OggOpus, OggFLAC, OggSpeex])
    if audio is not None and audio.tags:
        _add_vorbis(tagged, audio.tags, _vorbis_pictures(audio.tags.get("metadata_block_picture", [])))


def _add_vorbis(tagged: Tagged, tags: mutagen.Tags | None, pictures: list[Picture]) -> None:
    tagged.add([(tags or {}).get(name, []) for name in FIELDS], (bytes(picture.data) for picture in pictures))


def _vorbis_pictures(texts: list[str]) -> list[Picture]:
    pictures = []
    for text in texts:
        with suppress(*UNREADABLE):  # one that is damaged is no picture
            pictures.append(Picture(base64.b64decode(text)))
    pictures.sort(key=lambda picture: picture.type != _FRONT_COVER)
    return [picture for picture in pictures if picture.mime != _LINK]


def _mp4(tagged: Tagged, file: RangedFile, _: Container) -> None:
    tags = MP4(file).tags or {}
    tagged.add([tags.get(key, []) for key in _ATOMS], map(bytes, tags.get("covr") or []))


def _chunks(tagged: Tagged, file: RangedFile, found: Container) -> None:
    """Of wav and aiff: ID3, INFO lists, and the texts of an aiff."""
    info: dict[bytes, str] = {}
    for name, start, size in riff.tag_chunks(file):
        file.seek(start)
        if name.upper() == b"ID3 ":
            data = file.read(min(size, _CHUNK_BYTES))
            _attempt(tagged, file, found, lambda to, _, __, data=data: _add_id3(to, ID3(io.BytesIO(data))))  # type: ignore[misc]
        elif name == b"LIST" and file.read(4) == b"INFO":
            info |= _info(file.read(min(size, _CHUNK_BYTES) - 4))
        elif name in _AIFF_TEXTS and found.kind == "aiff":
            info[name] = _text(file.read(min(size, _CHUNK_BYTES)))
    keys = _AIFF_TEXTS if found.kind == "aiff" else _INFO
    tagged.add([[info.get(key, "")] for key in keys])


def _info(body: bytes) -> dict[bytes, str]:
    """The texts of an INFO list by their four letters."""
    found: dict[bytes, str] = {}
    place = 0
    while place + 8 <= len(body):
        name, length = struct.unpack_from("<4sI", body, place)
        found[name] = _text(body[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return found


def _text(data: bytes) -> str:
    """Nobody wrote down how these are encoded: UTF-8 where it can be, else what Windows wrote."""
    data = data.split(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


_READERS: dict[str, Callable[[Tagged, RangedFile, Container], None]] = {
    "mp3": _nothing,
    "aac": _nothing,
    "flac": _flac,
    "ogg": _ogg,
    "mov": _mp4,
    "wav": _chunks,
    "aiff": _chunks,
}
