"""Names and files on a disk that are no objects: each is refused by its name, and none is waited for."""

import os
from pathlib import Path

import pytest

from gatefold.errors import InputError, InvalidSettings, ObjectNotFound
from gatefold.storage import objects
from serve.jobs.database import Database


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "pipe.mp3")
    return (tmp_path / "pipe.mp3").as_uri()


@pytest.mark.timeout(20)
def test_a_pipe_is_no_object_and_is_not_waited_for(pipe: str, tmp_path: Path) -> None:
    for read in (objects.stat, objects.read, lambda uri: objects.fetch(uri, tmp_path / "target")):
        with pytest.raises(ObjectNotFound, match="is no regular file"):
            read(pipe)
    assert not objects.exists(pipe)
    with pytest.raises(ObjectNotFound, match="is no regular file"):
        objects.open_source(pipe).read_at(0, 10)


def test_links_that_lead_nowhere_are_in_no_listing(tmp_path: Path) -> None:
    (tmp_path / "good.flac").write_bytes(b"x")
    (tmp_path / "itself.mp3").symlink_to("itself.mp3")
    (tmp_path / "below.mp3").symlink_to("good.flac/x")
    (tmp_path / "nothing.mp3").symlink_to("nowhere")
    for listed in (objects.list_folder, objects.list_objects):
        assert [objects.name(info.uri) for info in listed(tmp_path.as_uri())] == ["good.flac"]


def test_a_character_of_code_0_is_found_behind_its_percent_sign() -> None:
    with pytest.raises(InputError, match="holds a NUL byte"):
        objects.resolve("file:///tmp/a%00.mp3")


@pytest.mark.parametrize("place", ["a file/jobs.sqlite", "x" * 300])
def test_a_file_for_sqlite_that_cannot_be_made_is_a_wrong_setting(place: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(InvalidSettings, match=r"serve\.database_url: the file of SQLite cannot be used: "):
        Database(f"sqlite:///{tmp_path}/{place}")
