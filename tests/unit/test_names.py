"""One form of names, wherever they are compared: split, filters, exclusions, genres of a training."""

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import SplitSettings
from gatefold.index.interface import Filters
from gatefold.index.retrieval import CoverIndex
from gatefold.names import normal_name
from gatefold.records import split_of
from gatefold.storage import objects
from gatefold.storage.contents.catalogues import Catalogue, replace
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import with_splits
from pipelines.evaluation.held_out import named
from pipelines.training.training_data import genres_of
from tests.factories import indexed_tracks, unit_vectors

NAME = "Björk Ångström"
SPELLINGS = [
    NAME, unicodedata.normalize("NFD", NAME), NAME.upper(), f"  {NAME}\t", "Björk\u00a0 Ångström",
    unicodedata.normalize("NFD", NAME.upper()),
]  # fmt: skip
OTHERS = ["Bjork Angstrom", "BjörkÅngström", "Björk"]
SHARES = SplitSettings(validation=0.3, test=0.3)


def test_spellings_of_a_name_have_one_form_and_other_names_another() -> None:
    assert {normal_name(name) for name in SPELLINGS} == {"björk ångström"}
    assert normal_name(NAME) not in {normal_name(name) for name in OTHERS}
    assert normal_name("STRASSE") == normal_name("straße")
    assert (normal_name(None), normal_name(" \t")) == ("", "")
    once = normal_name("\u0345\u1fb3 İ")
    assert normal_name(once) == once


@pytest.mark.parametrize("kind", ["artist", "album"])
def test_all_spellings_are_on_one_side_of_the_split(kind: str) -> None:
    names = [f"{stem} {number}" for number in range(20) for stem in SPELLINGS]
    columns = {name: pa.nulls(len(names), pa.string()) for name in ("artist", "album", "split")}
    table = pa.table({"song_id": [str(n) for n in range(len(names))], **columns, kind: pa.array(names)})
    sides = np.array(with_splits(table, SHARES).to_pylist()).reshape(20, len(SPELLINGS))
    assert (sides == sides[:, :1]).all()
    assert len(set(sides[:, 0])) > 1
    assert sides[0, 0] == split_of(SHARES, song_id="0", **{"artist": None, "album": None, kind: f"{NAME} 0"})


def test_filters_and_exclusions_find_all_spellings() -> None:
    count = len(SPELLINGS) + len(OTHERS)
    vectors = unit_vectors(count, 8)
    tracks = indexed_tracks(vectors, songs=vectors)
    for column in ("artist", "album", "genre"):
        place = tracks.column_names.index(column)
        tracks = tracks.set_column(place, column, pa.array([*SPELLINGS, *OTHERS], pa.string()))
    index = CoverIndex(tracks, "encoder")
    spelled = {f"s{row}" for row in range(len(SPELLINGS))}

    def found(filters: Filters) -> set[str]:
        (matches,) = index.search(vectors[:1], count, encoder_fingerprint="encoder", filters=filters)
        return {match.track.song_id for match in matches}

    for name in SPELLINGS:
        for column in ("artist", "album", "genre"):
            assert found(Filters(where=((column, frozenset({name})),))) == spelled
        assert found(Filters(exclude_artists=frozenset({name}))).isdisjoint(spelled)
        assert len(found(Filters(exclude_artists=frozenset({name})))) == len(OTHERS)


def test_other_columns_are_compared_as_they_are() -> None:
    vectors = unit_vectors(2, 8)
    tracks = indexed_tracks(vectors, songs=vectors).append_column("licence", pa.array(["CC-BY", "cc-by"]))
    index = CoverIndex(tracks, "encoder")
    filters = Filters(where=(("licence", frozenset({"cc-by"})),))
    (matches,) = index.search(vectors[:1], 2, encoder_fingerprint="encoder", filters=filters)
    assert [match.track.song_id for match in matches] == ["s1"]


def test_training_and_evaluation_count_all_spellings_as_one(tmp_path: Path) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    ids = [f"s{row}" for row in range(len(SPELLINGS))]
    texts = {name: pa.array(SPELLINGS, pa.string()) for name in ("artist", "genre")}
    replace(workspace, Catalogue("print", len(ids), "source"), pa.table({"song_id": ids, **texts}), rows_per_part=10)
    assert len(set(genres_of(workspace, ids).tolist())) == 1
    vectors = unit_vectors(len(ids), 8)
    assert len(set(named(workspace, ids, vectors, vectors).artists)) == 1
