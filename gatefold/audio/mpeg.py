"""Frames of MPEG audio: their headers, what the first of them promises of the whole, and where constant ones lie.

Knows no decoder. What is promised here is compared with the file before it is believed.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from gatefold.ranged import RangedFile

_KBITS = {  # by version 1 or not, and layer: bit rates of index 1 to 14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_FRAMES_IN_A_ROW = 3  # that must follow one another where junk comes first; chance gives two now and then
_FIRST_BYTES = 4_096
_ID3V1_BYTES = 128
_TAIL_BYTES = 160  # that hold the footers of all tags behind the music


@dataclass(frozen=True)
class Frame:
    """The header of a frame: layer 1 to 3, hertz, samples it holds, bytes it takes, and its share of them a sample."""

    layer: int
    rate: int
    samples: int
    size: int
    exact: Fraction
    """bytes, without padding and rounding"""
    side_bytes: int
    """between the header and what a Xing header would be in, with the header"""


@dataclass(frozen=True)
class Promise:
    """What the first frame of an mp3 says of all: frames and bytes, None where it does not."""

    constant: bool
    """bit rate"""
    frames: int | None
    bytes: int | None


def frame_at(data: bytes, at: int) -> Frame | None:
    """The frame whose header begins at this byte; None where there is none."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, hertz, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or not 0 < bits < 15 or hertz == 3:
        return None
    first = version == 3
    rate, per_s = _HERTZ[version][hertz], 1_000 * _KBITS[first, layer][bits - 1]
    slot = 4 if layer == 1 else 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    exact = Fraction(samples * per_s, 8 * rate)
    size = (int(exact / slot) + padding) * slot
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if first else (9 if mono else 17)
    return Frame(layer, rate, samples, size, exact, 4 + side)


def adts_at(data: bytes, at: int) -> int | None:
    """Bytes of the frame of bare AAC whose header begins at this byte; None where there is none."""
    head = data[at : at + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else None


def first_frame(data: bytes) -> tuple[Literal["mp3", "aac"], int] | None:
    """Kind and place of the first of several frames that follow one another; None where there are none."""
    at = data.find(b"\xff")
    while at >= 0:
        for kind in ("mp3", "aac"):
            if _is_row(data, at, kind):
                return kind, at
        at = data.find(b"\xff", at + 1)
    return None


def _is_row(data: bytes, at: int, kind: Literal["mp3", "aac"]) -> bool:
    key = None
    for number in range(_FRAMES_IN_A_ROW):
        if kind == "mp3":
            frame = frame_at(data, at)
            size, found = (frame.size, (frame.layer, frame.rate)) if frame else (None, None)
        else:
            size, found = adts_at(data, at), (0, data[at + 2] >> 2 & 15) if at + 2 < len(data) else None
        if size is None or (number and found != key):
            return False
        key, at = found, at + size
    return True


def promise(data: bytes) -> Promise | None:
    """What the first frame, with which `data` begins, says of the whole; None where it is a frame as any other."""
    frame = frame_at(data, 0)
    if frame is None:
        return None
    for at in (frame.side_bytes, frame.side_bytes + 2):  # behind a checksum
        if (mark := data[at : at + 4]) in (b"Xing", b"Info"):
            flags = int.from_bytes(data[at + 4 : at + 8], "big")
            numbers = [int.from_bytes(data[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(2)]
            frames = numbers.pop(0) if flags & 1 else None
            return Promise(mark == b"Info", frames, numbers[0] if flags & 2 else None)
    if data[36:40] == b"VBRI":
        return Promise(False, int.from_bytes(data[50:54], "big"), int.from_bytes(data[46:50], "big"))
    return None


@dataclass(frozen=True)
class Grid:
    """Where the frames of an mp3 of constant bit rate lie: number n at `first` + n * `exact`, rounded."""

    first: int
    exact: Fraction

    def number(self, at: int) -> int | None:
        """Of the frame that begins at this byte; None where none can."""
        number = round((at - self.first) / self.exact)
        off = at - self.first - number * self.exact
        return number if abs(off) <= 2 else None


@dataclass(frozen=True)
class FrameLayout:
    """What is known of an mp3 before a frame of it is decoded."""

    honest: bool
    """whether what its first frame promises may be so; True, too, where it promises nothing"""
    grid: Grid | None
    """where every frame lies, if its bit rate is constant"""
    samples: int = 0
    """promised; 0 where nothing is"""
    bytes: int = 0
    """promised; 0 where nothing is"""

    def agrees(self, file: RangedFile, counted: int) -> bool:
        """Whether so many samples were to be expected, and no other file begins within what was read."""
        if self.samples and abs(counted - self.samples) > 2 * 1152:
            return False
        inner = max(self.bytes and 1, 0)  # its own first frame
        found = sum(data.count(mark) for _, data in file.segments() for mark in (b"Xing", b"Info"))
        return found <= inner

    def is_longer_than(self, size: int, samples: int) -> bool:
        """Whether both promises agree, by the bytes a second, that these bytes and samples are a part of it all."""
        if not self.bytes or not self.samples or self.bytes <= size:
            return False
        return 0.75 < (self.samples / self.bytes) / (samples / size) < 1.33


UNKNOWN = FrameLayout(True, None)
"""Of a file that is no mp3, or promises nothing."""


def layout(file: RangedFile) -> FrameLayout:
    """What the first frame, which begins at the first byte, promises, as far as it agrees with the size of the file."""
    file.seek(0)
    data = file.read(_FIRST_BYTES)
    file.check()
    frame, promised = frame_at(data, 0), promise(data)
    if frame is None or promised is None:
        return UNKNOWN
    said = (promised.frames or 0) * frame.samples, promised.bytes or 0
    if not promised.frames or not promised.bytes:
        return FrameLayout(False, None, *said)
    surplus = file.size - promised.bytes
    if abs(surplus) > frame.size + _ID3V1_BYTES and (surplus < 0 or surplus != _tag_bytes(file)):
        return FrameLayout(False, None, *said)
    second = frame_at(data, frame.size)
    if not promised.constant or second is None:
        return FrameLayout(True, None, *said)
    # some count the first frame, which holds no music, and some do not
    off = promised.bytes - promised.frames * second.exact
    if not -second.size <= off <= frame.size + second.size:
        return FrameLayout(False, None, *said)
    return FrameLayout(True, Grid(frame.size, second.exact), *said)


def _tag_bytes(file: RangedFile) -> int:
    """Bytes of the tags behind the music, by their footers: ID3v1, APEv2."""
    file.seek(max(0, file.size - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    file.check()
    found = _ID3V1_BYTES if tail[-_ID3V1_BYTES:][:3] == b"TAG" else 0
    footer = tail[: len(tail) - found][-32:]
    if footer[:8] == b"APETAGEX":
        size, flags = int.from_bytes(footer[12:16], "little"), int.from_bytes(footer[20:24], "little")
        found += size + (32 if flags >> 31 else 0)
    return found


def ends_within_a_frame(file: RangedFile) -> bool:
    """Whether the last frame of an mp3 lacks bytes: then it was cut short."""
    reach = min(file.size, 8 * _FIRST_BYTES)
    file.seek(file.size - reach)
    data = file.read(reach)
    file.check()
    found = first_frame(data)
    if found is None:
        return False
    at = found[1]
    while (frame := frame_at(data, at)) is not None:
        at += frame.size
    return at > len(data)
