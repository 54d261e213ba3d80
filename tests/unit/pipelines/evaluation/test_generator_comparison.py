"""Generators compared on the same songs and seeds, by candidates made by hand on a small workspace."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import GeneratorSettings, Settings, load
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import StageMissing
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.index.retrieval import CoverIndex
from gatefold.progress import OnProgress
from gatefold.records import TRACKS, embedding_schema
from gatefold.storage import objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.models.encoders import publish_encoder
from gatefold.storage.models.generators import publish_generator
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.evaluation import generator_candidates, generator_comparison, independent_features
from pipelines.evaluation.generator_candidates import Candidate, Pictures, nearest_of, published
from pipelines.evaluation.generator_comparison import compare_generators
from pipelines.evaluation.generator_genres import genre_rows, hundred_nearest
from pipelines.evaluation.generator_tables import generators_section, genre_sections, readable_sections
from pipelines.index import build_index
from pipelines.report import read_report
from pipelines.versions import versions_of
from tests.factories import COVER, ENCODER, GENERATOR, CoarseColours, unit_vectors, write_pairs
from tests.sounds import AUDIO

SETTINGS = Settings(audio=AUDIO, cover=COVER, generator=GeneratorSettings(size=COVER.size), encoder=ENCODER)
SONGS = [f"s{number:02}" for number in range(40)]
SHARE = 0.25


@pytest.fixture(scope="module", autouse=True)
def without_network() -> Iterator[None]:
    """The real one takes seconds for the few covers that there are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(independent_features, "_network", CoarseColours)
        patch.setattr(generator_comparison, "IndependentFeatures", CoarseColours)
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Forty test songs of two genres, by ten artists."""
    made = Workspace(objects.resolve(str(tmp_path_factory.mktemp("workspace"))))
    tracks = [
        {
            "song_id": song_id,
            "audio_uri": f"file:///{song_id}",
            "split": "test",
            "artist": f"artist {number // 4}",
            "genre": ("folk", "jazz")[number % 2],
        }
        for number, song_id in enumerate(SONGS)
    ]
    catalogues.replace(made, Catalogue("c1", 40, "file:///m.csv"), pa.Table.from_pylist(tracks, TRACKS), 100)
    write_pairs(made, dict.fromkeys(SONGS, 1))
    encoder = DualEncoder(ENCODER, AUDIO, COVER).eval()
    version = versions_of(SETTINGS, made).encoder
    publish_encoder(f"{made.encoders}/{version}", encoder, version=version, lineage={}, details={})
    covers = encoder.embed_covers(read_covers(SETTINGS, made, SONGS))
    songs = unit_vectors(40, ENCODER.embed_dim)
    rows = [
        {"song_id": song_id, "song_embedding": song.tolist(), "cover_embedding": cover.tolist(), "etag": None}
        for song_id, song, cover in zip(SONGS, songs, covers, strict=True)
    ]
    schema = embedding_schema(ENCODER.embed_dim)
    tables.write_part(made.embeddings(version), "part", pa.Table.from_pylist(rows, schema))
    build_index(SETTINGS, made)
    return made


def index_of(workspace: Workspace) -> CoverIndex:
    return load_index(f"{workspace.indexes}/{versions_of(SETTINGS, workspace).index}")


class Drawing:
    """A candidate that fills each cover with noise from its seed, and keeps what it was asked for."""

    def __init__(self, size: int = 24) -> None:
        self.size, self.asked = size, list[tuple[str, int]]()

    def __call__(self, song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:
        self.asked += zip(song_ids, seeds, strict=True)
        shape = (3, self.size, self.size)
        pixels = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in seeds]
        on_progress(len(pixels), len(pixels))
        return Pictures(np.stack(pixels), [SHARE] * len(pixels), 0.125)


@pytest.fixture(scope="module")
def compared(workspace: Workspace) -> tuple[Any, Drawing, list[tuple[int, int]], str]:
    """Details of a report, a candidate beside those of the workspace, the progress on the way, and the text."""
    drawing, said = Drawing(), list[tuple[int, int]]()
    others = [Candidate("noise", drawing)]
    report = compare_generators(SETTINGS, workspace, lambda done, total, *_: said.append((done, total)), others=others)
    return report.details, drawing, said, objects.read(f"{workspace.reports}/generators.md").decode()


def table(details: Any, name: str) -> dict[str, Any]:
    return {row["measure"]: row for one in details["candidates"] if one["name"] == name for row in one["table"]}


def test_every_candidate_is_measured_alike_and_what_does_not_apply_is_left_out(compared: Any) -> None:
    details = compared[0]
    assert [(one["name"], one["size"]) for one in details["candidates"]] == [
        ("real covers", 16),
        ("nearest cover", 16),
        ("noise", 24),
    ]
    real, noise = (table(details, name) for name in ("real covers", "noise"))
    assert [name for name in noise if name not in real] == [
        "median largest share of one source",
        "diversity of 4 covers of a song, median",
        "seconds a cover, on one core or GPU",
    ]
    assert noise["median largest share of one source"]["value"] == SHARE
    assert noise["seconds a cover, on one core or GPU"]["value"] == 0.125
    assert {"KID, songs with covers, shuffled songs", "KID, covers alone, independent"} <= set(real)
    for row in noise.values():
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


def test_the_nearest_cover_is_wholly_one_source_and_exactly_like_it(compared: Any) -> None:
    nearest, noise = (table(compared[0], name) for name in ("nearest cover", "noise"))
    for place in ("nearest of 100 sources", "nearest cover of the catalogue"):
        name = f"likeness to the {place}, median"
        assert nearest[name]["value"] == pytest.approx(1)
        assert noise[name]["value"] < 1
    assert nearest["median largest share of one source"]["value"] == 1


def test_each_cover_has_a_seed_of_its_own_and_some_songs_have_several(compared: Any) -> None:
    details, drawing, *_ = compared
    songs = [song_id for song_id, _ in drawing.asked]
    assert len({seed for _, seed in drawing.asked}) == len(drawing.asked)
    assert set(songs) == set(SONGS)  # one for each song of each genre
    assert sorted({songs.count(song_id) for song_id in SONGS}) == [1, 4]
    assert (details["asked"], details["reference"]) == (20, 20)


def test_the_same_covers_are_asked_for_again(compared: Any, workspace: Workspace) -> None:
    again = Drawing()
    report = compare_generators(SETTINGS, workspace, others=[Candidate("noise", again)], only=["noise"])
    details: Any = report.details
    assert again.asked == compared[1].asked
    assert table(details, "noise") == table(compared[0], "noise")


def test_progress_rises_to_the_whole(compared: Any) -> None:
    said = compared[2]
    assert said == sorted(said)
    assert said[-1][0] == said[-1][1]


def test_genres_are_measured_on_as_many_pictures_on_either_side(compared: Any) -> None:
    rows = compared[0]["genres"]
    assert [(row["genre"], row["pictures"]) for row in rows] == [("folk", 20), ("jazz", 20)]
    for row in rows:
        assert set(row["nearest"]) == {"real covers", "nearest cover", "noise"}
        assert set(row["held_out"]) == {"nearest cover", "noise"}
        assert set(row["nearest"]["noise"]) == {"", ", independent"}
        assert row["nearest"]["noise"][", independent"] > row["nearest"]["nearest cover"][", independent"]


def test_the_report_can_be_read_and_names_the_article(compared: Any, workspace: Workspace) -> None:
    details, text = compared[0], compared[3]
    assert "| measure | real covers | nearest cover | noise |" in text
    assert "| pixels a side | 16 | 16 | 24 |" in text
    assert "20.89" in text
    assert read_report(workspace, generator_comparison.STAGE) is not None
    assert len(readable_sections(details)) == 5
    assert generators_section(details).rows[0] == ["pixels a side", "16", "16", "24"]
    last = genre_sections(details)["Fréchet distance to the 100 nearest, in the encoder's space"].rows[-1]
    assert last[:2] == ["mean", ""]


def test_a_name_that_no_candidate_has_is_refused_with_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(StageMissing, match=r"no generator is named other; .* has 'real covers', 'nearest cover'"):
        compare_generators(SETTINGS, workspace, only=["other"])


def test_without_the_features_the_encoder_s_space_alone_is_measured(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator_comparison, "available", lambda: False)
    details: Any = compare_generators(SETTINGS, workspace, only=["real covers"]).details
    assert not [name for name in table(details, "real covers") if "independent" in name or "likeness" in name]
    assert set(details["genres"][0]["nearest"]["real covers"]) == {""}


def test_covers_of_the_song_and_its_artist_are_no_sources(workspace: Workspace) -> None:
    nearest = nearest_of(index_of(workspace), "s05", 100)
    assert set(nearest.song_ids) == set(SONGS) - {"s04", "s05", "s06", "s07"}
    assert (np.diff(nearest.cosines) <= 0).all()


def test_a_song_without_a_cover_is_named(workspace: Workspace) -> None:
    with pytest.raises(StageMissing, match="track 'gone' has no cover"):
        read_covers(SETTINGS, workspace, ["s01", "gone"])


def test_the_hundred_nearest_of_several_songs_are_read_by_turns() -> None:
    assert hundred_nearest([["a", "b", "c"], ["b", "d"]]) == ["a", "b", "d", "c"]
    assert len(hundred_nearest([[str(n) for n in range(300)]])) == 100
    assert hundred_nearest([]) == []


def test_a_genre_of_which_nothing_is_near_is_left_out() -> None:
    features = {"one": {"": np.eye(3)}}
    covers = {"": {name: np.ones(3) for name in "abc"}}
    rows = genre_rows({"folk": [0, 1, 2]}, features, covers, ["a", "b", "c"], {"a": ["b"], "b": ["b"], "c": ["b"]})
    assert rows == []


def test_settings_decide_how_many_songs_are_asked_for(workspace: Workspace) -> None:
    fewer = SETTINGS.model_copy(update={"evaluation": load(overrides=["evaluation.num_generated=8"]).evaluation})
    assert compare_generators(fewer, workspace, only=["real covers"]).details["asked"] == 8


def publish_small(workspace: Workspace, version: str, encoder_fingerprint: str) -> None:
    pipeline = build_pipeline(
        build_transformer(GENERATOR, COVER, ENCODER.embed_dim),
        neighbours=GENERATOR.neighbours,
        num_inference_steps=2,
        guidance_scale=1.0,
        encoder_fingerprint=encoder_fingerprint,
    )
    publish_generator(
        f"{workspace.generators}/{version}", pipeline, version=version, lineage={}, details={}, cover=COVER, sources={}
    )


def test_generators_of_this_encoder_are_candidates_and_their_covers_come_in_the_order_asked_for(
    workspace: Workspace, tmp_path: Path
) -> None:
    own = Workspace(objects.resolve(str(tmp_path)))  # the generators of its own, all else of the other
    index = index_of(workspace)
    publish_small(own, "g1", index.encoder_fingerprint)
    publish_small(own, "g2", "of another encoder")
    assert [candidate.name for candidate in published(SETTINGS, own, index)] == ["transformer"]
    asked, seeds = ["s03", "s09", "s03"], [5, 6, 7]
    worker = generator_candidates._Generator(SETTINGS, workspace, f"{own.generators}/g1", "cpu")
    jobs = generator_candidates._jobs(index, asked, seeds, GENERATOR.neighbours)
    rows = {row["place"]: row for job in jobs for row in worker(job).to_pylist()}
    assert sorted(rows) == [0, 1, 2]
    assert {row["size"] for row in rows.values()} == {COVER.size}
    alone = generator_candidates._jobs(index, ["s03"], [7], GENERATOR.neighbours)[0]
    assert worker(alone).to_pylist()[0]["pixels"] == rows[2]["pixels"] != rows[0]["pixels"]
    assert all(row["seconds"] > 0 and row["share"] is None for row in rows.values())


def test_two_generators_of_a_kind_are_named_by_their_versions_too(workspace: Workspace, tmp_path: Path) -> None:
    own, index = Workspace(objects.resolve(str(tmp_path))), index_of(workspace)
    for version in ("g1", "g2"):
        publish_small(own, version, index.encoder_fingerprint)
    assert [candidate.name for candidate in published(SETTINGS, own, index)] == ["transformer g1", "transformer g2"]
