"""The container format of a sound file, by its content; used by the decoders and by the reader of tags.

A file's name is not used. What comes before the sound (tags, zeros, text of a radio station, half a frame) is
passed over.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from gatefold.audio.mpeg import adts_at, first_frame, frame_at
from gatefold.ranged import PrefixedRange, RangedFile, Source

ContainerKind: TypeAlias = Literal["wav", "aiff", "flac", "ogg", "mov", "mp3", "aac"]
FORMATS = "wav, flac, mp3, ogg (vorbis, opus), m4a, aac or aiff"
_REACH = 1 << 16  # bytes of junk in front that are looked through
_HEAD = 64
_ATOMS = (b"free", b"skip", b"wide", b"pnot", b"mdat", b"uuid")
"""that may come before `ftyp` or `moov`"""
_MARKS: tuple[bytes, ...] = (b"fLaC", b"OggS", b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"ftyp", b"ID3")
_MOST_TAGS = 8


@dataclass(frozen=True)
class Container:
    """A sound file of some kind, whose own first byte is number `start`."""

    kind: ContainerKind
    start: int

    def of(self, source: Source) -> Source:
        """The file without the bytes before it."""
        return PrefixedRange(b"", source, self.start, source.size - self.start) if self.start else source


def identify(file: RangedFile) -> Container | None:
    """What a file is; None when it is no sound file that is known. Raises: as `RangedFile.check`."""
    at = 0
    for _ in range(_MOST_TAGS):
        head = _read(file, at, _HEAD)
        kind = _kind_of(file, head, at)
        if kind is not None:
            return Container(kind, at)
        behind = _behind_id3(head, at)
        if behind is None or behind >= file.size:
            break
        at = behind
    return _beyond_junk(file, at) or (_beyond_junk(file, 0) if at else None)


def _beyond_junk(file: RangedFile, at: int) -> Container | None:
    """The first that is found a little further on."""
    data = _read(file, at, _REACH + _HEAD)
    found: list[tuple[int, ContainerKind | None]] = []
    frames = first_frame(data)
    if frames is not None:
        found.append((frames[1], frames[0]))
    for mark in _MARKS:
        place = data.find(mark)
        while place >= 0:
            start = place - 4 if mark == b"ftyp" else place
            kind = _by_mark(data[max(start, 0) :][:_HEAD])
            if start >= 0 and (kind is not None or mark == b"ID3"):
                found.append((start, kind))
                break
            place = data.find(mark, place + 1)
    for start, kind in sorted(found, key=lambda pair: pair[0]):
        if kind is not None:
            return Container(kind, at + start)
        behind = _behind_id3(data[start : start + _HEAD], at + start)
        if start and behind is not None and (inner := _kind_of(file, _read(file, behind, _HEAD), behind)) is not None:
            return Container(inner, behind)
    return None


def _kind_of(file: RangedFile, head: bytes, at: int) -> ContainerKind | None:
    """What begins with these bytes, which begin at byte `at`."""
    kind = _by_mark(head)
    if kind is not None:
        return kind
    if head[4:8] in _ATOMS or head[4:8] == b"moov":
        return "mov" if _is_mov(file, at) else None
    if adts_at(head, 0):
        return "aac"
    return "mp3" if frame_at(head, 0) else None


def _by_mark(head: bytes) -> ContainerKind | None:
    """By letters that announce a format."""
    if head[:4] in (b"fLaC", b"OggS"):
        return "flac" if head[:4] == b"fLaC" else "ogg"
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    return "mov" if head[4:8] == b"ftyp" else None


def _is_mov(file: RangedFile, at: int) -> bool:
    """Whether atoms lead from here to `ftyp` or `moov`."""
    start = at
    for _ in range(16):
        head = _read(file, at, 16)
        if head[4:8] in (b"ftyp", b"moov"):
            return True
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if head[4:8] not in _ATOMS or size < 8:
            return False
        at += size
    return at > start


def _behind_id3(head: bytes, at: int) -> int | None:
    """The byte behind an ID3v2 tag that begins with `head`; None where it is none."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 0x7F:
        return None
    size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return at + 10 + size + (10 if head[5] & 0x10 else 0)


def _read(file: RangedFile, at: int, length: int) -> bytes:
    file.seek(at)
    data = file.read(length)
    file.check()
    return data
