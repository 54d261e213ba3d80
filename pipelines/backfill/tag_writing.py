"""An audio file with a picture in its tags: the bytes of one in, those of the other out.

Everything else stays: other tags, ID3v1 and APE behind the sound, chunks that nobody knows. What comes out is compared
with what went in before anybody gets it: the encoded audio packets, every other tag, and the picture.
"""

import base64
import hashlib
import io
from collections.abc import Callable
from typing import Any

import av
import mutagen
from mutagen.aiff import AIFF
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3
from mutagen.mp4 import MP4, MP4Cover
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggspeex import OggSpeex
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

from gatefold.audio.containers import FORMATS, identify
from gatefold.config import CoverSettings
from gatefold.errors import InputError, UndecodableAudio
from gatefold.images.pixels import decode_at
from gatefold.ranged import BytesSource, RangedFile
from gatefold.storage.contents.embedded_pictures import UNREADABLE, tags_of

_FRONT_COVER, _MIME, _DEPTH = 3, "image/jpeg", 24
_ID3_PADDING = 1024
_PICTURE_FIELDS = ("metadata_block_picture", "coverart")
_OGG = (OggVorbis, OggOpus, OggFLAC, OggSpeex)
_Rest = dict[str, object]


def with_picture(data: bytes, picture: bytes, name: str) -> bytes | None:
    """The file with the picture as its front cover; None where it has a picture, or a link to one, already.

    Args:
        data: a whole audio file.
        picture: a JPEG.
        name: of the file, for messages.

    Raises: UndecodableAudio when it is no audio file; InputError for one that cannot get a picture without a change to
    anything else, which says why.
    """
    file = RangedFile(BytesSource(data), 2 * len(data), name)
    found = identify(file)
    if found is None:
        raise UndecodableAudio(f"'{name}' is no audio file that is known; allowed: {FORMATS}")
    if found.start and found.kind not in ("mp3", "aac", "flac"):
        raise InputError(f"'{name}': {found.start} bytes stand before its beginning; its tags are left as they are")
    if tags_of(RangedFile(BytesSource(data), 2 * len(data), name), name).pictures:
        return None
    try:
        changed = _WRITERS[found.kind](data, picture)
    except UNREADABLE as error:
        said = str(error) or type(error).__name__
        raise InputError(f"'{name}': its tags cannot be written ({said}); they are left as they are") from error
    if changed is not None:
        _check(data, changed, picture, found.kind, name)
    return changed


def audio_digest(data: bytes) -> str:
    """SHA-256 of the encoded audio packets, in their order, of every audio stream. Raises: InputError."""
    digest = hashlib.sha256()
    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
            streams = [stream for stream in container.streams if stream.type == "audio"]
            for packet in container.demux(streams):
                digest.update(b"%d %d\n" % (packet.stream.index, packet.size))
                digest.update(bytes(packet))
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"its audio packets cannot be read: {error}") from error
    return digest.hexdigest()


def _check(data: bytes, changed: bytes, picture: bytes, kind: str, name: str) -> None:
    """Raises: InputError when anything else became another."""
    try:
        same_audio = audio_digest(data) == audio_digest(changed)
    except InputError as error:
        raise InputError(f"'{name}': {error.message}; it is left as it is") from error
    there = picture in tags_of(RangedFile(BytesSource(changed), 2 * len(changed), name), name).pictures
    same_tags = _rest(kind, data) == _rest(kind, changed)
    for good, what in ((same_audio, "its audio"), (same_tags, "another tag"), (there, "the picture")):
        if not good:
            raise InputError(f"'{name}': {what} would not come out as it should; the file is left as it is")


# ---- by kind --------------------------------------------------------------------------------------------------------


def _in_front(data: bytes, picture: bytes) -> bytes | None:
    """mp3 and bare AAC: a new ID3v2 tag in the place of the one in front; nothing behind it is touched."""
    size, tags = 0, ID3()
    if data.startswith(b"ID3"):
        size = _id3_bytes(data)
        tags = _load_id3(data[:size])
    version = _version(data)
    if not _add_frame(tags, picture):
        return None
    sink = io.BytesIO()
    tags.save(sink, v1=0, v2_version=version, v23_sep=None, padding=lambda _: _ID3_PADDING)
    return sink.getvalue() + data[size:]


def _id3_bytes(data: bytes) -> int:
    """Of the ID3v2 tag that these bytes begin with: header, body, footer."""
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if data[5] & 0x10 else 0)


def _version(data: bytes) -> int:
    """That an ID3v2 tag is written in: its own; 3 where it is older or there is none, which all players read."""
    return 4 if data.startswith(b"ID3") and data[3] == 4 else 3


