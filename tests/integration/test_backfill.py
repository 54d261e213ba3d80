"""Backfill on a real Ray, by the models of a release: on a disk, and in a bucket."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from gatefold.config import Settings
from gatefold.ranged import BytesSource, RangedFile
from gatefold.storage import objects
from gatefold.storage.contents.embedded_pictures import tags_of
from gatefold.workspace import Workspace
from pipelines.backfill.backfill import backfill, preview, undo
from pipelines.backfill.journal import Journal, runs
from pipelines.backfill.making import ReleaseCovers
from tests.library import decoded, library
from tests.served import publish_release
from tests.sounds import CLIPS

COVER = "cover.jpg"
pytestmark = pytest.mark.usefixtures("ray_cluster")
SIZE = 96


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path_factory.mktemp("backfill") / "workspace")))
    publish_release(made)
    return made


def pictures(data: bytes) -> list[bytes]:
    return tags_of(RangedFile(BytesSource(data), 1 << 26, "x"), "x").pictures


def fill(source: str, workspace: Workspace, into: Any) -> Any:
    return backfill(Settings(), source, workspace, into=into, size=SIZE)


@pytest.mark.slow
def test_every_kind_of_file_gets_a_cover_and_keeps_its_sound(workspace: Workspace, tmp_path: Path) -> None:
    songs = library(tmp_path / "songs")
    for clip in CLIPS:
        (songs / "clips").mkdir(exist_ok=True)
        shutil.copy(clip, songs / "clips" / clip.name)
    files = [path for path in songs.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    plan = preview(str(songs), workspace, "tags")
    report = fill(str(songs), workspace, "tags")
    assert report.rejected == 0, report.details["left"]
    assert report.done == sum(len(group.songs) for group in plan.groups) > 30
    for path, data in before.items():
        after = path.read_bytes()
        if path.suffix != ".JPG" and path.parent.name != "beside":
            assert pictures(after), path
            assert decoded(after) == decoded(data), path
    assert fill(str(songs), workspace, "tags").done == 0
    run = runs(workspace)[-1]
    generator, originality = Settings().generator.model_dump_json(), Settings().originality.model_dump_json()
    maker = ReleaseCovers(workspace, run.release, generator, originality, SIZE, None, 60.0)
    group = plan.groups[0]
    assert Journal(workspace, run.run_id).picture(group.key) == maker(group), "by Ray and in this process alike"
    assert undo(workspace, run.run_id).rejected == 0
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.slow
@pytest.mark.parametrize("into", ["tags", "file"])
def test_a_bucket_is_filled_and_given_back(workspace: Workspace, ray_cluster: str, tmp_path: Path, into: str) -> None:
    source = f"{ray_cluster}/backfill-{into}"
    for path in library(tmp_path, "mp3", "opus").rglob("*"):
        if path.is_file():
            objects.put(objects.join(source, path.relative_to(tmp_path).as_posix()), path.read_bytes())
    before = {info.uri: objects.read(info.uri) for info in objects.list_objects(source)}
    assert fill(source, workspace, into).done == 6
    after = {info.uri: objects.read(info.uri) for info in objects.list_objects(source)}
    if into == "tags":
        assert all(pictures(data) for uri, data in after.items() if "/album/" in uri or "/loose/" in uri)
    else:
        assert len([uri for uri in after if uri.endswith(COVER)]) == 4
    assert fill(source, workspace, into).done == 0
    assert undo(workspace, runs(workspace)[-1].run_id).rejected == 0
    assert {info.uri: objects.read(info.uri) for info in objects.list_objects(source)} == before
