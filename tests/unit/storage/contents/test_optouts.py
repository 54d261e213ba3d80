"""Opt-outs: one object a song, there when the call returns, read once."""

from pathlib import Path

import pytest

from gatefold.errors import Corrupt
from gatefold.storage import objects
from gatefold.storage.contents import optouts
from gatefold.workspace import Workspace

ODD = "a/b ü ../%2F" + "x" * 300
"""An id that no file could be called."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(objects.resolve(str(tmp_path)))


def test_where_nothing_was_withdrawn_there_is_none(workspace: Workspace) -> None:
    assert optouts.song_ids(workspace) == frozenset()
    assert optouts.digests(workspace) == optouts.indexed_digests(workspace) == []


def test_songs_are_withdrawn_under_any_id(workspace: Workspace) -> None:
    for song_id in ("s1", ODD):
        assert optouts.withdraw(workspace, song_id).song_id == song_id
    assert optouts.song_ids(workspace) == {"s1", ODD}


def test_the_first_opt_out_of_a_song_stays_as_it_is(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "s1")
    (uri,) = [info.uri for info in objects.list_folder(workspace.optouts)]
    objects.put(uri, b'{"song_id": "s1", "at": "2020-01-01T00:00:00+00:00"}')
    assert optouts.withdraw(workspace, "s1").at == "2020-01-01T00:00:00+00:00"


def test_what_is_known_is_not_read_again(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "s1")
    known = optouts.read_all(workspace)
    for info in objects.list_folder(workspace.optouts):
        objects.put(info.uri, b"spoilt")
    optouts.withdraw(workspace, "s2")
    assert {one.song_id for one in optouts.read_all(workspace, known).values()} == {"s1", "s2"}
    with pytest.raises(Corrupt, match="withdraw its song again"):
        optouts.read_all(workspace)


def test_an_opt_out_whose_object_is_deleted_is_taken_back(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "s1")
    known = optouts.read_all(workspace)
    for info in objects.list_folder(workspace.optouts):
        objects.delete(info.uri)
    assert optouts.read_all(workspace, known) == {}


def test_what_the_index_leaves_out_is_settled_when_it_is_built(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "s1")
    assert optouts.indexed_digests(workspace) == []
    optouts.record_indexed(workspace)
    assert optouts.indexed_digests(workspace) == optouts.digests(workspace) != []
    optouts.withdraw(workspace, "s2")
    assert len(optouts.indexed_digests(workspace)) == 1
    assert optouts.song_ids(workspace) == {"s1", "s2"}


def test_a_damaged_note_of_the_index_says_what_to_do(workspace: Workspace) -> None:
    objects.put(f"{workspace.optouts}/indexed.json", b"{")
    with pytest.raises(Corrupt, match="run `gatefold index`"):
        optouts.indexed_digests(workspace)
