"""Sound files as people join, cut and mislabel them: every one is what FFmpeg decodes of it from its first byte on.

Quickly imported, as `tests.sounds`; each file is made when it is asked for.
"""

import io
import struct
from collections.abc import Callable
from functools import lru_cache

import av
import numpy as np

from gatefold.audio.decoding import Windows
from gatefold.audio.mpeg import frame_at
from gatefold.audio.ogg import pages
from tests.sounds import Samples, encoded, music, muxed, written

LONG_S, SHORT_S = 12.0, 1.7
_JUNK = b"\7junk that is no sound\xfe" * 400
LEAST_CORRELATION = 0.95
"""of a window and the same place of the whole; two decodings of noise bands in AAC differ by chance"""


def _sound(duration_s: float, rate: int, seed: int) -> Samples:
    """A part of one melody, no second of it like another; every seed has another part."""
    whole = music(duration_s + 7 * seed, rate)
    return np.ascontiguousarray(whole[-round(duration_s * rate) :])


@lru_cache(maxsize=8)
def _mp3(duration_s: float, seed: int, rate: int = 44_100, kbits: int = 128, *, bare: bool = False) -> bytes:
    data = muxed(_sound(duration_s, rate, seed), "libmp3lame", "mp3", rate, 1_000 * kbits, compression_level="9")
    if bare:
        first = data.index(b"Info") - 36
        frame = frame_at(data, first)
        assert frame
        return data[first + frame.size :]
    return data


@lru_cache(maxsize=8)
def _vbr(duration_s: float, seed: int, rate: int = 44_100) -> bytes:
    sound = _sound(duration_s, rate, seed)
    sound[: len(sound) // 3] *= 0.01
    return written(sound, "MP3", rate=rate, bitrate_mode="VARIABLE", compression_level=0.6)


@lru_cache(maxsize=8)
def _flac(duration_s: float, seed: int, rate: int = 22_050) -> bytes:
    return written(_sound(duration_s, rate, seed), "FLAC", "PCM_16", rate)


def _ogg_flac(duration_s: float, seed: int) -> bytes:
    return muxed(_sound(duration_s, 22_050, seed), "flac", "ogg", 22_050)


@lru_cache(maxsize=8)
def _ogg(duration_s: float, seed: int, rate: int = 44_100) -> bytes:
    return written(_sound(duration_s, rate, seed), "OGG", "VORBIS", rate)


@lru_cache(maxsize=8)
def _opus(duration_s: float, seed: int) -> bytes:
    return written(_sound(duration_s, 48_000, seed), "OGG", "OPUS", 48_000)


@lru_cache(maxsize=8)
def _m4a(duration_s: float, seed: int) -> bytes:
    return muxed(_sound(duration_s, 44_100, seed), "aac", "ipod", aac_coder="fast")


@lru_cache(maxsize=8)
def _aac(duration_s: float, seed: int, rate: int = 44_100) -> bytes:
    return muxed(_sound(duration_s, rate, seed), "aac", "adts", rate, aac_coder="fast")


def _wav(duration_s: float, seed: int, format: str = "WAV") -> bytes:
    return encoded(_sound(duration_s, 16_000, seed), 16_000, format=format)


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _xing(data: bytes, frames: float = 1.0, size: float = 1.0) -> bytes:
    """An mp3 whose first frame lies by these factors."""
    at = max(data.find(b"Info"), data.find(b"Xing")) + 8
    stated = struct.unpack(">II", data[at : at + 8])
    return _patched(data, at, struct.pack(">II", round(stated[0] * frames), round(stated[1] * size)))


def _total(data: bytes, factor: float) -> bytes:
    """A flac whose header lies by this factor."""
    bits = int.from_bytes(data[18:26], "big")
    samples = bits & 0xF_FFFF_FFFF
    return _patched(data, 18, ((bits ^ samples) | round(samples * factor)).to_bytes(8, "big"))


def _mdhd(data: bytes, factor: float) -> bytes:
    """An m4a whose headers lie by this factor."""
    for name, at in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        place = data.index(name) + at
        stated = int.from_bytes(data[place : place + 4], "big")
        data = _patched(data, place, round(stated * factor).to_bytes(4, "big"))
    return data


def _same_stream(one: bytes, other: bytes) -> bytes:
    """Two oggs joined, the second under the stream number of the first: as encoders without chance make them."""
    serial = one[14:18]
    changed = bytearray(other)
    for page in pages(other):
        changed[page.start + 14 : page.start + 18] = serial
        changed[page.start + 22 : page.start + 26] = bytes(4)
        changed[page.start + 22 : page.start + 26] = _crc(changed[page.start : page.start + page.size])
    return one + bytes(changed)


def _crc(page: bytes | bytearray) -> bytes:
    remainder = 0
    for byte in page:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x04C1_1DB7 if remainder & 0x8000_0000 else 0)) & 0xFFFF_FFFF
    return remainder.to_bytes(4, "little")


