"""A generator of kind diffusers, from its stage to a cover on the command line, over a checkpoint made here."""

from pathlib import Path

import pytest

from gatefold.config import Settings
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from pipelines.release import publish_release
from pipelines.training.train_generator import train_generator
from tests.pretrained import SIZE, write_pretrained
from tests.shell import SMALL, Demo, Shell
from tests.sounds import CLIPS

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("ray_cluster")
def test_a_pretrained_model_goes_over_the_pictures_that_a_release_generates(demo: Demo, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    workspace = Workspace(shell.workspace)
    for info in objects.list_objects(demo.shell.workspace):
        inside = objects.relative(info.uri, demo.shell.workspace)
        objects.put(objects.join(workspace.uri, inside), objects.read(info.uri))
    before = releases.current(workspace).generator
    model = write_pretrained(tmp_path / "model", "StableDiffusionPipeline")
    pretrained = {"model": str(model), "size": SIZE, "num_inference_steps": 4}
    settings = Settings.model_validate(
        SMALL | {"generator": SMALL["generator"] | {"kind": "diffusers", "diffusers": pretrained}}
    )

    assert train_generator(settings, workspace).skipped == 0
    assert publish_release(settings, workspace).done == 1
    assert releases.current(workspace).generator != before
    record = shell("generate", str(CLIPS[2]), "-n", "2", "--size", str(SIZE), "--strength", "0.9", "-o", "covers")
    assert (record["generator"], record["settings"]["strength"]) == ("diffusers", 0.9)
    for name, cover in zip(record["pictures"], record["covers"], strict=True):
        assert sum(source["share"] for source in cover["sources"]) == pytest.approx(1, abs=1e-3)
        assert (tmp_path / "covers" / name).read_bytes().startswith(b"\x89PNG")
