"""Records: schemas that tables are written with, and a split that stays where it is."""

import pyarrow as pa
import pytest

from gatefold.config import AudioSettings, CoverSettings, SplitSettings
from gatefold.records import SPLITS, Split, cover_schema, embedding_schema, spectrogram_schema, split_of

SHARES = SplitSettings(validation=0.1, test=0.2)


def side(artist: str | None = None, album: str | None = None, song_id: str = "s1") -> Split:
    return split_of(SHARES, artist=artist, album=album, song_id=song_id)


def test_songs_of_one_artist_are_on_one_side() -> None:
    for artist in (f"artist {i}" for i in range(50)):
        assert len({side(artist, album=f"album {i}", song_id=f"s{i}") for i in range(20)}) == 1


def test_spelling_differences_that_mean_nothing_do_not_part_an_artist() -> None:
    for i in range(50):
        assert len({side(name) for name in (f"Artist {i}", f" artist {i}", f"ARTIST {i}  ")}) == 1


def test_where_there_is_no_artist_the_album_decides_then_the_song() -> None:
    assert side(None, "album", "s1") == side("  ", "album", "s2") == side("", "Album", "s3")
    assert {side(None, None, f"s{i}") for i in range(100)} == set(SPLITS)
    assert side("\u00a0", "\u3000", "\u00a0") in SPLITS  # an id of white space is an id


def test_shares_are_about_those_that_were_asked_for() -> None:
    sides = [side(f"artist {i}") for i in range(5_000)]
    assert sides.count("test") / 5_000 == pytest.approx(0.2, abs=0.02)
    assert sides.count("validation") / 5_000 == pytest.approx(0.1, abs=0.02)


def test_a_split_never_changes_from_one_release_to_the_next() -> None:
    sides: dict[Split, list[int]] = {"test": [8], "validation": [2, 3, 7], "train": [0, 1, 4, 5, 6, 9, 10, 11]}
    assert {name: [i for i in range(12) if side(f"artist {i}") == name] for name in sides} == sides
    assert (side(None, "album 3"), side(None, None, "s4")) == ("validation", "train")


def test_a_larger_share_only_moves_artists_into_it() -> None:
    more = SplitSettings(validation=0.1, test=0.4)
    for artist in (f"artist {i}" for i in range(500)):
        if side(artist) == "test":
            assert split_of(more, artist=artist, album=None, song_id="s") == "test"


def test_without_held_out_shares_every_song_is_trained_on() -> None:
    none = SplitSettings(validation=0, test=0)
    assert {split_of(none, artist=f"a{i}", album=None, song_id="s") for i in range(200)} == {"train"}


def test_schemas_carry_the_shapes_of_their_settings() -> None:
    log_mel = spectrogram_schema(AudioSettings(n_mels=64)).field("log_mel").type
    assert (list(log_mel.shape), log_mel.value_type) == ([64, AudioSettings().frames], pa.float16())
    pixels = cover_schema(CoverSettings(size=32)).field("pixels").type
    assert (list(pixels.shape), pixels.value_type) == ([3, 32, 32], pa.uint8())
    vector = embedding_schema(8).field("song_embedding").type
    assert (vector.list_size, vector.value_type) == (8, pa.float32())
