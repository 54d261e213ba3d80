"""What looks ahead, against a real S3 protocol."""

import json
from pathlib import Path

import pytest

from gatefold.cli import doctor
from gatefold.config import Settings
from gatefold.storage import objects
from gatefold.workspace import Workspace
from pipelines.planning.plan import make_plan, read_plan
from tests.sounds import AUDIO, MUSIC

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(s3: str, request: pytest.FixtureRequest) -> str:
    return f"{s3}/{request.node.name}"


def test_the_doctor_finds_a_store_that_keeps_its_promises_and_leaves_nothing_there(folder: str) -> None:
    findings = doctor.check_store(folder)
    assert [(one.name, one.state) for one in findings] == [("store", "ok"), ("clock", "ok")]
    assert "as the store's" in findings[1].detail
    assert list(objects.list_objects(folder)) == []


def test_the_doctor_says_what_to_do_about_a_bucket_that_is_not_there(s3: str) -> None:
    (found,) = doctor.check_store(f"{s3}-elsewhere/workspace")
    assert (found.name, found.state) == ("store", "fault")
    assert found.detail.startswith("cannot write: ")
    assert "NoSuchBucket" in found.detail
    assert "make the bucket" in found.remedy


def test_a_plan_counts_the_requests_and_bytes_that_the_store_hands_out(folder: str) -> None:
    clips = ["01_folk_vocals.wav", "11_polka.mp3"]
    for name in clips:
        objects.put(f"{folder}/music/{name}", (MUSIC / name).read_bytes())
    manifest = "\n".join(json.dumps({"song_id": name, "audio_uri": f"music/{name}"}) for name in clips)
    objects.put(f"{folder}/songs.jsonl", manifest.encode())
    workspace = Workspace(f"{folder}/workspace")
    plan = make_plan(
        Settings(audio=AUDIO),
        f"{folder}/songs.jsonl",
        workspace,
        songs=1_000_000,
        cluster=ROOT / "cluster.yaml",
        prices=ROOT / "pipelines" / "prices.yaml",
    )
    one = plan.estimate.per_song
    assert plan.sample_rejects == {}
    assert one.object_bytes.mean == sum((MUSIC / name).stat().st_size for name in clips) / 2
    assert 0 < one.read_bytes.mean <= one.object_bytes.mean
    assert one.get_requests.mean >= 1
    assert one.wait_s.mean > 0
    assert plan.estimate.totals.get_requests.mean == pytest.approx(1_000_000 * one.get_requests.mean)
    assert "reads come from the store as far from the workers as it is from here" in plan.assumptions
    assert read_plan(workspace) == plan
