"""`gatefold adapt` on real Ray and tiny checkpoints: killed, it goes on, and a request names what it made."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from gatefold.config import GeneratorSettings, PretrainedSettings, Settings, TrainSettings
from gatefold.errors import InvalidSettings, StageMissing
from gatefold.generator.interface import GenerationRequest, Pixels
from gatefold.generator.pretrained.pipeline import LORA_WEIGHTS, PretrainedGenerator
from gatefold.generator_settings import LoraSettings
from gatefold.storage import objects
from gatefold.storage.bundles import open_bundle, publish
from gatefold.storage.models.pretrained_generators import ADAPTER, load_pretrained, pretrained_files
from gatefold.workspace import Workspace
from pipelines.report import Report
from pipelines.training.adapt import adapt
from tests.factories import COVER, publish_small_release, write_pairs
from tests.kills import kill
from tests.pretrained import SIZE, MeanOfSources, sources, write_pretrained
from tests.sounds import AUDIO

SONG = "s4"
OTHERS = [f"s{number}" for number in range(12) if number // 3 != 4 // 3]
"""covers by other artists than that song's"""
STEPS, SAVED_EVERY = 24, 8
ROOT = Path(__file__).parents[2]
_REPORTS = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained(tmp_path_factory.mktemp("model"), "StableDiffusionPipeline")


@pytest.fixture(autouse=True)
def reports_are_seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train looks for them every other second, in which these runs make all their steps."""
    monkeypatch.setenv(_REPORTS, "0.2")


def workspace_in(folder: Path) -> Workspace:
    """A release of twelve songs with covers, always the same."""
    workspace = Workspace(objects.resolve(str(folder)))
    torch.manual_seed(0)
    publish_small_release(workspace)
    write_pairs(workspace, {f"s{number}": 1 for number in range(12)})
    return workspace


def settings_for(model: str, steps: int = STEPS, num_workers: int = 1, **lora: object) -> Settings:
    pretrained = PretrainedSettings(
        model=model,
        size=SIZE,
        num_inference_steps=2,
        lora=LoraSettings.model_validate({"rank": 2, "steps": steps, "lr": 0.01, **lora}),
    )
    settings = Settings(
        audio=AUDIO,
        cover=COVER,
        generator=GeneratorSettings(size=COVER.size),
        train=TrainSettings(num_workers=num_workers, checkpoint_steps=SAVED_EVERY)
    )
    return settings.model_copy(
        update={"generator": settings.generator.model_copy(update={"diffusers": pretrained, "seed": 3})}
    )


def start(folder: Path, settings: Settings, workspace: Workspace) -> "subprocess.Popen[bytes]":
    """The command, in a process group of its own, on a Ray of its own."""
    (folder / "settings.yaml").write_text(settings.model_dump_json())  # JSON is YAML
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    environment.pop(_REPORTS, None)
    command = [sys.executable, "-m", "gatefold", "--config", "settings.yaml", "--workspace", workspace.uri, "--json",
               "adapt", SONG]  # fmt: skip
    with (folder / "said.log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=log
        )


def kill_after_checkpoint(folder: Path, settings: Settings, workspace: Workspace) -> None:
    """Once a checkpoint is noted and before the last one is; where that passed unseen, it is begun anew."""
    for _ in range(4):
        driver = start(folder, settings, workspace)
        deadline = time.monotonic() + 240
        while not noted(workspace):
            assert driver.poll() is None, "it ended before its first checkpoint"
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
        kill([driver.pid, *descendants(driver.pid)])  # the workers would go on to the end without their driver
        driver.communicate()
        if f"step-{STEPS:07d}" not in noted(workspace):
            return
        objects.delete_tree(workspace.runs)
        objects.delete_tree(workspace.adapters)
    raise AssertionError("it was always done before it was killed")


def noted(workspace: Workspace) -> set[str]:
    """The checkpoints that a run would go on from, as Ray Train has written down."""
    infos = objects.list_objects(workspace.runs)
    notes = [objects.read(info.uri).decode() for info in infos if info.uri.endswith("snapshot.json")]
    return {name for note in notes for name in re.findall(r"step-\d+", note)}


def descendants(pid: int) -> list[int]:
    """What a process has started, and what that has, as of now."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone since it was listed
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def weights(workspace: Workspace, report: Report) -> bytes:
    return open_bundle(f"{workspace.adapters}/{report.details['version']}", ADAPTER).read(LORA_WEIGHTS)


