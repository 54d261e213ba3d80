"""Sound files that lie: songs of every container and codec, and what seeded mutations make of them.

Random bytes alone would be refused at once, by a checksum or by what is read first. So the mutations know the
formats: where their lengths, counts and rates stand, and how the pages of an ogg are sealed.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from tests.sounds import CLIPS, music, muxed, written

_SHORT, _LONG = (1.5, 22_050), (20.0, 11_025)  # seconds, hertz; in the long ones decoders jump from window to window
_MOST_BYTES = 300_000
_FFMPEGS = (("libmp3lame", "mp3"), ("aac", "ipod"), ("aac", "adts"), ("alac", "ipod"))
_LIBSNDFILES = (
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "MS_ADPCM")),
    *(("AIFF", subtype) for subtype in ("PCM_16", "FLOAT", "ULAW")),
    *(("WAVEX", "PCM_32"), ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")),
)


@lru_cache(maxsize=1)
def songs() -> dict[str, bytes]:
    """Files as they should be, by a name that says what they are: real clips, short and long ones of every kind."""
    whole = {path.name: path.read_bytes() for path in CLIPS}
    for length in (_SHORT, _LONG):
        whole |= _made(*length)
    return {name: data for name, data in whole.items() if len(data) <= _MOST_BYTES}


def _made(length_s: float, rate: int) -> Iterator[tuple[str, bytes]]:
    sound, fine = music(length_s, rate), music(length_s, 48_000)
    for format, subtype in _LIBSNDFILES:
        yield f"{length_s:g} s {format} {subtype}", written(sound[:, :1], format, subtype, rate)
    for codec, container in _FFMPEGS:
        yield f"{length_s:g} s {container} {codec}", muxed(sound, codec, container, rate)
    yield f"{length_s:g} s opus", written(fine[: len(fine) // 2], "OGG", "OPUS", 48_000)
    variable = written(sound, "MP3", rate=rate, bitrate_mode="VARIABLE", compression_level=0.9)
    yield f"{length_s:g} s mp3 of variable bit rate", variable
    yield f"{length_s:g} s mp3 that does not know its length", variable[variable.index(b"\xff\xf3", 4) :]


def mutated(data: bytes, random: np.random.Generator) -> tuple[str, bytes]:
    """What was done, and what came of it: one mutation, now and then two; the pages of an ogg may be sealed again."""
    names = list(_MUTATIONS)
    done = [names[random.integers(len(names))] for _ in range(1 + (random.random() < 0.2))]
    changed = data
    for name in done:
        changed = _MUTATIONS[name](changed, random)
    if changed[:4] == b"OggS" and random.random() < 0.6:
        changed = _sealed(changed)
    return ", ".join(done), changed


def memory_bomb() -> bytes:
    """An m4a of 24 kB whose tables promise eighty million packets, of which FFmpeg makes a list of 2.8 GB."""
    bomb = bytearray(muxed(music(*_SHORT), "aac", "ipod", _SHORT[1]))
    for mark, *numbers in ((b"stsz", 4, 80_000_000), (b"stsc", 1, 1, 80_000_000)):
        for place, number in enumerate(numbers):
            at = bomb.index(mark) + 8 + 4 * place
            bomb[at : at + 4] = number.to_bytes(4, "big")
    return bytes(bomb)


# ---- blind ----------------------------------------------------------------------------------------------------------


def _flip(data: bytes, random: np.random.Generator, flips: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    if len(changed):
        changed[random.integers(len(changed), size=flips)] ^= (1 << random.integers(8, size=flips)).astype(np.uint8)
    return changed.tobytes()


def _few_flips(data: bytes, random: np.random.Generator) -> bytes:
    return _flip(data, random, int(random.integers(1, 16)))


def _many_flips(data: bytes, random: np.random.Generator) -> bytes:
    return _flip(data, random, len(data) // int(random.integers(20, 2_000)) + 1)


def _noise_in_the_head(data: bytes, random: np.random.Generator) -> bytes:
    """Its first bytes stay, or it would be no song at all."""
    head = data[12 : 12 + int(2 ** random.uniform(4, 11))]
    return data[:12] + _flip(head, random, len(head) // int(random.integers(1, 40)) + 1) + data[12 + len(head) :]


def _cut(data: bytes, random: np.random.Generator) -> tuple[int, int]:
    first, last = sorted(random.integers(len(data) + 1, size=2).tolist())
    return first, last


def _without_a_tail(data: bytes, random: np.random.Generator) -> bytes:
    """Anywhere, in its header as likely as in its sound."""
    in_header = random.random() < 0.5
    return data[: int(2 ** random.uniform(0, np.log2(len(data) + 1))) if in_header else _cut(data, random)[0]]


def _without_a_head(data: bytes, random: np.random.Generator) -> bytes:
    return data[_cut(data, random)[0] :]


def _without_a_middle(data: bytes, random: np.random.Generator) -> bytes:
    first, last = _cut(data, random)
    return data[:first] + data[last:]


def _with_a_hole(data: bytes, random: np.random.Generator) -> bytes:
    first, last = _cut(data, random)
    return data[:first] + (b"\xff" if random.random() < 0.3 else b"\0") * (last - first) + data[last:]


def _with_a_stutter(data: bytes, random: np.random.Generator) -> bytes:
    first, last = _cut(data, random)
    piece = data[first : min(last, first + (1 << 15))]
    return data[:first] + piece * int(random.integers(2, 5)) + data[first + len(piece) :]


# ---- of two files ---------------------------------------------------------------------------------------------------


def _another(random: np.random.Generator) -> bytes:
    return list(songs().values())[random.integers(len(songs()))]


def _strange_head(data: bytes, random: np.random.Generator) -> bytes:
    length = int(2 ** random.uniform(2, 13))
    return _another(random)[:length] + data[length:]


def _two_in_one(data: bytes, random: np.random.Generator) -> bytes:
    return data + _another(random)


def _exchanged_halves(data: bytes, random: np.random.Generator) -> bytes:
    first, _ = _cut(data, random)
    return data[first:] + data[:first]


# ---- knowing the format ---------------------------------------------------------------------------------------------


class _Field(NamedTuple):
    """A number: so many bytes behind the first of a mark."""

    mark: bytes
    offset: int
    width: int
    order: Literal["big", "little"]


def _fields(order: Literal["big", "little"], *marks: bytes, at: dict[int, int]) -> list[_Field]:
    """Args: at: the width of the field at each offset, in bytes."""
    return [_Field(mark, offset, width, order) for mark in marks for offset, width in at.items()]


_SHAPES = [
    *_fields("little", b"fmt ", at={8: 2, 10: 2, 12: 4, 16: 4, 20: 2, 22: 2}),
    *_fields("big", b"COMM", at={8: 2, 14: 2, 16: 2, 18: 8}),
    *_fields("big", b"fLaC", at={8: 2, 10: 2, 18: 3, 20: 2}),
    *_fields("little", b"\x01vorbis", at={7: 4, 11: 1, 12: 4, 28: 1, 29: 1}),
    *_fields("little", b"OpusHead", at={8: 1, 9: 1, 10: 2, 12: 4, 16: 2, 18: 1}),
    *_fields("big", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9", at={2: 2}),
    *_fields("big", b"mp4a", b"alac", at=dict.fromkeys(range(18, 30, 2), 2)),
]
"""channels, rates, bits, codecs"""
_OLD_CODECS = (
    b"mp4a alac ac-3 ec-3 ac-4 dtsc dtsh mlpa fLaC Opus spex samr sawb sqcp QDM2 QDMC MAC3 MAC6 ima4 ulaw alaw in24 "
    b"in32 sowt twos raw. NONE fl32 fl64 lpcm agsm .mp3 nmos vdva dvca enca ipcm mha1 mhm1 OggS MP4S text zzzz"
).split()
_CODECS = {
    b"fmt ": (8, [bytes([kind, 0]) for kind in (1, 2, 3, 6, 7, 0x11, 0x31, 0x40, 0x50, 0x55, 0x65, 0xFF)]),
    b"stsd\0": (16, _OLD_CODECS),
    b"OpusHead": (0, [b"Speex   1.2", b"\x7fFLAC\x01\0\0\1", b"\x80theora", b"CELT    ", b"\x01audio\0"]),
    b"\x01vorbis": (0, [b"\x01audio\0", b"\x01video\0", b"\x80theora", b"BBCD\0", b"Speex  ", b"\x7fFLAC\x01\0"]),
}
"""how far behind the mark the name stands, and what others could stand there"""
_LENGTHS = [
    *_fields("little", b"RIFF", b"fmt ", b"data", b"LIST", b"ds64", b"PEAK", b"fact", at={4: 4}),
    *_fields("little", b"ds64", at={8: 8, 16: 8, 24: 8}),
    *_fields("little", b"fmt ", at={24: 2, 26: 2, 28: 2}),
    *_fields("little", b"fact", at={8: 4}),
    *_fields("big", b"FORM", b"COMM", b"SSND", at={4: 4}),
    *_fields("big", b"COMM", at={10: 4}),
    *_fields("big", b"SSND", at={8: 4, 12: 4}),
    *_fields("big", b"fLaC", at={4: 1, 5: 3, 12: 3, 15: 3, 21: 5, 43: 3}),
    *_fields("big", b"Xing", b"Info", at={4: 4, 8: 4, 12: 4}),
    *_fields("big", b"ID3", at={3: 1, 5: 1, 6: 4, 14: 4}),
    *_fields("big", b"TSSE", b"TIT2", b"APIC", b"TXXX", at={4: 4}),
    *_fields("little", b"OggS", at={5: 1, 6: 8, 14: 4, 18: 4, 26: 1, 27: 1, 28: 1}),
    *_fields("little", b"\x03vorbis", b"\x05vorbis", at={7: 4}),
    *_fields("little", b"OpusTags", at={8: 4, 12: 4}),
    *_fields("big", b"\xff\xf1", at={3: 3}),
    *_fields("big", b"esds", b"alac", at={8: 4}),
    *_fields("big", b"stsz", b"stco", b"stsc", b"stts", b"elst", at=dict.fromkeys(range(-4, 28, 4), 4)),
    *_fields("big", b"mdhd", b"mvhd", b"tkhd", b"trak", b"stsd", at=dict.fromkeys(range(-4, 28, 4), 4)),
    *_fields("big", b"ftyp", b"mdat", b"moov", at={-4: 4}),
]
"""lengths, sizes, counts, times, places"""


def _lying(data: bytes, random: np.random.Generator, fields: list[_Field]) -> bytes:
    """One to three of the fields that this file has, each with a number that may mean harm."""
    changed = bytearray(data)
    there = [field for field in fields if field.mark in data]
    for _ in range(int(random.integers(1, 4)) if there else 0):
        mark, offset, width, order = there[random.integers(len(there))]
        places = _places(data, mark)
        at = places[random.integers(len(places))] + offset
        if 0 <= at <= len(changed) - width:
            true = int.from_bytes(changed[at : at + width], order)
            changed[at : at + width] = _lie(true, 1 << (8 * width), random).to_bytes(width, order)
    return bytes(changed)


def _lie(true: int, top: int, random: np.random.Generator) -> int:
    drawn = int(random.random() * top)
    near = (true + 1, true - 1, true * 2, true // 2, true << 8)
    lies = (0, 1, 2, drawn % 256, drawn, top // 2 - 1, top // 2, top - 2, top - 1, *near)
    return lies[random.integers(len(lies))] % top


def _another_codec(data: bytes, random: np.random.Generator) -> bytes:
    """Where its name stands. Decoders of forty years hide behind an m4a."""
    for mark, (offset, names) in _CODECS.items():
        if mark in data:
            at, name = data.index(mark) + offset, names[random.integers(len(names))]
            data = data[:at] + name + data[at + len(name) :]
    return data.replace(b"esds", b"free") if random.random() < 0.5 else data  # there stands, once more, that it is AAC


def _places(data: bytes, mark: bytes) -> list[int]:
    """The first eight places of a mark, and the last."""
    places = [data.rindex(mark)]
    at = data.find(mark)
    while at >= 0 and len(places) < 9:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


def _lying_lengths(data: bytes, random: np.random.Generator) -> bytes:
    return _lying(data, random, _LENGTHS)


def _lying_shapes(data: bytes, random: np.random.Generator) -> bytes:
    return _lying(data, random, _SHAPES)


def _sealed(data: bytes) -> bytes:
    """An ogg whose pages bear the checksums of what they hold now."""
    sealed = bytearray(data)
    at = 0
    while (at := data.find(b"OggS", at)) >= 0 and at + 27 <= len(data):
        body = at + 27 + data[at + 26]
        end = body + sum(data[at + 27 : body])
        sealed[at + 22 : at + 26] = bytes(4)
        crc = 0
        for byte in sealed[at:end]:
            crc = ((crc << 8) & 0xFFFF_FFFF) ^ _OGG_CRC[(crc >> 24) ^ byte]
        sealed[at + 22 : at + 26] = crc.to_bytes(4, "little")
        at += 27
    return bytes(sealed)


def _crc_of(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1) ^ (0x1_04C1_1DB7 if crc & 0x8000_0000 else 0)
    return crc


_OGG_CRC = [_crc_of(byte) for byte in range(256)]

_MUTATIONS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "few flips": _few_flips,
    "many flips": _many_flips,
    "noise in the head": _noise_in_the_head,
    "no tail": _without_a_tail,
    "no head": _without_a_head,
    "no middle": _without_a_middle,
    "a hole": _with_a_hole,
    "a stutter": _with_a_stutter,
    "a strange head": _strange_head,
    "two in one": _two_in_one,
    "exchanged halves": _exchanged_halves,
    "lying lengths": _lying_lengths,
    "lying shapes": _lying_shapes,
    "another codec": _another_codec,
}
