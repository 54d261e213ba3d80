"""A small library of songs in every kind of file whose tags can be written, with odd tags; and what their sound is."""

import base64
import io
from functools import cache
from pathlib import Path

import av
import mutagen
import numpy as np
from mutagen.aiff import AIFF
from mutagen.apev2 import APEv2
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, COMM, ID3, POPM, PRIV, TALB, TDRC, TIT2, TPE1, TXXX, TYER, USLT
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

from gatefold.images.pixels import encode_picture
from tests.sounds import encoded, music, muxed, tone

PICTURE = encode_picture(np.full((3, 8, 8), 200, np.uint8), 16, "jpeg")
KINDS = ("mp3", "flac", "ogg", "opus", "m4a", "wav", "aiff", "aac")


@cache
def sound(kind: str, seconds: float = 1.0) -> bytes:
    """A file without tags."""
    samples, mono = music(seconds), tone(seconds, 16_000)
    match kind:
        case "mp3":
            return muxed(samples, "libmp3lame", "mp3")
        case "ogg":
            return encoded(mono, format="OGG", subtype="VORBIS")
        case "opus":
            return encoded(mono, format="OGG", subtype="OPUS")
        case "m4a":
            return muxed(samples, "aac", "ipod")
        case "aac":
            return muxed(samples, "aac", "adts")
        case _:
            return encoded(mono, format=kind.upper())


def tag(data: bytes, kind: str, title: str = "T", album: str | None = None, *, picture: bool = False) -> bytes:
    """The same with a title, an artist, perhaps an album, perhaps a picture, and with tags that are rare."""
    sink = io.BytesIO(data)
    names = {"title": [title], "artist": ["Zoë & Co", "another"], **({"album": [album]} if album else {})}
    rare = {"replaygain_track_gain": ["-3.2 dB"], "Ödd": ["värde\nof two lines"], "comment": ["x" * 3000]}
    match kind:
        case "mp3" | "aac":
            return _in_front(data, title, album, picture)
        case "wav" | "aiff":
            audio = {"wav": WAVE, "aiff": AIFF}[kind](sink)
            audio.add_tags()
            for frame in _frames(title, album, picture):
                audio.tags.add(frame)
        case "m4a":
            audio = MP4(sink)
            audio["\xa9nam"], audio["\xa9ART"] = [title], ["Zoë & Co"]
            audio["----:com.apple.iTunes:ODD"] = [MP4FreeForm(b"\x00\x01odd")]
            audio["trkn"], audio["cpil"] = [(3, 9)], True
            if album:
                audio["\xa9alb"] = [album]
            if picture:
                audio["covr"] = [MP4Cover(PICTURE)]
        case _:
            audio = {"flac": FLAC, "ogg": OggVorbis, "opus": OggOpus}[kind](sink)
            for key, values in {**names, **_ascii(rare)}.items():
                audio[key] = values
            if picture and kind == "flac":
                audio.add_picture(block())
            elif picture:
                audio["metadata_block_picture"] = [base64.b64encode(block().write()).decode()]
    sink.seek(0)
    audio.save(sink)
    return sink.getvalue()


def _ascii(rare: dict[str, list[str]]) -> dict[str, list[str]]:
    return {key.encode("ascii", "ignore").decode() or "odd": values for key, values in rare.items()}


def block() -> Picture:
    """The picture as FLAC holds it."""
    made = Picture()
    made.type, made.mime, made.data, made.width, made.height, made.depth = 3, "image/jpeg", PICTURE, 16, 16, 24
    return made


def _frames(title: str, album: str | None, picture: bool) -> list[mutagen.id3.Frame]:
    frames = [
        TIT2(3, [title]), TPE1(1, ["Zoë & Co", "another"]), COMM(3, "deu", "ä", ["a\nb"]), USLT(3, "eng", "", "words"),
        TXXX(3, "odd key", ["1", "2"]), PRIV("owner", b"\x00\xff\x00"), POPM("a@b", 196, 12), TDRC(3, ["1999-05-02"]),
    ]  # fmt: skip
    frames += [TALB(3, [album])] if album else []
    return frames + ([APIC(0, "image/jpeg", 3, "", PICTURE)] if picture else [])


def _in_front(data: bytes, title: str, album: str | None, picture: bool) -> bytes:
    """ID3v2.3 with frames of 2.3 and one that nobody knows; behind the sound APE and ID3v1."""
    tags = ID3()
    for frame in _frames(title, album, picture):
        tags.add(frame)
    tags.update_to_v23()
    tags.add(TYER(0, ["1999"]))
    front, behind = io.BytesIO(), io.BytesIO(b"")
    tags.save(front, v1=0, v2_version=3, v23_sep=None)
    body = front.getvalue()
    unknown = b"XYZW" + (5).to_bytes(4, "big") + b"\0\0" + b"12345"
    size = len(body) - 10 + len(unknown)
    length = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    ape = APEv2()
    ape["Rating"] = "5"
    ape.save(behind)
    v1 = b"TAG" + b"Old title".ljust(125, b"\0")
    return body[:6] + length + unknown + body[10:] + data + behind.getvalue() + v1


def decoded(data: bytes) -> list[bytes]:
    """Every decoded frame of the sound."""
    frames = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            frames.append(frame.to_ndarray().tobytes())
    return frames


def library(folder: Path, *kinds: str) -> Path:
    """In a folder: an album of two songs, a song without an album, and two with a cover, of each kind."""
    for kind in kinds or KINDS:
        bare = sound(kind)
        for name, album, picture in (
            ("album/1", "A", False), ("album/2", "A", False), ("loose/1 ödd #%20", None, False),
            ("inside/1", "B", True), ("beside/1", "C", False),
        ):  # fmt: skip
            path = folder / kind / f"{name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tag(bare, kind, name, album, picture=picture))
        (folder / kind / "beside" / "Folder.JPG").write_bytes(PICTURE)
    return folder
