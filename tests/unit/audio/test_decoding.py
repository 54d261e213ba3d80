"""Decoders: windows of long files against the whole of them, how little is read, and files cut short."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gatefold.audio.decoding import decode_windows, window_starts
from gatefold.config import AudioSettings
from gatefold.errors import StorageUnavailable, TruncatedAudio, UndecodableAudio
from gatefold.ranged import BytesSource, RangedFile
from tests.sounds import AUDIO, CLIPS, Samples, encoded, music, muxed, tone, written

WINDOWS = AudioSettings(window_s=2.5)
WHOLE = AudioSettings(window_s=600.0, windows=1)
LONG_S = 60.0


class CountingSource(BytesSource):
    """Bytes in memory that remember what was read of them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[int] = []

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        data = super().read_at(offset, length)
        self.reads.append(len(data))
        return data


MUSIC = music(LONG_S)
LONG = {
    "wav": written(MUSIC, "WAV", "PCM_16"),
    "aiff": written(MUSIC, "AIFF", "PCM_16"),
    "flac": written(MUSIC, "FLAC", "PCM_16"),
    "ogg": written(MUSIC, "OGG", "VORBIS"),
    "opus": written(music(LONG_S, 48_000), "OGG", "OPUS", rate=48_000),
    "mp3": muxed(MUSIC, "libmp3lame", "mp3", compression_level="9"),
    "m4a": muxed(MUSIC, "aac", "ipod", aac_coder="fast"),
}
SHARES = {"wav": 0.2, "aiff": 0.2, "flac": 0.25, "ogg": 0.35, "opus": 0.4, "mp3": 0.25, "m4a": 0.25}
EXACT = ("wav", "aiff", "flac", "ogg", "opus")


