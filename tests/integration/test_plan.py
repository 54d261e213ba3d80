"""A plan measured on real songs, and held against a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import BatchSettings, Settings
from gatefold.errors import (
    Corrupt,
    DecodingTimeout,
    InvalidManifest,
    InvalidSettings,
    StageMissing,
    StorageUnavailable,
)
from gatefold.storage import objects, tables
from gatefold.workspace import Workspace
from pipelines.extraction.extract_block import spectrogram_rows
from pipelines.planning import plan
from pipelines.planning.estimate import OVERHEAD
from pipelines.planning.plan import Plan, judge_plan, make_plan, read_plan
from pipelines.planning.sampling import SongCost, _lost, _with_encoding, count_rejects, draw_sample, measure
from pipelines.report import Report, write_report
from tests.sounds import AUDIO, CLIPS, MUSIC, encoded, tone

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(audio=AUDIO, batch=BatchSettings(rows_per_block=8))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace((tmp_path / "workspace").as_uri())


@pytest.fixture(scope="module")
def reported() -> list[tuple[int, int]]:
    """Calls of on_progress while `costs` is measured."""
    return []


@pytest.fixture(scope="module")
def costs(reported: list[tuple[int, int]]) -> list[SongCost]:
    """Of all clips, measured once, because that takes a process of its own."""
    drawn = draw_sample(str(MUSIC), 100)
    return measure(drawn, SETTINGS, lambda done, total, _=None: reported.append((done, total)))


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch, costs: list[SongCost]) -> None:
    """For plans whose songs need not be measured anew."""
    monkeypatch.setattr(plan, "measure", lambda *_: costs)


def planned(workspace: Workspace, source: Path | str = MUSIC, **options: Any) -> Plan:
    places: dict[str, Any] = {"cluster": ROOT / "cluster.yaml", "prices": ROOT / "pipelines" / "prices.yaml", **options}
    return make_plan(SETTINGS, str(source), workspace, **places)


def mixed_manifest(folder: Path) -> Path:
    """Two usable songs, one that is silent, one that is not there, one whose uri is none."""
    for name, level in (("a.wav", 0.5), ("b.wav", 0.4), ("silent.wav", 0.0)):
        (folder / name).write_bytes(encoded(tone(2.0, level=level)))
    uris = ["a.wav", "b.wav", "silent.wav", "gone.wav", "ftp://x/y.wav"]
    manifest = folder / "songs.jsonl"
    manifest.write_text("\n".join(json.dumps({"song_id": uri[:4], "audio_uri": uri}) for uri in uris))
    return manifest


# ---- the sample -----------------------------------------------------------------------------------------------------


def test_a_sample_is_drawn_without_repeating_and_always_the_same() -> None:
    drawn = draw_sample(str(MUSIC), 5)
    assert drawn == draw_sample(str(MUSIC), 5)
    assert (len(set(drawn.tracks)), drawn.songs_there) == (5, len(CLIPS))
    assert {uri for _, uri in drawn.tracks} < {clip.resolve().as_uri() for clip in CLIPS}
    assert drawn.tracks != sorted(drawn.tracks)


def test_every_clip_costs_time_and_bytes_and_writes_its_windows(
    costs: list[SongCost], reported: list[tuple[int, int]]
) -> None:
    assert len(costs) == len(CLIPS)
    assert reported == [(number, len(CLIPS)) for number in range(len(CLIPS) + 1)]
    sizes = {clip.stat().st_size for clip in CLIPS}
    for cost in costs:
        assert cost.reject is None
        assert 0 < cost.cpu_s <= 1.01 * cost.wall_s  # by two clocks
        assert 0 <= cost.wait_s < cost.wall_s
        assert cost.object_bytes in sizes
        assert 0 < cost.read_bytes <= cost.object_bytes
        assert cost.requests >= 1
        assert cost.written_bytes > 0


def test_written_bytes_are_those_of_compressed_parts(workspace: Workspace, costs: list[SongCost]) -> None:
    drawn = draw_sample(str(MUSIC), 100)
    songs = [(song_id, extract_log_mel(objects.open_source(uri), AUDIO)) for song_id, uri in drawn.tracks]
    uris = [
        tables.write_part(f"{workspace.uri}/parts", str(start), spectrogram_rows(songs[start : start + 8], AUDIO))
        for start in range(0, len(songs), SETTINGS.batch.rows_per_block)
    ]
    written = sum(objects.stat(uri).size_bytes for uri in uris)
    assert sum(cost.written_bytes for cost in costs) == pytest.approx(written)


def test_songs_that_cannot_be_used_are_counted_by_code_and_cost_what_they_cost(tmp_path: Path) -> None:
    costs = measure(draw_sample(str(mixed_manifest(tmp_path)), 48), SETTINGS)
    assert count_rejects(costs) == {"silent_audio": 1, "object_not_found": 1, "invalid_input": 1}
    silent = next(cost for cost in costs if cost.reject == "silent_audio")
    assert silent.read_bytes > 0
    assert silent.cpu_s > 0
    assert {cost.written_bytes for cost in costs if cost.reject} == {0.0}


def test_a_song_that_hangs_or_crashes_costs_its_time_and_any_other_error_is_raised() -> None:
    lost = _lost(DecodingTimeout("took more than 120 s"), 240.0)
    (cost,) = _with_encoding([lost], AUDIO)
    assert (cost.reject, cost.cpu_s, cost.written_bytes) == ("decoding_timeout", 240.0, 0.0)
    with pytest.raises(StorageUnavailable, match="no answer"):
        _lost(StorageUnavailable("no answer"), 1.0)


# ---- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("remembered")
def test_a_plan_of_a_folder_with_fewer_songs_than_the_sample_measures_them_all(workspace: Workspace) -> None:
    made = planned(workspace, songs=10_000_000)
    assert (made.sample_songs, made.songs_in_source, made.estimate.songs) == (len(CLIPS), len(CLIPS), 10_000_000)
    assert any("17 songs show little" in said for said in made.assumptions)
    assert made.estimate.totals.read_bytes.mean == pytest.approx(10_000_000 * made.estimate.per_song.read_bytes.mean)
    assert made.estimate.totals.vcpu_hours.low < made.estimate.totals.vcpu_hours.high
    assert [worker.name for worker in made.estimate.workers] == ["audio"]


def test_a_plan_is_for_the_songs_there_unless_set_otherwise_and_is_kept(tmp_path: Path, workspace: Workspace) -> None:
    made = planned(workspace, mixed_manifest(tmp_path))
    assert made.estimate.songs == 5
    assert made.estimate.per_song.reject_share.mean == 0.6
    assert made.sample_rejects == {"silent_audio": 1, "object_not_found": 1, "invalid_input": 1}
    assert read_plan(workspace) == made


def test_a_missing_price_is_reported_before_anything_is_measured(tmp_path: Path, workspace: Workspace) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text((ROOT / "pipelines" / "prices.yaml").read_text().replace("c7i.4xlarge", "c8i.4xlarge"))
    with pytest.raises(InvalidSettings, match=r"lacks machines\.c7i\.4xlarge\.spot"):
        planned(workspace, "/no/such/folder", prices=prices)


def test_a_source_without_songs_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    with pytest.raises(InvalidManifest):
        planned(workspace, tmp_path)


# ---- against a run --------------------------------------------------------------------------------------------------


def run(workspace: Workspace, done: int = 100, seconds: float = 700.0, **details: Any) -> None:
    target = workspace.spectrograms(AUDIO)
    report = Report(stage="spectrograms", done=done, skipped=0, rejected=0, seconds=seconds, details={"target": target})
    write_report(workspace, report.model_copy(update={"details": {**report.details, **details}}))


@pytest.mark.usefixtures("remembered")
def test_a_run_is_held_against_the_plan_song_by_song(workspace: Workspace) -> None:
    per_song = planned(workspace).estimate.per_song
    run(workspace, work_s=200 * per_song.core_s.mean, bytes_read=50 * per_song.read_bytes.mean, workers=4)
    verdict = judge_plan(workspace)
    ratios = {one.quantity: one.ratio for one in verdict.comparisons}
    assert ratios["core time a song"] == pytest.approx(2.0)
    assert ratios["read a song"] == pytest.approx(0.5)
    wall = verdict.comparisons[2]
    assert (wall.quantity, wall.real) == ("wall time of the run", 700.0)
    assert wall.planned.mean == pytest.approx(100 * per_song.core_s.mean * OVERHEAD / 4)
    assert (verdict.songs, verdict.remarks) == (100, [])


@pytest.mark.usefixtures("remembered")
def test_what_the_report_lacks_is_named_and_the_rest_compared(workspace: Workspace) -> None:
    planned(workspace)
    run(workspace, bytes_read=12_345)
    verdict = judge_plan(workspace)
    assert [one.quantity for one in verdict.comparisons] == ["read a song"]
    assert verdict.remarks == [
        "core time a song: the report of the run has no work_s",
        "wall time of the run: the report of the run has no workers",
    ]


@pytest.mark.usefixtures("remembered")
def test_a_run_too_short_to_compare_is_said_to_be_so(workspace: Workspace) -> None:
    planned(workspace)
    run(workspace, seconds=80.0, work_s=1.0, bytes_read=1, workers=1)
    assert judge_plan(workspace).remarks == ["a run of 80 s is largely its workers' start, which the plan leaves out"]


@pytest.mark.usefixtures("remembered")
def test_a_run_with_other_audio_settings_is_reported_apart(workspace: Workspace) -> None:
    planned(workspace)
    run(workspace, target=f"{workspace.uri}/spectrograms/0123456789ab")
    assert "the run had other audio settings" in judge_plan(workspace).remarks[-1]


@pytest.mark.usefixtures("remembered")
def test_without_a_plan_or_a_run_after_it_nothing_is_judged(workspace: Workspace) -> None:
    with pytest.raises(StageMissing, match="has no plan; run `gatefold plan MANIFEST` first"):
        judge_plan(workspace)
    run(workspace)
    planned(workspace)
    with pytest.raises(StageMissing, match="no songs were extracted since the plan"):
        judge_plan(workspace)
    run(workspace, done=0)
    with pytest.raises(StageMissing, match="had nothing to do"):
        judge_plan(workspace)


def test_a_plan_that_cannot_be_read_is_to_be_made_anew(workspace: Workspace) -> None:
    objects.put(f"{workspace.reports}/plan.json", b"{}")
    with pytest.raises(Corrupt, match="run `gatefold plan MANIFEST` anew"):
        read_plan(workspace)
