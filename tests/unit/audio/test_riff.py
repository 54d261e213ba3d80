"""Chunks of wav and aiff: sizes that lie, chunks behind the samples, and decoders that are opened side by side."""

import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from gatefold.audio.decoding import decode_windows
from gatefold.audio.riff import find_samples
from gatefold.errors import TruncatedAudio, UndecodableAudio
from gatefold.ranged import BytesSource, RangedFile
from tests.sounds import AUDIO, encoded, music, muxed, tone, written

SOUND = tone(4.0)
WAV = encoded(SOUND)
AIFF = encoded(SOUND, format="AIFF")
BEHIND = b"id3 " + struct.pack("<I", 40_000) + bytes(40_000) + b"LIST" + struct.pack("<I", 4) + b"INFO"
BEHIND_AIFF = b"ID3 " + struct.pack(">I", 40_000) + bytes(40_000)


def sized(data: bytes, whole: int, samples: int) -> bytes:
    """A wav or aiff with these two sizes written into it."""
    order, name = ("<", b"data") if data[:4] == b"RIFF" else (">", b"SSND")
    samples += 8 if name == b"SSND" and 0 < samples < 1 << 31 else 0  # its offset and block size count too
    at = data.index(name) + 4
    changed = bytearray(data)
    changed[4:8] = struct.pack(f"{order}I", whole)
    changed[at : at + 4] = struct.pack(f"{order}I", samples)
    return bytes(changed)


WITH_CHUNKS_BEHIND = {
    "wav": sized(WAV + BEHIND, len(WAV + BEHIND) - 8, len(SOUND) * 2),
    "aiff": sized(AIFF + BEHIND_AIFF, len(AIFF + BEHIND_AIFF) - 8, len(SOUND) * 2),
    "ima": written(music(4.0, 16_000)[:, :1], "WAV", "IMA_ADPCM", 16_000),
    "ms": written(music(4.0, 16_000)[:, :1], "WAV", "MS_ADPCM", 16_000),
    "rf64": encoded(SOUND, format="RF64"),
}
PLACEHOLDERS = [
    (0x7FFF_FFFF, 0x7FFF_FFFF), (0x7FFF_FFFF, 0x7FFF_FFDB), (0xFFFF_F024, 0xFFFF_F000), (0xFFFF_FFFF, 0xFFFF_FFFF),
    (0x8000_0024, 0x8000_0000), (0x7FFF_F024, 0x7FFF_F000), (0, 0), (36, 0), (0, len(SOUND) * 2), (len(WAV) - 8, 0),
    (len(WAV) - 8, 10**9), (0, 10**8),
]  # fmt: skip


@pytest.mark.parametrize("sizes", PLACEHOLDERS, ids=str)
@pytest.mark.parametrize("data", [WAV, AIFF], ids=["wav", "aiff"])
def test_a_size_that_a_pipe_left_behind_means_to_the_end(data: bytes, sizes: tuple[int, int]) -> None:
    decoded, wanted = decode_windows(sized(data, *sizes), AUDIO), decode_windows(data, AUDIO)
    assert decoded.duration_s == pytest.approx(4.0, abs=0.001)
    assert np.array_equal(decoded.waveform, wanted.waveform)


@pytest.mark.parametrize("data", [WAV, AIFF], ids=["wav", "aiff"])
def test_two_sizes_that_agree_on_more_than_is_there_say_that_it_was_cut_short(data: bytes) -> None:
    with pytest.raises(TruncatedAudio, match=r"promises 4\.0 s, decoding ended at 2\.\d s"):
        decode_windows(data[: len(data) * 6 // 10], AUDIO)


def test_a_wav_without_a_sample_is_refused_though_chunks_follow() -> None:
    empty = sized(WAV[:44] + BEHIND, 36 + len(BEHIND), 0)
    with pytest.raises(UndecodableAudio, match="holds no audio"):
        decode_windows(empty, AUDIO)


@pytest.mark.parametrize("kind", WITH_CHUNKS_BEHIND)
def test_the_plain_file_holds_the_same_samples(kind: str) -> None:
    data = WITH_CHUNKS_BEHIND[kind]
    source = BytesSource(data)
    plain = find_samples(RangedFile(source, 1 << 30)).plain(source)
    with soundfile.SoundFile(RangedFile(plain, 1 << 30)) as opened:
        samples, rate = opened.read(), opened.samplerate
    with soundfile.SoundFile(RangedFile(source, 1 << 30)) as opened:
        assert rate == opened.samplerate
        assert np.array_equal(samples, opened.read())


def test_a_chunk_of_odd_size_without_its_padding_is_passed_over() -> None:
    data = WAV[:12] + b"LIST" + struct.pack("<I", 5) + b"INFOx" + WAV[12:]
    assert np.array_equal(decode_windows(data, AUDIO).waveform, decode_windows(WAV, AUDIO).waveform)


def test_an_aiff_that_describes_its_samples_behind_them_is_decoded() -> None:
    at = AIFF.index(b"COMM")
    described = AIFF[at : at + 26]
    data = AIFF[:at] + AIFF[at + 26 :] + described
    assert np.array_equal(decode_windows(data, AUDIO).waveform, decode_windows(AIFF, AUDIO).waveform)


class Watched(BytesSource):
    """Bytes in memory that call someone before each read."""

    def __init__(self, data: bytes, before: Callable[[], None]) -> None:
        super().__init__(data)
        self._before = before

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        self._before()
        return super().read_at(offset, length)


@pytest.mark.parametrize("kind", WITH_CHUNKS_BEHIND)
def test_nothing_is_fetched_while_all_other_decoders_are_locked_out(kind: str) -> None:
    locked: list[bool] = []
    lock = soundfile.SoundFile._sf_error_lock
    decode_windows(Watched(WITH_CHUNKS_BEHIND[kind], lambda: locked.append(lock.locked())), AUDIO)
    assert locked
    assert not any(locked)


EVERY_KIND = WITH_CHUNKS_BEHIND | {
    "flac": encoded(SOUND, format="FLAC"),
    "ogg": encoded(SOUND, format="OGG"),
    "mp3": encoded(SOUND, format="MP3"),
    "m4a": muxed(music(4.0), "aac", "ipod"),
    "aac": muxed(music(4.0), "aac", "adts"),
    "gsm": encoded(tone(4.0, 8_000), 8_000, subtype="GSM610"),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_thread_that_waits_for_the_store_keeps_no_other_from_decoding(kind: str) -> None:
    """At each read of one song a whole other song is decoded by another thread, as with the core of a child."""
    data, stalled = EVERY_KIND[kind], []

    def meanwhile() -> None:
        other = threading.Thread(target=decode_windows, args=(data, AUDIO), daemon=True)
        other.start()
        other.join(timeout=10)
        stalled.append(other.is_alive())

    decode_windows(Watched(data, meanwhile), AUDIO)
    assert stalled
    assert not any(stalled)