def _from_the_middle(data: bytes, headers: int) -> bytes:
    """An ogg's first pages, and then those of its second half."""
    found = pages(data)
    return data[: found[headers].start] + data[found[len(found) // 2].start :]


def _in_riff(data: bytes, tag: int = 0x55) -> bytes:
    """An mp3 inside a wav."""
    described = struct.pack("<HHIIHHH", tag, 2, 44_100, 16_000, 1, 0, 0)
    fact = b"fact" + struct.pack("<II", 4, 12_345)  # no number of samples that is true
    body = b"WAVEfmt " + struct.pack("<I", len(described)) + described + fact + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data


def _id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def _free(size: int) -> bytes:
    return struct.pack(">I", size) + b"free" + bytes(size - 8)


def _with_free_in_front(data: bytes) -> bytes:
    """An m4a whose index counts 40 bytes more, as `free` stands first."""
    at = data.index(b"stco") + 8
    (count,) = struct.unpack(">I", data[at : at + 4])
    places = [place + 40 for place in struct.unpack(f">{count}I", data[at + 4 : at + 4 + 4 * count])]
    return _free(40) + _patched(data, at + 4, struct.pack(f">{count}I", *places))


def _gsm(duration_s: float) -> bytes:
    return encoded(_sound(duration_s, 8_000, 1)[:, 0], 8_000, subtype="GSM610")


FILES: dict[str, Callable[[], bytes]] = {
    "mp3 short + long": lambda: _mp3(SHORT_S, 1) + _mp3(LONG_S, 2),
    "mp3 long + short": lambda: _mp3(LONG_S, 1) + _mp3(SHORT_S, 2),
    "mp3 twice": lambda: _mp3(LONG_S, 1) * 2,
    "mp3 of unlike bit rates": lambda: _mp3(SHORT_S, 1, kbits=64) + _mp3(LONG_S, 2, kbits=192),
    "mp3 without headers, joined": lambda: _mp3(5.0, 1, bare=True) + _mp3(9.0, 2, kbits=96, bare=True),
    "mp3 without a header + with one": lambda: _mp3(5.0, 1, bare=True) + _mp3(9.0, 2),
    "mp3 with tags between": lambda: _mp3(5.0, 1) + _id3(3_000) + _mp3(12.0, 2),
    "mp3 constant": lambda: _mp3(LONG_S, 1),
    "mp3 constant at 22 kHz": lambda: _mp3(LONG_S, 1, rate=22_050, kbits=56),
    "mp3 constant behind a tag": lambda: _id3(70_000) + _mp3(LONG_S, 1),
    "mp3 variable": lambda: _vbr(LONG_S, 1),
    "mp3 variable + variable": lambda: _vbr(SHORT_S, 1) + _vbr(LONG_S, 2),
    "mp3 frames too few": lambda: _xing(_mp3(LONG_S, 1), frames=0.5),
    "mp3 frames too many": lambda: _xing(_mp3(LONG_S, 1), frames=2.0),
    "mp3 bytes too few": lambda: _xing(_mp3(LONG_S, 1), size=0.4),
    "mp3 both too few": lambda: _xing(_mp3(LONG_S, 1), frames=0.5, size=0.5),
    "mp3 variable frames too few": lambda: _xing(_vbr(LONG_S, 1), frames=0.5),
    "mp3 variable frames too many": lambda: _xing(_vbr(LONG_S, 1), frames=2.0),
    "mp3 variable both too few": lambda: _xing(_vbr(LONG_S, 1), frames=0.6, size=0.6),
    "mp3 with zeros behind": lambda: _mp3(LONG_S, 1) + bytes(60_000),
    "mp3 with a tag behind": lambda: _mp3(LONG_S, 1) + b"TAG" + bytes(125),
    "mp3 variable with zeros behind": lambda: _vbr(LONG_S, 1) + bytes(60_000),
    "mp3 behind text": lambda: b"ICY 200 OK\r\nicy-name: some radio\r\n\r\n" + _mp3(LONG_S, 1, bare=True),
    "mp3 behind zeros": lambda: bytes(5_000) + _mp3(LONG_S, 1, bare=True),
    "mp3 behind half a frame": lambda: _mp3(LONG_S, 1, bare=True)[200:],
    "mp3 of 25 minutes": lambda: _mp3(LONG_S, 1, kbits=32, bare=True) * 125,
    "mp3 in a wav": lambda: _in_riff(_mp3(LONG_S, 1, bare=True)),
    "mp3 in a wav, with a header": lambda: _in_riff(_mp3(LONG_S, 1)),
    "mp3 joined in a wav": lambda: _in_riff(_mp3(SHORT_S, 1) + _mp3(LONG_S, 2)),
    "flac": lambda: _flac(LONG_S, 1),
    "flac total too low": lambda: _total(_flac(LONG_S, 1), 0.5),
    "flac total a little too low": lambda: _total(_flac(LONG_S, 1), 0.95),
    "flac total too high": lambda: _total(_flac(LONG_S, 1), 2.0),
    "flac without a total": lambda: _total(_flac(LONG_S, 1), 0.0),
    "flac behind a tag": lambda: _id3(3_000) + _flac(LONG_S, 1),
    "flac with zeros behind": lambda: _flac(LONG_S, 1) + bytes(30_000),
    "flac short + long": lambda: _flac(SHORT_S, 1) + _flac(LONG_S, 2),
    "flac of as many samples": lambda: _flac(LONG_S, 1) + _flac(LONG_S, 2),
    "flac in an ogg": lambda: _ogg_flac(LONG_S, 1),
    "flac joined in an ogg": lambda: _ogg_flac(SHORT_S, 1) + _ogg_flac(LONG_S, 2),
    "vorbis": lambda: _ogg(LONG_S, 1),
    "vorbis short + long": lambda: _ogg(SHORT_S, 1) + _ogg(LONG_S, 2),
    "vorbis long + short": lambda: _ogg(LONG_S, 1) + _ogg(SHORT_S, 2),
    "vorbis twice": lambda: _ogg(LONG_S, 1) * 2,
    "vorbis in three parts": lambda: _ogg(SHORT_S, 1) + _ogg(LONG_S, 2) + _ogg(SHORT_S, 1),
    "vorbis of one stream number": lambda: _same_stream(_ogg(6.0, 1), _ogg(LONG_S, 2)),
    "vorbis cut from a stream": lambda: _from_the_middle(_ogg(LONG_S, 1), 2),
    "opus": lambda: _opus(LONG_S, 1),
    "opus short + long": lambda: _opus(SHORT_S, 1) + _opus(LONG_S, 2),
    "opus twice": lambda: _opus(LONG_S, 1) * 2,
    "opus of one stream number": lambda: _same_stream(_opus(6.0, 1), _opus(LONG_S, 2)),
    "opus cut from a stream": lambda: _from_the_middle(_opus(LONG_S, 1), 2),
    "m4a": lambda: _m4a(LONG_S, 1),
    "m4a twice": lambda: _m4a(LONG_S, 1) + _m4a(SHORT_S, 2),
    "m4a total too low": lambda: _mdhd(_m4a(LONG_S, 1), 0.5),
    "m4a total too high": lambda: _mdhd(_m4a(LONG_S, 1), 2.0),
    "m4a behind free": lambda: _with_free_in_front(_m4a(LONG_S, 1)),
    "m4a with junk behind": lambda: _m4a(LONG_S, 1) + _JUNK,
    "m4a of ALAC": lambda: muxed(_sound(LONG_S, 44_100, 1), "alac", "ipod"),
    "aac": lambda: _aac(LONG_S, 1),
    "aac joined": lambda: _aac(SHORT_S, 1) + _aac(LONG_S, 2),
    "aac behind a tag": lambda: _id3(500) + _aac(LONG_S, 1),
    "aac between junk": lambda: _JUNK + _aac(LONG_S, 1) + _JUNK,
    "aac behind half a frame": lambda: _aac(LONG_S, 1)[150:],
    "wav": lambda: _wav(LONG_S, 1),
    "wav joined": lambda: _wav(SHORT_S, 1) + _wav(LONG_S, 2),
    "wav with junk behind": lambda: _wav(LONG_S, 1) + _JUNK,
    "aiff": lambda: _wav(LONG_S, 1, "AIFF"),
    "aiff joined": lambda: _wav(SHORT_S, 1, "AIFF") + _wav(LONG_S, 2, "AIFF"),
    "aiff with junk behind": lambda: _wav(LONG_S, 1, "AIFF") + _JUNK,
    "wav of GSM": lambda: _gsm(LONG_S),
    "wav of ADPCM": lambda: written(_sound(LONG_S, 22_050, 1), "WAV", "MS_ADPCM", 22_050),
}
"""By what was done to them."""

PARTS: dict[str, Callable[[float, int], bytes]] = {
    "mp3": _mp3,
    "mp3 variable": _vbr,
    "mp3 bare": lambda duration_s, seed: _mp3(duration_s, seed, bare=True),
    "flac": _flac,
    "vorbis": _ogg,
    "opus": _opus,
    "aac": _aac,
}
"""By kind, what makes a part of so many seconds, of one of many melodies."""

UNLIKE: dict[str, Callable[[], bytes]] = {
    "mp3": lambda: _mp3(5.0, 1) + _mp3(5.0, 2, rate=48_000),
    "vorbis": lambda: _ogg(5.0, 1) + _ogg(5.0, 2, 32_000),
    "aac": lambda: _aac(5.0, 1) + _aac(5.0, 2, 32_000),
}
"""Parts of unlike sample rates, joined."""


def whole(data: bytes) -> tuple[int, Samples]:
    """Hertz and mono samples [N] of all that FFmpeg decodes, from the first byte on."""
    pieces = []
    with av.open(io.BytesIO(data), metadata_errors="ignore") as container:
        for packet in container.demux(container.streams.audio[0]):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                continue
            for frame in frames:
                block = frame.to_ndarray()
                block = block.T if frame.format.is_planar else block.reshape(-1, frame.layout.nb_channels)
                scale = {"i2": 2**15, "i4": 2**31}.get(block.dtype.str[1:], 1)
                pieces.append(block.astype(np.float32).mean(axis=1) / np.float32(scale))
                rate = frame.sample_rate
    return rate, np.concatenate(pieces)


def misplaced(found: Windows, rate: int, truth: Samples) -> list[str]:
    """What of these windows differs from the whole, in words: length, or the correlation of a window at its place."""
    wrong = []
    if abs(found.duration_s - len(truth) / rate) > 0.1 or found.rate != rate:
        wrong.append(f"{found.duration_s:.3f} s at {found.rate} Hz, not {len(truth) / rate:.3f} s at {rate} Hz")
    for start_s, window in zip(found.starts_s, found.waveform, strict=True):
        there = truth[round(float(start_s) * rate) :][: len(window)]
        here = window[: len(there)]
        alike = there @ here / (np.linalg.norm(there) * np.linalg.norm(here))
        if not alike > LEAST_CORRELATION:
            wrong.append(f"{start_s:.3f} s: {alike:.3f}")
    return wrong
