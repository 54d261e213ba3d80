"""What an audio file says of itself: title, artist, album, genre, and whether it has a picture. Nothing is decoded."""

import struct
from dataclasses import dataclass

import mutagen
from mutagen.id3 import ID3
from mutagen.mp4 import MP4
from mutagen.wave import WAVE

from gatefold.ranged import RangedFile
from gatefold.storage.pictures import embedded_picture, open_audio, tags_of

_KEYS = {
    ID3: ("TIT2", "TPE1", "TALB", "TCON"),
    MP4: ("\xa9nam", "\xa9ART", "\xa9alb", "\xa9gen"),
    WAVE: ("INAM", "IART", "IPRD", "IGNR"),
}
_VORBIS = ("title", "artist", "album", "genre")


@dataclass(frozen=True)
class Tags:
    """What is known of a song from its own file; None where it does not say."""

    title: str | None
    artist: str | None
    album: str | None
    genre: str | None
    has_picture: bool


def read_tags(uri: str) -> Tags:
    """The tags of a stored audio file. Raises: UndecodableAudio when it is none; storage errors."""
    with open_audio(uri) as file:
        audio = tags_of(file, uri)
        title, artist, album, genre = _texts(audio, file)
        file.check()
        return Tags(title, artist, album, genre, has_picture=embedded_picture(audio) is not None)


def _texts(audio: mutagen.FileType, file: RangedFile) -> list[str | None]:
    if isinstance(audio.tags, ID3):
        return [_first(_frame_texts(audio.tags, key)) for key in _KEYS[ID3]]
    if isinstance(audio, WAVE):
        info = _riff_info(file)
        return [_first([info.get(key, "")]) for key in _KEYS[WAVE]]
    keys = _KEYS[MP4] if isinstance(audio, MP4) else _VORBIS
    return [_first((audio.tags or {}).get(key, [])) for key in keys]


def _frame_texts(tags: ID3, key: str) -> list[str]:
    frames = tags.getall(key)
    # "(17)" in an ID3 genre means Rock; only `genres` says so
    return [text for frame in frames for text in (frame.genres if key == "TCON" else frame.text)]


def _first(texts: list[str]) -> str | None:
    return next((text.strip() for text in map(str, texts) if text.strip()), None)


def _riff_info(file: RangedFile) -> dict[str, str]:
    """The INFO list of a WAV file, by four-letter key; mutagen reads only ID3 there."""
    found: dict[str, str] = {}
    file.seek(12)  # "RIFF", size, "WAVE"
    while len(header := file.read(8)) == 8:
        key, size = struct.unpack("<4sI", header)
        start = file.tell()
        if key == b"LIST" and file.read(4) == b"INFO":
            body, place = file.read(min(size, 1 << 20) - 4), 0
            while place + 8 <= len(body):
                name, length = struct.unpack_from("<4sI", body, place)
                text = body[place + 8 : place + 8 + length].split(b"\0")[0]
                found[name.decode("latin-1")] = text.decode("utf-8", "replace")
                place += 8 + length + length % 2
        file.seek(start + size + size % 2)
    return found