@pytest.mark.parametrize("kind", EXACT)
def test_a_window_that_was_jumped_to_holds_the_samples_of_the_whole_song_there(kind: str) -> None:
    decoded = decode_windows(LONG[kind], WINDOWS)
    whole = decode_windows(LONG[kind], WHOLE).waveform[0]
    assert decoded.duration_s == pytest.approx(LONG_S, abs=0.1)
    assert decoded.starts_s == pytest.approx([0, (LONG_S - 2.5) / 2, LONG_S - 2.5], abs=0.1)
    starts = window_starts(round(decoded.duration_s * decoded.rate), round(2.5 * decoded.rate), 3)
    for start, window in zip(starts, decoded.waveform, strict=True):
        np.testing.assert_allclose(window, whole[start : start + len(window)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mp3", "m4a"])
def test_a_window_of_a_format_that_remembers_is_the_same_to_the_ear(kind: str) -> None:
    """An mp3 is sought by frames (26 ms), AAC decoders fill noise bands by chance: near, but not to the bit."""
    decoded = decode_windows(LONG[kind], WINDOWS)
    whole = decode_windows(LONG[kind], WHOLE).waveform[0]
    for start_s, window in zip(decoded.starts_s, decoded.waveform, strict=True):
        start = round(float(start_s) * decoded.rate)
        piece = window[decoded.rate : 2 * decoded.rate]
        around = whole[start + decoded.rate - 3 * 1152 : start + 2 * decoded.rate + 3 * 1152]
        shifted = np.lib.stride_tricks.sliding_window_view(around, len(piece))[:: 1152 // 4]
        assert (shifted @ piece / (np.linalg.norm(shifted, axis=1) * np.linalg.norm(piece))).max() > 0.98


@pytest.mark.parametrize(("kind", "most"), SHARES.items())
def test_an_eighth_of_a_song_is_decoded_for_little_more_than_an_eighth_of_its_bytes(kind: str, most: float) -> None:
    source = CountingSource(LONG[kind])
    decode_windows(source, WINDOWS)
    assert sum(source.reads) < most * source.size
    assert len(source.reads) < 40


@pytest.mark.parametrize("kind", LONG)
def test_bytes_come_out_the_same_however_they_are_handed_in(kind: str) -> None:
    class Sparing(BytesSource):
        """Never gives all that it is asked for at once."""

        def read_at(self, offset: int, length: int) -> bytes | memoryview:
            return super().read_at(offset, min(length, 5_003))

    decoded, again = decode_windows(LONG[kind], WINDOWS), decode_windows(Sparing(LONG[kind]), WINDOWS)
    assert decoded.waveform.tobytes() == again.waveform.tobytes()
    assert decoded.starts_s.tobytes() == again.starts_s.tobytes()


def test_an_mp3_that_does_not_know_its_length_is_counted() -> None:
    data = LONG["mp3"]
    header = data.index(b"Info")
    without = data[data.index(b"\xff\xfb", header) :]  # the header stands in a frame of its own
    assert b"Info" not in without[:4096]
    decoded, known = decode_windows(without, WINDOWS), decode_windows(data, WINDOWS)
    assert decoded.duration_s == pytest.approx(known.duration_s, abs=0.1)
    assert not (np.abs(decoded.waveform).max(axis=1) < 0.1).any()


def test_an_mp3_of_variable_bit_rate_is_decoded_to_its_end_though_its_clock_is_wrong() -> None:
    quiet_then_noisy = np.concatenate(
        [MUSIC[: len(MUSIC) // 4] * 0.01, np.random.default_rng(1).normal(0, 0.3, MUSIC[::2].shape)]
    )
    data = written(quiet_then_noisy.astype(np.float32), "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    assert b"Xing" in data[:200]
    decoded = decode_windows(data, WINDOWS)
    assert decoded.duration_s == pytest.approx(LONG_S * 0.75, rel=0.011)
    assert np.abs(decoded.waveform[-1][-decoded.rate :]).max() > 0.1


def test_bare_aac_is_counted_and_its_windows_are_there() -> None:
    decoded = decode_windows(muxed(MUSIC, "aac", "adts", aac_coder="fast"), WINDOWS)
    assert decoded.duration_s == pytest.approx(LONG_S, abs=0.2)
    assert (np.abs(decoded.waveform).max(axis=1) > 0.1).all()


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "mp3"])
def test_a_long_song_cut_short_is_refused_as_truncated(kind: str) -> None:
    with pytest.raises(TruncatedAudio, match=r"^upload 7: "):
        decode_windows(LONG[kind][: len(LONG[kind]) * 6 // 10], WINDOWS, name="upload 7")


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.name)
def test_a_song_cut_short_is_refused_in_words_or_decoded_as_far_as_it_goes(path: Path) -> None:
    data = path.read_bytes()
    try:
        cut = decode_windows(data[: round(len(data) * 0.6)], WHOLE)
    except (TruncatedAudio, UndecodableAudio):
        return
    whole = decode_windows(data, WHOLE)
    decoded = round(cut.duration_s * cut.rate) - cut.rate // 2  # the last frames lack what came after them
    assert np.array_equal(cut.waveform[0, :decoded], whole.waveform[0, :decoded])


def test_memory_is_bounded_by_the_windows_and_not_by_the_song() -> None:
    """An hour at 192 kHz in six channels, of which a file without bytes stands in: 16.6 GB."""
    header = bytearray(written(np.zeros((192_000, 6), np.float32), "RF64", "PCM_32", rate=192_000))
    data = header.index(b"data") + 8
    length = 192_000 * 6 * 4 * 3_600
    header[20:28] = (data + length - 8).to_bytes(8, "little")
    header[28:36] = length.to_bytes(8, "little")
    header[36:44] = (192_000 * 3_600).to_bytes(8, "little")
    noise = np.random.default_rng(0).integers(-(2**30), 2**30, 1 << 20, dtype=np.int32).tobytes()

    class Endless(CountingSource):
        size = data + length

        def read_at(self, offset: int, wanted: int) -> bytes:
            head = bytes(header[offset:data])
            made = head + (noise * (wanted // len(noise) + 1))[: max(0, wanted - len(head))]
            self.reads.append(len(made))
            return made

    source = Endless(b"")
    decoded = decode_windows(source, WINDOWS)
    assert decoded.waveform.shape == (3, round(2.5 * 192_000))
    assert (np.abs(decoded.waveform).max(axis=1) > 0.1).all()
    assert sum(source.reads) < 3.1 * 2.5 * 192_000 * 6 * 4


def test_what_the_store_raises_is_neither_swallowed_nor_taken_for_the_end_of_the_song() -> None:
    for kind, data in LONG.items():

        class Failing(BytesSource):
            def read_at(self, offset: int, length: int) -> bytes | memoryview:
                if offset > self.size // 4:
                    raise StorageUnavailable(f"{kind} is gone")  # noqa: B023
                return super().read_at(offset, length)

        with pytest.raises(StorageUnavailable, match=kind):
            decode_windows(Failing(data), WINDOWS)


def test_what_follows_a_lost_page_keeps_its_place() -> None:
    pages = LONG["ogg"].split(b"OggS")
    decoded = decode_windows(b"OggS".join(pages[: len(pages) // 2] + pages[len(pages) // 2 + 1 :]), WINDOWS)
    whole = decode_windows(LONG["ogg"], WHOLE).waveform[0]
    start = window_starts(round(decoded.duration_s * decoded.rate), round(2.5 * decoded.rate), 3)[1]
    other = np.flatnonzero(np.abs(decoded.waveform[1] - whole[start:][: len(decoded.waveform[1])]) > 1e-6)
    assert other[0] > 0
    assert other[-1] < len(decoded.waveform[1]) - 1
    assert 0.1 < (other[-1] - other[0]) / decoded.rate < 0.5  # no more than the page lasted


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        pytest.param("OGG", "VORBIS", 44_100, id="vorbis, whose blocks have two lengths"),
        ("OGG", "OPUS", 48_000),
        ("MP3", "MPEG_LAYER_III", 44_100),
        ("FLAC", "PCM_24", 44_100),
        ("AIFF", "PCM_16", 44_100),
        ("WAV", "MS_ADPCM", 44_100),
        ("WAV", "IMA_ADPCM", 44_100),
    ],
)
def test_windows_and_whole_songs_are_what_another_decoder_reads(container: str, codec: str, rate: int) -> None:
    """libsndfile, which has nothing of FFmpeg."""
    clicks = music(20.0, rate)
    clicks[::9_973] += 0.5  # of vorbis each makes a run of short blocks, where FFmpeg alone leaves holes
    data = written(clicks, container, codec, rate)
    other, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    for audio in (WINDOWS, WHOLE):
        decoded = decode_windows(data, audio)
        for start, window in zip(np.round(decoded.starts_s * rate).astype(int), decoded.waveform, strict=True):
            expected = other[start : start + len(window)].mean(1)
            np.testing.assert_allclose(window[: len(expected)], expected, atol=1e-2)  # FFmpeg rounds opus its own way


@pytest.mark.parametrize(("rate", "seconds"), [(44_100, 0.5), (44_100, 1.0), (44_100, 1.3), (16_000, 1.5)])
def test_a_vorbis_song_of_one_page_begins_at_its_first_sample(rate: int, seconds: float) -> None:
    """FFmpeg places all of it 128 or 256 samples late, where it begins with a short block."""
    clicks = np.zeros((round(seconds * rate), 1), np.float32)
    clicks[:: round(0.11 * rate)] = 0.7
    data = written(clicks, "OGG", "VORBIS", rate)
    assert data.count(b"OggS") <= 3  # two of them are headers
    other, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    decoded = decode_windows(data, WHOLE)
    assert decoded.duration_s == pytest.approx(seconds, abs=0.05)  # FFmpeg cuts the last frame elsewhere
    shared = min(round(decoded.duration_s * rate), len(other))
    np.testing.assert_allclose(decoded.waveform[0][:shared], other[:shared], atol=1e-3)


@pytest.mark.parametrize("kind", ["ogg", "opus"])
@pytest.mark.parametrize(
    "behind", [bytes(1000), bytes(3_000_000), b"OggS, they say" * 9_000], ids=["few", "many", "marks"]
)
def test_what_follows_the_last_page_costs_nothing(kind: str, behind: bytes) -> None:
    decoded, alone = decode_windows(LONG[kind] + behind, WINDOWS), decode_windows(LONG[kind], WINDOWS)
    assert decoded.duration_s == pytest.approx(alone.duration_s, abs=0.05)
    np.testing.assert_allclose(decoded.starts_s, alone.starts_s, atol=0.05)
    np.testing.assert_array_equal(decoded.waveform[0], alone.waveform[0])


def test_an_ogg_without_a_page_that_can_be_decoded_is_refused() -> None:
    with pytest.raises(UndecodableAudio, match="cannot be decoded"):
        decode_windows(b"OggS" + bytes(3_000_000), WINDOWS)


def test_a_codec_that_nobody_knows_is_refused_as_that() -> None:
    with pytest.raises(UndecodableAudio, match="codec that is not known"):
        decode_windows(LONG["m4a"].replace(b"mp4a", b"zzzz").replace(b"esds", b"free"), WINDOWS)


@pytest.mark.parametrize("sample", [np.inf, np.nan])
def test_samples_that_are_no_numbers_are_read_without_a_word(sample: float) -> None:
    sound = np.stack([np.full(8_000, sample), np.full(8_000, -sample)], axis=1)
    assert np.isnan(decode_windows(encoded(sound, 8_000, subtype="FLOAT"), AUDIO).waveform).any()


def test_windows_are_spread_from_the_first_sample_to_the_last() -> None:
    waveform = (np.arange(100_000) % 30_000).astype(np.float32) / np.float32(65_536)
    decoded = decode_windows(encoded(waveform, 8_000, subtype="FLOAT"), AUDIO)
    assert (decoded.waveform[0, 0], decoded.waveform[-1, -1]) == (waveform[0], waveform[-1])
    assert decoded.waveform.shape == (3, AUDIO.window_length)
    assert np.allclose(decoded.starts_s, [0, (100_000 - 5_120) / 2 / 8_000, (100_000 - 5_120) / 8_000])


def test_a_song_shorter_than_a_window_has_one_that_ends_in_silence() -> None:
    decoded = decode_windows(encoded(np.full(4_000, 0.5, np.float32), 8_000, subtype="FLOAT"), AUDIO)
    assert (decoded.starts_s.tolist(), decoded.waveform.shape) == ([0], (1, 5_120))
    assert (decoded.waveform[0, :4_000].min(), decoded.waveform[0, 4_000:].max()) == (0.5, 0)


def test_a_song_as_long_as_a_window_has_one_and_no_window_comes_twice() -> None:
    for extra, count in ((0, 1), (1, 2), (2, 3)):
        assert len(window_starts(5_120 + extra, 5_120, 3)) == count


def test_sound_of_many_channels_is_mixed_down() -> None:
    sound = np.stack([tone(1.5, 48_000, hertz=200 * n) for n in range(1, 9)], axis=1)
    for format in ("WAV", "FLAC"):
        decoded = decode_windows(encoded(sound, 48_000, format=format, subtype="PCM_24"), AUDIO).waveform[0]
        np.testing.assert_allclose(decoded, sound.mean(axis=1)[: len(decoded)], rtol=0, atol=1e-6)


def test_a_file_reads_what_is_expected_at_once_and_nothing_twice() -> None:
    source = CountingSource(bytes(range(256)) * 4_096)
    file = RangedFile(source, max_bytes=1 << 30)
    file.seek(500_000)
    file.expect(200_000)
    pieces = [file.read(1_000) for _ in range(200)]
    file.seek(500_000)
    assert b"".join(pieces) == file.read(200_000) == source.read_at(500_000, 200_000)
    assert source.reads[:-1] == [200_000]


def test_reads_in_any_order_and_of_any_size_are_those_of_a_file_in_memory() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(300_000)
    file, plain = RangedFile(CountingSource(data), max_bytes=1 << 30), io.BytesIO(data)
    for offset, size in rng.integers(0, (310_000, 60_000), (500, 2)).tolist():
        file.seek(offset)
        plain.seek(offset)
        for wanted in (size, 0, size // 3, 7):
            assert file.read(wanted) == plain.read(wanted)
            assert file.tell() == min(plain.tell(), max(offset, len(data)))
    file.seek(299_990)
    assert file.read() == data[-10:]


def test_a_header_may_announce_gigabytes_and_no_more_is_fetched_at_once_than_a_window_can_need() -> None:
    source = CountingSource(bytes(40 << 20))
    file = RangedFile(source, max_bytes=1 << 30)
    file.expect(1 << 34)
    file.read(1_000)
    assert source.reads == [32 << 20]


def test_a_thousand_channels_are_read_a_few_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (6_000, 1_024)).astype(np.float32)
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int, **more: Any) -> Samples:
        asked.append(frames)
        samples: Samples = read(self, frames, **more)
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    decoded = decode_windows(encoded(sound, 8_000, subtype="FLOAT"), AUDIO)
    np.testing.assert_allclose(decoded.waveform[0], sound.mean(axis=1)[:5_120], rtol=0, atol=1e-6)
    assert max(asked) == 128


def test_what_a_decoder_says_is_passed_on_without_addresses_in_our_memory() -> None:
    for data in (LONG["wav"][:40], LONG["m4a"][:40], LONG["flac"][:40]):
        with pytest.raises(UndecodableAudio, match=r"^song: cannot be decoded \([^<>]+\); expected wav"):
            decode_windows(data, WINDOWS)
