"""Files as people have them (`tests/data/hard`, whose README says what each stands for), each as its table says."""

from pathlib import Path

import pytest

from gatefold.audio.decoding import decode_windows
from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings, CoverSettings
from gatefold.errors import SilentAudio
from gatefold.images.pixels import decode_cover
from gatefold.names import normal_name
from gatefold.storage import objects
from gatefold.storage.contents.embedded_pictures import open_audio, read_cover, tags_of
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
COVER = CoverSettings(size=16)


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


TEXTS = {
    "aac__id3_then_adts.aac": {"title": "Title", "artist": "Artist", "album": "Album", "genre": "Rock"},
    "aiff__tagged.aiff": {"artist": "Aiff Artist"},
    "m4a__chapters_cover.m4b": {"title": "Book", "artist": "Reader"},
    "tag__ape_only.mp3": {"title": "Ape Title", "artist": "Ape Artist"},
    "tag__info_latin1.wav": {"artist": "Björk", "genre": "Rock"},
    "wav__list_chunk_behind_data.wav": {"title": "Title", "artist": "Artist", "album": "Album", "genre": "Rock"},
}


@pytest.mark.parametrize("name", SONGS_S)
def test_tags_are_read_as_far_as_there_are_any_and_never_cost_the_song(name: str) -> None:
    with open_audio(objects.resolve(str(HARD / name))) as file:
        tagged = tags_of(file, name)
    assert not tagged.unreadable
    if name == "tag__nfd.mp3":
        assert normal_name(tagged.texts["artist"]) == normal_name("Björk") != tagged.texts["artist"].casefold()
    else:
        assert tagged.texts == TEXTS.get(name, {})


def test_a_link_is_no_picture_and_the_next_one_is_taken() -> None:
    uri = objects.resolve(str(HARD / "cover__url_apic_first_then_picture.mp3"))
    assert decode_cover(read_cover(f"{uri}#picture", 10**7), COVER).shape == (3, 16, 16)
    with open_audio(objects.resolve(str(HARD / "cover__url_apic_with_cover.jpg.mp3"))) as file:
        assert tags_of(file, "it").pictures == []


@pytest.mark.parametrize("name", ["cover__png_big_iccp.png", "cover__png_bad_crc_text.png"])
def test_texts_and_profiles_of_a_picture_cost_nothing(name: str) -> None:
    assert decode_cover((HARD / name).read_bytes(), COVER).std(axis=(1, 2)).max() > 1


def test_a_constant_is_silent() -> None:
    with pytest.raises(SilentAudio):
        extract_log_mel((HARD / "odd__dc_only.wav").read_bytes(), WINDOWS)
