"""Two runs of a verb in one workspace at once, held up in the store where they would get in each other's way.

The second is refused with the holder of the lease; what is published is whole, whichever was first.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from gatefold.config import GeneratorSettings, Settings
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import LeaseLost, RunInProgress, Unavailable
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.progress import silent
from gatefold.records import TRACKS, embedding_schema
from gatefold.storage import leases, objects, tables
from gatefold.storage.bundles import list_bundles, open_bundle
from gatefold.storage.contents import catalogues, optouts, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.models.encoders import build_encoder, publish_encoder
from gatefold.storage.models.generators import publish_generator
from gatefold.workspace import Workspace
from pipelines import index
from pipelines.backfill.backfill import backfill, undo
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.catalogue.synthesize import synthesize
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.examples import make_examples
from pipelines.evaluation.generator_comparison import compare_generators
from pipelines.extraction.rejects import remove_rejects
from pipelines.index import build_index
from pipelines.release import publish_release
from pipelines.report import Report
from pipelines.training import train_encoder
from pipelines.training.train_generator import train_generator
from pipelines.versions import versions_of
from tests.factories import COVER, ENCODER, GENERATOR, unit_vectors, write_pairs
from tests.sounds import AUDIO, CLIPS

SETTINGS = Settings(audio=AUDIO, cover=COVER, generator=GeneratorSettings(size=COVER.size), encoder=ENCODER)
SONGS = [f"song-{number}" for number in range(6)]
WITHIN_S = 60
Verb = Callable[[Workspace], Report]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Six songs with both sides, in a catalogue and nothing else."""
    made = Workspace(objects.resolve(str(tmp_path / "workspace")))
    catalogues.replace(made, Catalogue("c1", len(SONGS), "file:///m.csv"), tracks("train"), 100)
    write_pairs(made, dict.fromkeys(SONGS, AUDIO.windows))
    return made


@pytest.fixture
def embedded(workspace: Workspace) -> Workspace:
    """The same with an encoder, and embeddings of it."""
    version = versions_of(SETTINGS, workspace).encoder
    encoder = DualEncoder(ENCODER, AUDIO, COVER)
    publish_encoder(f"{workspace.encoders}/{version}", encoder, version=version, lineage={}, details={})
    vectors = unit_vectors(len(SONGS), ENCODER.embed_dim).tolist()
    rows = [
        {"song_id": song_id, "song_embedding": vector, "cover_embedding": vector, "etag": None}
        for song_id, vector in zip(SONGS, vectors, strict=True)
    ]
    part = pa.Table.from_pylist(rows, embedding_schema(ENCODER.embed_dim))
    tables.write_part(workspace.embeddings(version), "part-0", part)
    return workspace


@pytest.fixture
def generating(embedded: Workspace) -> Workspace:
    """The same with an index and a generator."""
    build_index(SETTINGS, embedded)
    versions = versions_of(SETTINGS, embedded)
    encoder = open_bundle(f"{embedded.encoders}/{versions.encoder}", "encoder").fingerprint
    pipeline = build_pipeline(
        build_transformer(GENERATOR, COVER, ENCODER.embed_dim),
        neighbours=GENERATOR.neighbours,
        num_inference_steps=GENERATOR.num_inference_steps,
        guidance_scale=2.0,
        encoder_fingerprint=encoder,
    )
    publish_generator(
        f"{embedded.generators}/{versions.generator}",
        pipeline,
        version=versions.generator,
        lineage={"encoder": encoder},
        details={},
        cover=COVER,
        sources={},
    )
    return embedded


def tracks(split: str) -> pa.Table:
    rows = [{"song_id": song_id, "audio_uri": f"file:///{song_id}", "split": split} for song_id in SONGS]
    return pa.Table.from_pylist(rows, TRACKS)


