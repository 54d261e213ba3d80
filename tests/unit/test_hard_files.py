"""Files as people have them (`tests/data/hard`, whose README says what each stands for), each as its table says."""

from pathlib import Path

import pytest

from gatefold.audio import listen
from gatefold.config import AudioSettings
from gatefold.decoding import decode_windows
from gatefold.errors import SilentAudio
from tests.joins import misplaced, whole

HARD = Path(__file__).parents[1] / "data" / "hard"
SONGS_S = {
    "mp3__cat_short_intro_then_song.mp3": 21.55, "small__cat_same_rate.mp3": 22.08, "small__tail_of_zeros.mp3": 12.02,
    "ogg__chained.opus": 34.0, "ogg__granule_offset.opus": 20.0, "ogg__headers_then_middle.ogg": 10.18,
    "aac__id3_then_adts.aac": 20.04, "wav__sizes_7fffffff.wav": 11.0, "wav__sizes_fffff000.wav": 11.0,
    "wav__sizes_sox_pipe.wav": 11.0, "small__sox_pipe_44k.wav": 2.0, "wav__riff_size_zero.wav": 11.0,
    "wav__data_size_zero_riff_right.wav": 11.0, "wav__list_chunk_behind_data.wav": 5.0, "wav__rf64.wav": 11.0,
    "name__wrong_ext.flac": 2.2, "wav__gsm610.wav": 11.0, "aiff__plain.aiff": 11.0, "aiff__tagged.aiff": 11.0,
    "m4a__chapters_cover.m4b": 20.0, "tag__ape_only.mp3": 2.2, "tag__info_latin1.wav": 2.2, "tag__nfd.mp3": 2.2,
    "cover__url_apic_first_then_picture.mp3": 2.2, "cover__url_apic_with_cover.jpg.mp3": 2.2,
}  # fmt: skip
"""Seconds that FFmpeg decodes of each."""
WINDOWS = AudioSettings(window_s=1.0, windows=5)


def test_every_file_is_expected_to_become_something() -> None:
    others = {"odd__dc_only.wav", "README.md"}
    songs = {path.name for path in HARD.iterdir() if not path.name.startswith(("manifest__", "cover__png"))}
    assert songs == {*SONGS_S, *others}


@pytest.mark.parametrize("name", SONGS_S)
def test_a_song_is_decoded_whole_and_its_windows_are_where_they_say(name: str) -> None:
    data = (HARD / name).read_bytes()
    found, (rate, truth) = decode_windows(data, WINDOWS), whole(data)
    assert found.duration_s == pytest.approx(SONGS_S[name], abs=0.1)
    assert misplaced(found, rate, truth) == []


def test_a_constant_is_silent() -> None:
    with pytest.raises(SilentAudio):
        listen((HARD / "odd__dc_only.wav").read_bytes(), WINDOWS)
