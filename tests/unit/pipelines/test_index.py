"""The index and those who read from it, once songs were withdrawn."""

from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import GeneratorSettings, Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import InputError
from gatefold.index.interface import Filters
from gatefold.index.retrieval import CoverIndex
from gatefold.records import TRACKS, embedding_schema
from gatefold.storage import objects, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.contents import catalogues, optouts
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.models.encoders import publish_encoder
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.index import build_index, indexed_tracks
from pipelines.status import status_of
from pipelines.training.training_data import paired_ids
from pipelines.versions import versions_of
from tests.factories import COVER, ENCODER, unit_vectors
from tests.sounds import AUDIO

SETTINGS = Settings(audio=AUDIO, cover=COVER, generator=GeneratorSettings(size=COVER.size), encoder=ENCODER)
SONGS = [f"song-number-{number}" for number in range(6)]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Six songs of the test split, embedded."""
    made = Workspace(objects.resolve(str(tmp_path)))
    rows = [{"song_id": song_id, "audio_uri": f"file:///{song_id}", "split": "test"} for song_id in SONGS]
    tracks = pa.Table.from_pylist(rows, TRACKS)
    catalogues.replace(made, Catalogue("c1", len(rows), "file:///m.csv"), tracks, 100)
    version = versions_of(SETTINGS, made).encoder
    encoder = DualEncoder(ENCODER, AUDIO, COVER)
    publish_encoder(f"{made.encoders}/{version}", encoder, version=version, lineage={}, details={})
    vectors = unit_vectors(len(SONGS), ENCODER.embed_dim).tolist()
    embedded = [
        {"song_id": song_id, "song_embedding": vector, "cover_embedding": vector, "etag": None}
        for song_id, vector in zip(SONGS, vectors, strict=True)
    ]
    schema = embedding_schema(ENCODER.embed_dim)
    tables.write_part(made.embeddings(version), "part-0", pa.Table.from_pylist(embedded, schema))
    build_index(SETTINGS, made)
    return made


def standing(workspace: Workspace) -> CoverIndex:
    return load_index(f"{workspace.indexes}/{versions_of(SETTINGS, workspace).index}")


def state(workspace: Workspace) -> str:
    return next(one.state for one in status_of(SETTINGS, workspace).stages if one.stage == "index")


def test_what_a_manifest_carried_filters_where_it_has_a_form_as_text(workspace: Workspace) -> None:
    encoder, tracks = versions_of(SETTINGS, workspace).encoder, catalogues.read_tracks(workspace)
    carried = {
        "year": pa.array([1998, 1999, None, 1999, 2000, 2001], pa.int16()),
        "live": pa.array([True, False] * 3),
        "mood": pa.array(["calm", None, "wild"] * 2),
        "tempo": pa.array([90.5] * 6),
        "tags": pa.array([["a", "b"]] * 6),
    }
    for name, column in carried.items():
        tracks = tracks.append_column(name, column)
    catalogues.replace(workspace, Catalogue("c2", 6, "file:///m.csv"), tracks, 100)
    index = CoverIndex(indexed_tracks(workspace, encoder), "encoder")

    def kept(**where: str) -> list[str]:
        filters = Filters(where=tuple((column, frozenset({value})) for column, value in where.items()))
        queries = unit_vectors(1, ENCODER.embed_dim)
        (matches,) = index.search(queries, 9, encoder_fingerprint="encoder", filters=filters)
        return sorted(match.track.song_id for match in matches)

    assert kept(year="1999") == [SONGS[1], SONGS[3]]
    assert kept(live="true", mood="wild") == [SONGS[2]]
    with pytest.raises(InputError, match=r"'tempo': .* filtered by album, artist, genre, live, mood, year"):
        kept(tempo="90.5")


def test_a_withdrawn_song_leaves_nothing_of_itself_in_the_next_index(workspace: Workspace) -> None:
    assert (standing(workspace).ntotal, state(workspace)) == (6, "fresh")
    optouts.withdraw(workspace, SONGS[2])
    assert state(workspace) == "stale"
    report = build_index(SETTINGS, workspace)
    assert (report.done, report.details["covers"], state(workspace)) == (1, 5, "fresh")
    bundle = open_bundle(f"{workspace.indexes}/{report.details['version']}", "index")
    assert [name for name in bundle.files if SONGS[2].encode() in bundle.read(name)] == []
    table = tables.read_table(bundle.uri, ["song_id"], stage="index")
    assert table["song_id"].to_pylist() == SONGS[:2] + SONGS[3:]
    assert build_index(SETTINGS, workspace).done == 0


def test_one_that_is_withdrawn_in_the_midst_of_a_run_is_left_to_the_next(workspace: Workspace) -> None:
    before = versions_of(SETTINGS, workspace)
    optouts.withdraw(workspace, SONGS[0])
    assert versions_of(SETTINGS, workspace) == before
    build_index(SETTINGS, workspace)
    after = versions_of(SETTINGS, workspace)
    assert after.encoder == before.encoder
    assert before.index != after.index
    assert before.release != after.release


def test_withdrawn_songs_are_neither_trained_on_nor_measured(workspace: Workspace) -> None:
    names = pa.table({"song_id": SONGS})
    for folder in (workspace.spectrograms(AUDIO), workspace.covers(COVER)):
        tables.write_part(folder, "part-0", names)
    optouts.withdraw(workspace, SONGS[5])
    assert paired_ids(SETTINGS, workspace, "test").to_pylist() == SONGS[:5]