def trained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings end at once, with other weights each time, as on another machine."""

    def state(*_: object) -> dict[str, Any]:
        torch.manual_seed(int.from_bytes(os.urandom(4), "big"))
        weights = build_encoder(ENCODER, AUDIO, COVER).state_dict()
        return {"best": None, "average": weights, "step": 1, "resumed": [], "curve": [], "recalls": []}

    monkeypatch.setattr(train_encoder, "stream_pairs", lambda *_: None)
    monkeypatch.setattr(train_encoder, "run_training", lambda *_, **__: "checkpoint")
    monkeypatch.setattr(train_encoder, "last_state", state)


class Gate:
    """Holds up the first put under a folder until it is opened."""

    def __init__(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.reached, self.open = threading.Event(), threading.Event()
        for name in ("put", "put_if_absent", "put_if_unchanged"):
            monkeypatch.setattr(objects, name, partial(self._put, getattr(objects, name)))

    def _put(self, put: Callable[..., Any], uri: str, *rest: Any) -> Any:
        if uri.startswith(f"{self._folder}/") and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(WITHIN_S)
        return put(uri, *rest)


def second_beside_the_first(verb: Verb, workspace: Workspace, folder: str, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Runs the verb, and once it is about to write into this folder, a second time beside it; the report of the first.

    Raises: AssertionError unless the second is refused with the name of the first.
    """
    gate = Gate(folder, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(verb, workspace)
        while not gate.reached.wait(0.05):
            assert not first.done(), first.result()
        try:
            with pytest.raises(RunInProgress, match=rf"process {os.getpid()} on .* works on it since"):
                verb(workspace)
        finally:
            gate.open.set()
        return first.result()


def test_of_two_trainings_of_an_encoder_one_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_anew(monkeypatch)
    verb = partial(train_encoder.train_encoder, SETTINGS)
    report = second_beside_the_first(verb, workspace, workspace.encoders, monkeypatch)
    (bundle,) = list_bundles(workspace.encoders)
    assert (report.done, bundle.fingerprint) == (6, report.details["fingerprint"])
    assert all(bundle.read(name) for name in bundle.files)
    assert verb(workspace).skipped == 1


def test_a_training_that_another_has_finished_meanwhile_is_not_done_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_anew(monkeypatch)
    hold = leases.hold

    def held_once_another_was_done(folder: str) -> Any:
        monkeypatch.setattr(leases, "hold", hold)
        train_encoder.train_encoder(SETTINGS, workspace)
        return hold(folder)

    monkeypatch.setattr(leases, "hold", held_once_another_was_done)
    assert train_encoder.train_encoder(SETTINGS, workspace).skipped == 1


def test_of_two_that_build_an_index_one_is_refused(embedded: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    optouts.withdraw(embedded, SONGS[0])
    verb = partial(build_index, SETTINGS)
    report = second_beside_the_first(verb, embedded, embedded.indexes, monkeypatch)
    (bundle,) = list_bundles(embedded.indexes)
    assert (report.done, report.details["covers"], bundle.fingerprint) == (1, 5, report.details["fingerprint"])
    assert all(bundle.read(name) for name in bundle.files)
    assert verb(embedded).skipped == 1


def test_who_is_refused_an_index_leaves_it_to_the_next_to_leave_songs_out(
    embedded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def withdraw_and_build(workspace: Workspace) -> Report:
        if optouts.digests(workspace):
            optouts.withdraw(workspace, SONGS[1])
        optouts.withdraw(workspace, SONGS[0])
        return build_index(SETTINGS, workspace)

    second_beside_the_first(withdraw_and_build, embedded, embedded.indexes, monkeypatch)
    standing = f"{embedded.indexes}/{versions_of(SETTINGS, embedded).index}"
    assert open_bundle(standing, "index").details["covers"] == 5, "it is named by songs that it was not built without"


def test_of_two_that_make_the_catalogue_one_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "m.csv").write_text("song_id,audio_uri\none,a.wav\n")
    verb = partial(build_catalogue, SETTINGS, str(tmp_path / "m.csv"))
    report = second_beside_the_first(verb, workspace, workspace.catalogue, monkeypatch)
    assert (report.done, report.details["removed"]) == (1, 6)
    assert catalogues.read_tracks(workspace)["song_id"].to_pylist() == ["one"]


def test_of_two_that_release_one_is_refused(generating: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = partial(publish_release, SETTINGS)
    report = second_beside_the_first(verb, generating, generating.releases, monkeypatch)
    assert (report.done, report.details["version"]) == (1, releases.current(generating).version)
    assert verb(generating).skipped == 1


REFUSED: dict[str, Verb] = {
    "evaluate": partial(evaluate, SETTINGS),
    "compare-generators": partial(compare_generators, SETTINGS),
    "train-generator": partial(train_generator, SETTINGS),
    "backfill": lambda workspace: backfill(SETTINGS, str(CLIPS[0].parent), workspace, into="file"),
    "undo": lambda workspace: undo(workspace, "some-run"),
    "words": lambda workspace: Report(
        stage="", done=remove_rejects(workspace, "words"), skipped=0, rejected=0, seconds=0
    ),
}


@pytest.mark.parametrize("verb", REFUSED)
def test_what_another_run_works_on_is_left_alone(embedded: Workspace, verb: str) -> None:
    runs = {"train-generator": f"generator-{versions_of(SETTINGS, embedded).generator}", "undo": "backfill"}
    run = runs.get(verb, verb)
    with leases.hold(embedded.lease(run)), pytest.raises(RunInProgress, match=f"runs/{run}': process"):
        REFUSED[verb](embedded)


def test_examples_and_demo_songs_that_another_run_makes_are_left_alone(generating: Workspace, tmp_path: Path) -> None:
    publish_release(SETTINGS, generating)
    with leases.hold(generating.lease("examples")), pytest.raises(RunInProgress, match="runs/examples': process"):
        make_examples(Settings(), CLIPS[0].parent, generating)
    folder = objects.resolve(str(tmp_path / "songs"))
    with leases.hold(f"{folder}.lease"), pytest.raises(RunInProgress, match="/songs': process"):
        synthesize(SETTINGS, folder)
    assert not list(objects.list_objects(folder))


def test_of_two_catalogues_put_at_once_one_counts_and_no_part_of_it_is_removed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run was taken for dead, and goes on."""
    meeting, put = threading.Barrier(2), objects.put_if_unchanged

    def put_together(*arguments: Any) -> bool:
        meeting.wait(WITHIN_S)
        return put(*arguments)

    monkeypatch.setattr(objects, "put_if_unchanged", put_together)
    catalogues_of = {"c2": tracks("test"), "c3": tracks("validation")}
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(catalogues.replace, workspace, Catalogue(name, len(SONGS), "file:///m.csv"), table, 2)
            for name, table in catalogues_of.items()
        ]
    (error,) = [run.exception() for run in runs if run.exception()]
    assert isinstance(error, LeaseLost)
    assert "that run's catalogue counts" in error.message
    current = catalogues.current(workspace)
    assert current is not None
    assert catalogues.read_tracks(workspace).equals(catalogues_of[current.fingerprint])


def test_an_index_is_not_named_after_a_catalogue_that_it_was_not_made_of(
    embedded: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = index.indexed_tracks

    def replace_and_read(workspace: Workspace, *rest: Any) -> pa.Table:
        catalogues.replace(workspace, Catalogue("c2", 3, "file:///m.csv"), tracks("test").slice(3), 100)
        return read(workspace, *rest)

    monkeypatch.setattr(index, "indexed_tracks", replace_and_read)
    with pytest.raises(Unavailable, match="changed while they were read"):
        build_index(SETTINGS, embedded, silent)
    assert list_bundles(embedded.indexes) == []
