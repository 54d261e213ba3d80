"""The whole way on real S3: songs and covers in a bucket, every stage on Ray, new covers out of a release."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.errors import BundleNotFound, StageMissing, TooManyRejects, UnknownTrack
from gatefold.progress import NOTHING, OnProgress, silent
from gatefold.storage import objects, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.contents import releases
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.models.encoders import load_encoder, publish_encoder
from gatefold.storage.models.loaded_release import load_active_release
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.catalogue.synthesize import MANIFEST
from pipelines.evaluation.encoder_comparison import compare_encoders
from pipelines.evaluation.evaluate import SHEET, TABLE
from pipelines.evaluation.held_out import untrained
from pipelines.extraction.covers import extract_covers
from pipelines.extraction.rejects import read_rejects
from pipelines.extraction.spectrograms import extract_spectrograms
from pipelines.run import run_all
from pipelines.training.training_data import read_windows
from pipelines.versions import versions_of
from tests.shell import SETTINGS, Demo
from tests.sounds import CLIPS, MUSIC, encoded, tone

UNCHECKED = SETTINGS.model_copy(update={"batch": SETTINGS.batch.model_copy(update={"max_reject_share": 1.0})})
"""However many rejects there are."""
KEPT = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"reuse_models": True})})
"""Nothing is trained."""


@pytest.fixture(scope="module")
def workspace(demo: Demo, ray_cluster: str) -> Workspace:  # noqa: ARG001  on which run the stages that tests call
    return Workspace(demo.shell.workspace)


def table_of(demo: Demo) -> dict[str, Any]:
    return {row["measure"]: row for row in demo.printed["evaluation"]}


def test_every_stage_works_in_a_bucket_and_ends_in_a_release(demo: Demo, workspace: Workspace) -> None:
    reports = {report["stage"]: report for report in demo.printed["stages"]}
    for stage in ("spectrograms", "covers", "embed"):
        assert (reports[stage]["done"], reports[stage]["rejected"]) == (48, 0), stage
    assert releases.current(workspace).version == reports["release"]["details"]["version"]
    trained: Any = reports["train-encoder"]["details"]
    assert [step for step, _ in trained["curve"]] == list(range(1, trained["steps"] + 1))
    assert [step for step, _ in trained["recalls"]] == list(range(1, trained["steps"] + 1))
    for name in (SHEET, TABLE, "evaluate.json", "spectrograms.json"):
        assert objects.exists(f"{workspace.reports}/{name}"), name


def test_the_evaluation_says_how_it_would_be_by_chance_and_at_best(demo: Demo) -> None:
    measures = table_of(demo)
    assert {"recall@1", "recall@10", "median rank", "genre precision@10", "recall@10, by cover"} <= set(measures)
    (held_out,) = [report["done"] for report in demo.printed["stages"] if report["stage"] == "evaluate"]
    beside = measures["recall@1"]["baseline_values"]
    assert beside["chance"] == pytest.approx(1 / held_out)
    assert list(beside) == ["chance", "by genre", "untrained", "ceiling"]
    assert 0 <= measures["MRR"]["low"] <= measures["MRR"]["value"] <= measures["MRR"]["high"] <= 1
    assert measures["MRR"]["value"] < measures["MRR"]["baseline_values"]["ceiling"] < 1
    assert set(measures["KID, songs with covers"]["baseline_values"]) == {"real", "shuffled songs"}


def test_encoders_are_compared_on_the_same_songs_each_as_its_release_was_measured(
    demo: Demo, workspace: Workspace
) -> None:
    version = versions_of(SETTINGS, workspace).encoder
    bundle = open_bundle(f"{workspace.encoders}/{version}", "encoder")
    random = untrained(load_encoder(bundle.uri))
    publish_encoder(f"{workspace.encoders}/random", random, version="random", lineage={}, details={})
    details: Any = compare_encoders(SETTINGS, workspace, [version, "random"]).details
    trained, untrained_too = ({row["measure"]: row for row in encoder["table"]} for encoder in details["encoders"])
    for row in table_of(demo).values():
        if "untrained" in row["baseline_values"]:
            assert trained[row["measure"]]["value"] == pytest.approx(row["value"], abs=1e-6)
            assert untrained_too[row["measure"]]["value"] == pytest.approx(
                row["baseline_values"]["untrained"], abs=1e-6
            )
    with pytest.raises(BundleNotFound, match=f"no encoder 'other' in .* it has {version}, random"):
        compare_encoders(SETTINGS, workspace, ["other"])


def test_a_real_song_finds_covers_and_gets_the_same_new_ones_twice(workspace: Workspace) -> None:
    loaded = load_active_release(workspace, SETTINGS.generator, SETTINGS.originality)
    for clip in (CLIPS[0], CLIPS[4]):
        encoded = loaded.encode_song(objects.resolve(str(clip)))
        matches = loaded.search(encoded, 48)
        assert [match.rank for match in matches] == list(range(1, 49))
        first, second = (
            [cover.generated.pixels for cover in loaded.generate(encoded, seeds=[7, 8]).new] for _ in range(2)
        )
        assert np.array_equal(first, second)
        assert not np.array_equal(first[0], first[1])


def test_a_spectrogram_of_the_batch_is_the_served_one_bit_for_bit(workspace: Workspace) -> None:
    before = torch.get_num_threads()
    for song in list(objects.list_objects(f"{workspace.uri}/songs/audio"))[:8]:
        song_id = objects.name(song.uri).partition(".")[0]
        batch = read_windows(SETTINGS, workspace, [song_id])[song_id]
        for threads in (1, 2):  # a replica may use more than a batch worker does
            torch.set_num_threads(threads)
            served = extract_log_mel(objects.read(song.uri), SETTINGS.audio).log_mel
            assert served.tobytes() == batch.tobytes()
    torch.set_num_threads(before)


def test_a_stage_before_its_time_names_the_verb_to_run(ray_cluster: str) -> None:
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        extract_spectrograms(SETTINGS, Workspace(f"{ray_cluster}/nothing-here"))


@pytest.mark.chaos
def test_a_stopped_stage_goes_on_where_it_stopped(workspace: Workspace) -> None:
    stopped = Workspace(f"{workspace.uri}-stopped")
    extract_until(stopped, f"{workspace.uri}/songs/{MANIFEST}", songs=16)
    parts = tables.parts(stopped.spectrograms(SETTINGS.audio))
    finished = {uri: objects.stat(uri) for uri in parts}
    assert parts, "nothing was kept of the work before the stop"
    report = extract_spectrograms(SETTINGS, stopped)
    assert report.skipped >= 16
    assert {uri: objects.stat(uri) for uri in parts} == finished, "a part that was finished was written again"
    ids = tables.read_table(stopped.spectrograms(SETTINGS.audio), ["song_id", "window"]).to_pylist()
    assert len({(row["song_id"], row["window"]) for row in ids}) == len(ids)
    assert len({row["song_id"] for row in ids}) == 48


class Stopped(Exception):
    """What Ctrl-C is to a stage."""


def extract_until(workspace: Workspace, manifest: str, *, songs: int) -> None:
    def stop(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if done >= songs:
            raise Stopped

    watching: OnProgress = stop
    build_catalogue(SETTINGS, manifest, workspace)
    with pytest.raises(Stopped):
        extract_spectrograms(SETTINGS, workspace, watching)


def test_songs_come_and_go_under_the_models_that_serve(workspace: Workspace, tmp_path: Path) -> None:
    grown = Workspace(f"{workspace.uri}-grown")
    for info in objects.list_objects(workspace.uri):
        objects.put(objects.join(grown.uri, objects.relative(info.uri, workspace.uri)), objects.read(info.uri))
    before = releases.current(grown)
    columns = ["song_id", "title", "artist", "album", "genre", "audio_uri", "cover_uri"]
    tracks = read_tracks(grown, columns).to_pylist()
    gone, renamed, new = tracks[0]["song_id"], tracks[1]["song_id"], {**tracks[2], "song_id": "new", "artist": "nobody"}
    tracks[1]["title"] = "Another Title"
    pq.write_table(pa.Table.from_pylist([*tracks[1:], new]), tmp_path / "songs.parquet")
    for work in (1, 0):
        watched = run_all(KEPT, (tmp_path / "songs.parquet").as_uri(), grown, lambda _, job: job(silent))
        done = {report.stage: report.done for report in watched}
        assert (done["spectrograms"], done["embed"], done["index"], done["release"]) == (work,) * 4
        assert (done["train-encoder"], done["train-generator"]) == (0, 0)
    after, loaded = releases.current(grown), load_active_release(grown, SETTINGS.generator, SETTINGS.originality)
    assert (after.encoder, after.generator) == (before.encoder, before.generator)
    assert loaded.index.get("new").track.artist == "nobody"
    assert loaded.index.get(renamed).track.title == "Another Title"
    with pytest.raises(UnknownTrack):
        loaded.index.get(gone)
    assert len(loaded.generate(loaded.encode_song("new"), seeds=[7]).new) == 1


def test_a_hostile_folder_costs_one_true_reject_each_and_nothing_else(ray_cluster: str, tmp_path: Path) -> None:  # noqa: ARG001
    good = write_hostile_folder(tmp_path / "songs")
    workspace = Workspace((tmp_path / "workspace").as_uri())
    build_catalogue(UNCHECKED, (tmp_path / "songs").as_uri(), workspace)
    extract_spectrograms(UNCHECKED, workspace)
    extract_covers(UNCHECKED, workspace)
    rejects = {Path(row["uri"]).name: (row["code"], row["message"]) for row in read_rejects(workspace).to_pylist()}
    assert {name: code for name, (code, _) in rejects.items()} == {
        "text.mp3": "undecodable_audio",
        "empty.wav": "empty_file",
        "cut.flac": "truncated_audio",
        "silent.wav": "silent_audio",
        "short.wav": "audio_too_short",
        "picture.ogg": "undecodable_audio",
        "cover.jpg": "undecodable_cover",
    }
    assert len(read_rejects(workspace)) == 7
    assert "0.30 s" in rejects["short.wav"][1]
    encoded = tables.read_table(workspace.spectrograms(SETTINGS.audio), ["song_id"])["song_id"].to_pylist()
    assert set(encoded) == good


def test_too_many_rejects_stop_with_the_most_frequent_reasons(ray_cluster: str, tmp_path: Path) -> None:  # noqa: ARG001
    write_hostile_folder(tmp_path / "songs")
    workspace = Workspace((tmp_path / "workspace").as_uri())
    build_catalogue(UNCHECKED, (tmp_path / "songs").as_uri(), workspace)
    with pytest.raises(TooManyRejects, match=r"of \d+ inputs were rejected .* limit 20%"):
        extract_spectrograms(SETTINGS, workspace)


def write_hostile_folder(folder: Path) -> set[str]:
    """Six files that are no songs, a cover that is no picture, and two songs beside them; the ids of those two."""
    (folder / "album").mkdir(parents=True)
    flac = encoded(tone(4.0), format="FLAC")
    jpeg = next(MUSIC.glob("08_*")).read_bytes()
    jpeg = jpeg[jpeg.index(b"\xff\xd8\xff") :][:4000]
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(32_000, np.float32), 16_000, format="WAV")
    files = {
        "text.mp3": b"these are words, not music\n" * 40,
        "empty.wav": b"",
        "cut.flac": flac[: len(flac) // 2],
        "silent.wav": wav.getvalue(),
        "short.wav": encoded(tone(0.3)),
        "picture.ogg": jpeg,
        "good.flac": flac,
        "album/good.wav": encoded(tone(3.0)),
        "album/cover.jpg": b"no picture at all",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {"good.flac", "album/good.wav"}