def _load_id3(tag: bytes) -> ID3:
    """Frames as they are, without translation to a later version; of ID3v2.2, which cannot be written, as 2.3."""
    if tag[3] > 2:
        return ID3(io.BytesIO(tag), translate=False)
    tags = ID3(io.BytesIO(tag))
    tags.update_to_v23()
    return tags


def _add_frame(tags: ID3, picture: bytes) -> bool:
    if tags.getall("APIC") or tags.getall("PIC"):
        return False
    tags.add(APIC(encoding=0, mime=_MIME, type=_FRONT_COVER, desc="", data=picture))
    return True


def _chunked(kind: Callable[..., Any]) -> Callable[[bytes, bytes], bytes | None]:
    """wav and aiff: a chunk of ID3."""

    def write(data: bytes, picture: bytes) -> bytes | None:
        version, sink = 3, io.BytesIO(data)
        audio = kind(sink)
        if audio.tags is None:
            audio.add_tags()
        elif audio.tags.version[1] == 2:
            audio.tags.update_to_v23()
        else:
            version = audio.tags.version[1]
            audio = kind(sink, translate=False)
        if not _add_frame(audio.tags, picture):
            return None
        sink.seek(0)
        audio.tags.save(sink, v2_version=version, v23_sep=None)
        return sink.getvalue()

    return write


def _flac(data: bytes, picture: bytes) -> bytes | None:
    sink = io.BytesIO(data)
    audio = FLAC(sink)
    if audio.pictures:
        return None
    audio.add_picture(_block(picture))
    sink.seek(0)
    audio.save(sink)
    return sink.getvalue()


def _ogg(data: bytes, picture: bytes) -> bytes | None:
    sink = io.BytesIO(data)
    audio = mutagen.File(sink, options=list(_OGG))
    if audio is None:
        raise ValueError("neither Vorbis, Opus, FLAC nor Speex")
    if audio.tags is None:
        audio.add_tags()
    if any(audio.tags.get(name) for name in _PICTURE_FIELDS):
        return None
    audio.tags["metadata_block_picture"] = [base64.b64encode(_block(picture).write()).decode()]
    sink.seek(0)
    audio.save(sink)
    return sink.getvalue()


def _mp4(data: bytes, picture: bytes) -> bytes | None:
    sink = io.BytesIO(data)
    audio = MP4(sink)
    if audio.tags is None:
        audio.add_tags()
    if audio.tags.get("covr"):
        return None
    audio.tags["covr"] = [MP4Cover(picture, MP4Cover.FORMAT_JPEG)]
    sink.seek(0)
    audio.save(sink)
    return sink.getvalue()


def _block(picture: bytes) -> Picture:
    """As FLAC and Vorbis comments hold it."""
    _, side = decode_at(picture, CoverSettings(), CoverSettings().size)
    block = Picture()
    block.type, block.mime, block.data = _FRONT_COVER, _MIME, picture
    block.width = block.height = side
    block.depth = _DEPTH
    return block


_WRITERS: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "mp3": _in_front,
    "aac": _in_front,
    "flac": _flac,
    "ogg": _ogg,
    "mov": _mp4,
    "wav": _chunked(WAVE),
    "aiff": _chunked(AIFF),
}


def _rest(kind: str, data: bytes) -> _Rest:
    """All tags but the picture, in a form that can be compared."""
    file = io.BytesIO(data)
    match kind:
        case "mp3" | "aac":
            return _frames(_load_id3(data[: _id3_bytes(data)]) if data.startswith(b"ID3") else ID3())
        case "wav" | "aiff":
            audio = {"wav": WAVE, "aiff": AIFF}[kind](file)
            return _frames(ID3() if audio.tags is None else audio.tags)
        case "flac":
            audio = FLAC(file)
            blocks = [(block.code, block.write()) for block in audio.metadata_blocks if block.code not in (1, 4, 6)]
            return {"blocks": blocks, "tags": _comments(audio.tags)}
        case "ogg":
            return {"tags": _comments(mutagen.File(file, options=list(_OGG)).tags)}
        case _:
            return {key: value for key, value in (MP4(file).tags or {}).items() if key != "covr"}


def _frames(tags: ID3) -> _Rest:
    known = {key: repr(frame) for key, frame in tags.items() if not key.startswith("APIC")}
    return known | {"unknown": [bytes(frame) for frame in tags.unknown_frames]}


def _comments(tags: Any) -> list[tuple[str, str]]:
    return [(key, value) for key, value in tags or [] if key.lower() not in _PICTURE_FIELDS]
