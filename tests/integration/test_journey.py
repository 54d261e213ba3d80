"""The whole way on real S3: songs and covers in a bucket, every stage on Ray, new covers out of a release."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from gatefold.audio import listen
from gatefold.config import Settings, load
from gatefold.errors import BundleNotFound, StageMissing, TooManyRejects
from gatefold.storage import objects, releases, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.encoders import load_encoder, publish_encoder
from gatefold.storage.ensembles import load_ensemble
from gatefold.workspace import Workspace
from pipelines.catalogue import build_catalogue
from pipelines.comparison import compare_encoders
from pipelines.covers import extract_covers
from pipelines.evaluation import SHEET, TABLE
from pipelines.held_out import untrained
from pipelines.pairs import read_windows
from pipelines.quarantine import read_rejects
from pipelines.report import NOTHING, OnProgress, Report, silent
from pipelines.run import Job, run_all
from pipelines.spectrograms import extract_spectrograms
from pipelines.synthesize import MANIFEST, synthesize
from pipelines.versions import versions_of
from tests.sounds import CLIPS, MUSIC, encoded, tone

SMALL = load(
    overrides=[
        "audio.sample_rate=8000",
        "audio.f_max=4000",
        "audio.n_mels=32",
        "audio.window_s=1.28",
        "cover.size=16",
        "synthesis.songs=48",
        "synthesis.artists=24",
        "synthesis.duration_s=3",
        "synthesis.cover_size=32",
        "encoder.embed_dim=16",
        "encoder.width=16",
        "encoder.epochs=2",
        "generator.patch_size=4",
        "generator.hidden=32",
        "generator.layers=1",
        "generator.heads=2",
        "generator.neighbours=2",
        "generator.steps=4",
        "generator.num_inference_steps=3",
        "evaluation.covers=8",
        "evaluation.sheet=2",
        "train.checkpoint_steps=2",
        "batch.rows_per_block=16",
    ]
)
UNCHECKED = SMALL.model_copy(update={"batch": SMALL.batch.model_copy(update={"max_reject_share": 1.0})})
"""However many rejects there are."""


@dataclass
class Journey:
    """A workspace in which every stage has run, and what they said."""

    workspace: Workspace
    songs: str
    reports: dict[str, Report]


def quietly(_: str, job: Job) -> Report:
    return job(silent)


def travel(settings: Settings, songs: str, workspace: Workspace) -> dict[str, Report]:
    return {report.stage: report for report in run_all(settings, songs, workspace, quietly)}


@pytest.fixture(scope="module")
def journey(ray_cluster: str) -> Journey:
    workspace = Workspace(f"{ray_cluster}/journey")
    songs = f"{ray_cluster}/songs"
    synthesize(SMALL, songs)
    return Journey(workspace, songs, travel(SMALL, f"{songs}/{MANIFEST}", workspace))


def test_every_stage_works_in_a_bucket_and_ends_in_a_release(journey: Journey) -> None:
    for stage in ("spectrograms", "covers", "embed"):
        assert (journey.reports[stage].done, journey.reports[stage].rejected) == (48, 0), stage
    release = releases.current(journey.workspace)
    assert release.version == journey.reports["release"].details["version"]
    for name in (SHEET, TABLE, "evaluate.json", "spectrograms.json"):
        assert objects.exists(f"{journey.workspace.reports}/{name}"), name


def test_the_evaluation_says_how_it_would_be_by_chance_and_at_best(journey: Journey) -> None:
    table: Any = journey.reports["evaluate"].details["table"]
    measures = {row["measure"]: row for row in table}
    assert {"recall@1", "recall@10", "median rank", "genre precision@10", "recall@10, by cover"} <= set(measures)
    held_out = journey.reports["evaluate"].done
    beside = measures["recall@1"]["beside"]
    assert beside["chance"] == pytest.approx(1 / held_out)
    assert list(beside) == ["chance", "by genre", "untrained", "ceiling"]
    assert 0 <= measures["MRR"]["low"] <= measures["MRR"]["value"] <= measures["MRR"]["high"] <= 1
    assert measures["MRR"]["value"] < measures["MRR"]["beside"]["ceiling"] < 1
    assert set(measures["KID, songs with covers"]["beside"]) == {"real", "shuffled songs"}


def test_encoders_are_compared_on_the_same_songs_each_as_its_release_was_measured(journey: Journey) -> None:
    version = versions_of(SMALL, journey.workspace).encoder
    bundle = open_bundle(f"{journey.workspace.encoders}/{version}", "encoder")
    random = untrained(load_encoder(bundle.uri))
    publish_encoder(f"{journey.workspace.encoders}/random", random, version="random", lineage={}, details={})
    details: Any = compare_encoders(SMALL, journey.workspace, [version, "random"]).details
    trained, untrained_too = ({row["measure"]: row for row in encoder["table"]} for encoder in details["encoders"])
    table: Any = journey.reports["evaluate"].details["table"]
    for row in table:
        if "untrained" in row["beside"]:
            assert trained[row["measure"]]["value"] == pytest.approx(row["value"], abs=1e-6)
            assert untrained_too[row["measure"]]["value"] == pytest.approx(row["beside"]["untrained"], abs=1e-6)
    with pytest.raises(BundleNotFound, match=f"no encoder 'other' in .* it has {version}, random"):
        compare_encoders(SMALL, journey.workspace, ["other"])


def test_what_is_done_is_not_done_again(journey: Journey) -> None:
    again = travel(SMALL, f"{journey.songs}/{MANIFEST}", journey.workspace)
    assert {stage: report.done for stage, report in again.items()} == dict.fromkeys(again, 0)


def test_a_real_song_finds_covers_and_gets_the_same_new_ones_twice(journey: Journey) -> None:
    ensemble = load_ensemble(journey.workspace)
    for clip in (CLIPS[0], CLIPS[4]):
        heard = ensemble.hear(objects.resolve(str(clip)))
        matches = ensemble.search(heard, 48)
        assert [match.rank for match in matches] == list(range(1, 49))
        first, second = (ensemble.paint(heard, seeds=[7, 8]).pixels for _ in range(2))
        assert np.array_equal(first, second)
        assert not np.array_equal(first[0], first[1])


def test_a_spectrogram_of_the_batch_is_the_served_one_bit_for_bit(journey: Journey) -> None:
    before = torch.get_num_threads()
    for song in list(objects.list_objects(f"{journey.songs}/audio"))[:8]:
        song_id = objects.name(song.uri).partition(".")[0]
        batch = read_windows(SMALL, journey.workspace, [song_id])[song_id]
        for threads in (1, 2):  # a replica may use more than a batch worker does
            torch.set_num_threads(threads)
            served = listen(objects.read(song.uri), SMALL.audio).log_mel
            assert served.tobytes() == batch.tobytes()
    torch.set_num_threads(before)


def test_a_stage_before_its_time_names_the_verb_to_run(ray_cluster: str) -> None:
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        extract_spectrograms(SMALL, Workspace(f"{ray_cluster}/nothing-here"))


def test_a_stopped_stage_goes_on_where_it_stopped(journey: Journey) -> None:
    workspace = Workspace(f"{journey.workspace.uri}-stopped")
    run_all_until(workspace, journey.songs, stop_after=16)
    parts = tables.parts(workspace.spectrograms(SMALL.audio))
    finished = {uri: objects.stat(uri) for uri in parts}
    assert parts, "nothing was kept of the work before the stop"
    report = extract_spectrograms(SMALL, workspace)
    assert report.skipped >= 16
    assert {uri: objects.stat(uri) for uri in parts} == finished, "a part that was finished was written again"
    ids = tables.read_table(workspace.spectrograms(SMALL.audio), ["song_id", "window"]).to_pylist()
    assert len({(row["song_id"], row["window"]) for row in ids}) == len(ids)
    assert len({row["song_id"] for row in ids}) == 48


class Stopped(Exception):
    """What Ctrl-C is to a stage."""


def run_all_until(workspace: Workspace, songs: str, *, stop_after: int) -> None:
    def stop(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if done >= stop_after:
            raise Stopped

    watching: OnProgress = stop
    build_catalogue(SMALL, f"{songs}/{MANIFEST}", workspace)
    with pytest.raises(Stopped):
        extract_spectrograms(SMALL, workspace, watching)


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
    heard = tables.read_table(workspace.spectrograms(SMALL.audio), ["song_id"])["song_id"].to_pylist()
    assert set(heard) == good


def test_too_many_rejects_stop_with_the_most_frequent_reasons(ray_cluster: str, tmp_path: Path) -> None:  # noqa: ARG001
    write_hostile_folder(tmp_path / "songs")
    workspace = Workspace((tmp_path / "workspace").as_uri())
    build_catalogue(UNCHECKED, (tmp_path / "songs").as_uri(), workspace)
    with pytest.raises(TooManyRejects, match=r"of \d+ inputs were rejected .* limit 20%"):
        extract_spectrograms(SMALL, workspace)


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
