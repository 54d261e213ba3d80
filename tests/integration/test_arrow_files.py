"""Checkpoints go through the same functions as everything else, whatever the store does meanwhile."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow.fs import FileSelector, FileType, LocalFileSystem, copy_files

from gatefold.storage import objects
from gatefold.storage.arrow_files import arrow_filesystem
from tests.faults import BEFORE, FaultyStore


@pytest.fixture
def store(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    assert s3
    with FaultyStore(os.environ["AWS_ENDPOINT_URL"], share=0.0, kinds=(*BEFORE, "reset_in_body")) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between


def test_a_checkpoint_goes_up_and_comes_down_whole_from_a_store_with_faults(
    s3: str, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatefold.storage.s3._PART_BYTES", 5 << 20)
    filesystem, path = arrow_filesystem(f"{s3}/arrow/run")
    filesystem = pickle.loads(pickle.dumps(filesystem))  # noqa: S301 - as a worker gets it
    here, again = tmp_path / "here", tmp_path / "again"
    (here / "inside").mkdir(parents=True)
    contents = {"state.pt": np.random.default_rng(0).bytes((5 << 20) + 7), "inside/note.json": b"{}"}
    for name, data in contents.items():
        (here / name).write_bytes(data)
    store.share = 0.2
    filesystem.create_dir(f"{path}/step-1")
    copy_files(str(here), f"{path}/step-1", LocalFileSystem(), filesystem)
    assert str(objects.stat(f"{s3}/arrow/run/step-1/state.pt").etag).endswith("-2"), "in two parts"
    again.mkdir()
    copy_files(f"{path}/step-1", str(again), filesystem, LocalFileSystem())
    assert {name: (again / name).read_bytes() for name in contents} == contents
    with filesystem.open_input_file(f"{path}/step-1/state.pt") as file:
        file.seek(5 << 20)
        assert file.read() == contents["state.pt"][5 << 20 :]
    assert store.injected.total() > 0


def test_folders_are_there_as_long_as_something_lies_in_them(s3: str) -> None:
    filesystem, path = arrow_filesystem(f"{s3}/arrow/folders")
    for name in ("a/1", "a/b/2"):
        with filesystem.open_output_stream(f"{path}/{name}") as file:
            file.write(b"x")

    def kinds() -> list[FileType]:
        return [one.type for one in filesystem.get_file_info([f"{path}/a", f"{path}/a/1", f"{path}/none"])]

    assert kinds() == [FileType.Directory, FileType.File, FileType.NotFound]
    flat = filesystem.get_file_info(FileSelector(f"{path}/a"))
    assert {(one.base_name, one.type) for one in flat} == {("1", FileType.File), ("b", FileType.Directory)}
    deep = filesystem.get_file_info(FileSelector(f"{path}/a", recursive=True))
    assert sorted(one.path for one in deep) == [f"{path}/a/1", f"{path}/a/b", f"{path}/a/b/2"]
    filesystem.move(f"{path}/a/1", f"{path}/a/3")
    assert objects.read(f"{s3}/arrow/folders/a/3") == b"x"
    filesystem.delete_dir(f"{path}/a")
    assert kinds() == [FileType.NotFound] * 3
    assert filesystem.get_file_info(FileSelector(f"{path}/a", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        filesystem.get_file_info(FileSelector(f"{path}/a"))
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream(f"{path}/a/3")