def picture(generator: PretrainedGenerator, adapter: str | None) -> Pixels:
    request = GenerationRequest(adapter=adapter)
    song = np.zeros(8, np.float32)
    made = generator.generate(song, sources(0), seeds=[1], request=request, on_step=lambda *_: None)
    return made[0].pixels


@pytest.mark.slow
def test_killed_in_the_middle_adapt_goes_on_and_learns_the_same(ray_cluster: str, tmp_path: Path, model: Path) -> None:
    del ray_cluster
    settings = settings_for(str(model))
    (tmp_path / "killed").mkdir()
    workspace, other = workspace_in(tmp_path / "killed"), workspace_in(tmp_path / "whole")
    kill_after_checkpoint(tmp_path, settings, workspace)
    assert not list(objects.list_objects(workspace.adapters))

    report = adapt(settings, SONG, workspace)
    resumed = report.details["resumed"]
    assert isinstance(resumed, list)
    assert len(resumed) == 1
    assert isinstance(resumed[0], int)
    assert SAVED_EVERY <= resumed[0] < STEPS
    assert report.details["steps"] == STEPS
    covers = report.details["covers"]
    assert isinstance(covers, list)
    assert sorted(str(song_id) for song_id in covers) == sorted(OTHERS)
    whole = adapt(settings, SONG, other)
    assert whole.details["resumed"] == []
    assert weights(workspace, report) == weights(other, whole)
    assert adapt(settings, SONG, workspace).skipped == 1


@pytest.mark.slow
@pytest.mark.chaos
def test_what_two_workers_learn_from_a_checkpoint_in_a_bucket_is_named_by_a_request(
    ray_cluster: str, tmp_path: Path, model: Path
) -> None:
    place = f"{ray_cluster}/models/tiny"
    for path in model.rglob("*"):
        if path.is_file():
            objects.put(f"{place}/{path.relative_to(model).as_posix()}", path.read_bytes())
    settings, workspace = settings_for(place, steps=6, num_workers=2), workspace_in(tmp_path / "bucket")
    report = adapt(settings, SONG, workspace)
    assert report.done == len(OTHERS)
    files = pretrained_files(settings.generator.diffusers)
    bundle = publish(f"{workspace.generators}/d1", files, kind="generator", version="d1", lineage={}, details={})
    generator = load_pretrained(bundle, MeanOfSources(), adapters=workspace.adapters)
    plain = picture(generator, None)
    assert not np.array_equal(picture(generator, str(report.details["version"])), plain)
    assert np.array_equal(picture(generator, None), plain)


def test_a_checkpoint_that_cannot_be_trained_is_refused_before_ray_is_asked(tmp_path: Path) -> None:
    folder = write_pretrained(tmp_path / "model", "StableDiffusionPipeline", prediction_type="sample")
    with pytest.raises(InvalidSettings, match="prediction_type 'sample' of its scheduler cannot be trained"):
        adapt(settings_for(str(folder)), SONG, Workspace(objects.resolve(str(tmp_path / "w"))))
    with pytest.raises(InvalidSettings, match=r"generator\.diffusers\.model is not set"):
        adapt(Settings(), SONG, Workspace(objects.resolve(str(tmp_path / "w"))))


def test_covers_that_the_table_lacks_are_named(tmp_path: Path, model: Path) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path / "w")))
    publish_small_release(workspace)
    write_pairs(workspace, {"s0": 1})
    with pytest.raises(StageMissing, match=r"track 's\d+' has no cover in .*rejects list"):
        adapt(settings_for(str(model)), SONG, workspace)
