"""A window holds what a full decode has at the place it states: over all formats, joins, cuts and headers that lie."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from gatefold.audio.decoding import decode_windows
from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings
from gatefold.errors import SilentAudio, TruncatedAudio, UndecodableAudio
from tests.joins import FILES, PARTS, UNLIKE, misplaced, whole
from tests.sounds import AUDIO, Samples, encoded, music, muxed, tone, written

WINDOWS = AudioSettings(window_s=1.0, windows=5)

@pytest.mark.parametrize("name", FILES)
def test_a_window_holds_what_a_full_decode_has_at_its_place(name: str) -> None:
    data = FILES[name]()
    rate, truth = whole(data)
    assert misplaced(decode_windows(data, WINDOWS), rate, truth) == []


@pytest.mark.parametrize("seed", range(14))
def test_parts_joined_by_chance_keep_their_places(seed: int) -> None:
    random = np.random.default_rng(seed)
    make = list(PARTS.values())[seed % len(PARTS)]
    lengths_s = random.uniform(1.0, 9.0, random.integers(2, 5))
    data = b"".join(make(float(length_s), int(part)) for part, length_s in enumerate(lengths_s))
    rate, truth = whole(data)
    assert len(truth) / rate == pytest.approx(lengths_s.sum(), abs=0.5)
    assert misplaced(decode_windows(data, WINDOWS), rate, truth) == []


@pytest.mark.parametrize("make", UNLIKE.values(), ids=UNLIKE)
def test_parts_of_unlike_sample_rates_are_refused_as_that(make: Callable[[], bytes]) -> None:
    with pytest.raises(UndecodableAudio, match=r"goes from .* Hz within|unlike sample rates"):
        decode_windows(make(), WINDOWS)


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
def test_a_song_of_known_length_that_ends_in_the_midst_of_a_frame_was_cut_short(share: float) -> None:
    sound = music(12.0, 22_050)
    variable = written(sound, "MP3", rate=22_050, bitrate_mode="VARIABLE", compression_level=0.5)
    for data in (variable, muxed(sound, "libmp3lame", "mp3", 22_050), written(sound, "FLAC", "PCM_16", 22_050)):
        with pytest.raises(TruncatedAudio, match=r"promises 12\.[01] s"):
            decode_windows(data[: round(len(data) * share)], WINDOWS)


# ---- channels -------------------------------------------------------------------------------------------------------


def stereo(left: Samples, right: Samples, format: str = "WAV") -> bytes:
    return encoded(np.stack([left, right], axis=1), 16_000, format=format, subtype="PCM_16")


SONG = music(4.0, 16_000)[:, 0]


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
@pytest.mark.parametrize("residue", [0.0, 0.001, 0.1])
def test_channels_that_cancel_each_other_are_decoded_from_one(format: str, residue: float) -> None:
    noise = np.random.default_rng(0).normal(0, residue * 0.2, len(SONG)).astype(np.float32)
    found = decode_windows(stereo(SONG, noise - SONG, format), AUDIO)
    wanted = decode_windows(stereo(SONG, SONG, format), AUDIO)
    np.testing.assert_allclose(found.waveform, wanted.waveform, rtol=0, atol=1e-4)


def test_channels_that_are_merely_wide_are_mixed() -> None:
    other = np.roll(SONG, 1_000)
    for left, right in ((SONG, other), (SONG, other - 0.5 * SONG), (SONG, 0 * SONG), (0 * SONG, SONG)):
        found = decode_windows(stereo(left, right), AUDIO)
        np.testing.assert_allclose(found.waveform[0], ((left + right) / 2)[:10_240], rtol=0, atol=1e-4)


@pytest.mark.parametrize("level", [0.25, -1.0])
@pytest.mark.parametrize("duration_s", [0.9, 6.0])
def test_a_constant_is_no_sound(level: float, duration_s: float) -> None:
    audio = AudioSettings(min_duration_s=0.5)
    with pytest.raises(SilentAudio, match="digital silence"):
        extract_log_mel(encoded(np.full(round(duration_s * 16_000), level, np.float32)), audio)
    assert extract_log_mel(encoded(0.2 * tone(duration_s) + 0.5), audio).duration_s == pytest.approx(duration_s)


def test_an_m4a_cut_behind_its_index_is_refused_as_truncated(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.m4a"), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(SONG)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        output.mux([*stream.encode(frame), *stream.encode(None)])
    data = (tmp_path / "song.m4a").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with pytest.raises(TruncatedAudio, match="promises 4"):
        decode_windows(data[: len(data) * 6 // 10], AUDIO)
