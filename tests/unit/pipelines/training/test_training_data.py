"""Which songs are trained and validated on, and by what numbers their genres go."""

from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from gatefold.config import Settings
from gatefold.errors import TooFewSongs
from gatefold.index.interface import Index
from gatefold.records import TRACKS
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues, optouts
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.workspace import Workspace
from pipelines.evaluation.held_out import held_out_of
from pipelines.training.training_data import (
    VALIDATION_SONGS,
    genres_of,
    paired_ids,
    split_into_equal_blocks,
    validation_ids,
)

SETTINGS = Settings()
GENRES = ["Jazz", "rock", None, " jazz ", ""]


def workspace_of(folder: Path, splits: list[str]) -> Workspace:
    """Songs of these splits, all with both sides; their genres are GENRES, over and over."""
    workspace = Workspace(objects.resolve(str(folder)))
    ids = [f"s{n:05}" for n in range(len(splits))]
    rows = [
        {"song_id": song_id, "audio_uri": "file:///a.wav", "split": split, "genre": GENRES[n % len(GENRES)]}
        for n, (song_id, split) in enumerate(zip(ids, splits, strict=True))
    ]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS)
    catalogues.replace(workspace, Catalogue("c1", len(rows), "file:///m.csv"), tracks, 100_000)
    for made in (workspace.spectrograms(SETTINGS.audio), workspace.covers(SETTINGS.stored_cover)):
        tables.write_part(made, "a", pa.table({"song_id": ids}))
    return workspace


def test_genres_go_by_numbers_however_they_are_written_and_unknown_ones_by_none(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, ["train"] * 5)
    ids = pa.array(["s00004", "s00000", "s00001", "s00002", "s00003"])
    assert genres_of(workspace, ids).tolist() == [-1, 0, 1, -1, 0]
    assert genres_of(workspace, pa.array(["s00001"])).tolist() == [1]


def test_training_songs_are_of_one_split_with_both_sides_and_not_withdrawn(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, ["train", "train", "test", "train"])
    tables.write_part(workspace.covers(SETTINGS.stored_cover), "a", pa.table({"song_id": ["s00003", "s00001"]}))
    assert paired_ids(SETTINGS, workspace, "train").to_pylist() == ["s00001", "s00003"]
    optouts.withdraw(workspace, "s00003")
    assert paired_ids(SETTINGS, workspace, "train").to_pylist() == ["s00001"]


def test_validation_is_some_of_its_split_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    few = workspace_of(tmp_path / "few", ["train", "validation", "validation", "test"])
    assert validation_ids(SETTINGS, few) == ["s00001", "s00002"]
    many = workspace_of(tmp_path / "many", ["validation"] * 1300)
    assert 400 < len(validation_ids(SETTINGS, many)) <= VALIDATION_SONGS
    assert validation_ids(SETTINGS, many)[:2] == ["s00000", "s00003"]
    none = workspace_of(tmp_path / "none", ["train", "test"])
    assert validation_ids(SETTINGS, none) == []
    with pytest.raises(TooFewSongs, match="no validation song"):
        paired_ids(SETTINGS, none, "validation")


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_songs_to_measure_by_are_said_to_be_that(count: int, tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, ["train"] * 5 + ["test"] * count)
    with pytest.raises(TooFewSongs, match=r"no test song has|3 test songs have both"):
        held_out_of(SETTINGS, workspace, cast(Index, None))  # which is not asked


@pytest.mark.parametrize(("songs", "workers", "blocks", "rows"), [(830, 2, 26, 32), (64, 2, 2, 32), (65, 1, 3, 22),
                                                                  (1, 2, 2, 1), (5, 4, 4, 2)])  # fmt: skip
def test_workers_get_equal_blocks_and_no_song_is_left_out_or_twice_in_one(
    songs: int, workers: int, blocks: int, rows: int
) -> None:
    made = [
        block["song_id"].to_pylist()
        for block in split_into_equal_blocks(pa.table({"song_id": range(songs)}), workers, 32)
    ]
    assert [len(block) for block in made] == [rows] * blocks
    assert all(len(set(block)) == rows for block in made)
    assert {song for block in made for song in block} == set(range(songs))
