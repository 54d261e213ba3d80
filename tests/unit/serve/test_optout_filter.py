"""Opt-outs: gone from the very next request, wherever a song could appear, and k answers are still k."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.config import ServeSettings
from gatefold.errors import UnknownTrack
from gatefold.index.interface import IndexedTrack
from gatefold.records import Match, Track
from gatefold.storage import objects
from gatefold.storage.contents import optouts
from gatefold.workspace import Workspace
from serve.interfaces import IndexFacts, Query, SongQuery
from serve.optout_filter import OptOutFilteredRetriever, OptOuts

SONG = {"song": ("x.mp3", b"12345", "audio/mpeg")}


class Retriever:
    """Finds songs "0", "1", … up to `covers` of them, always in this order, and notes how many were asked for."""

    def __init__(self, covers: int) -> None:
        self.covers = covers
        self.asked: list[int] = []

    async def search(self, query: Query | SongQuery) -> list[Match]:
        self.asked.append(query.k)
        found = range(min(query.k, self.covers))
        return [Match(rank=1 + i, score=1 - i / 1000, track=Track(song_id=str(i))) for i in found]

    async def track(self, song_id: str) -> IndexedTrack:
        return IndexedTrack(Track(song_id=song_id), None, None, None)

    async def describe(self) -> IndexFacts:
        return IndexFacts(self.covers, 4)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(objects.resolve(str(tmp_path)))


def found(retriever: Retriever, withdrawn: OptOuts, k: int) -> list[Match]:
    query = Query(np.zeros(4, np.float32), "e1", k)
    return asyncio.run(OptOutFilteredRetriever(retriever, withdrawn).search(query))


@pytest.mark.parametrize("gone", [set(), {0}, {3, 4}, set(range(40)), {*range(5), *range(6, 90)}, set(range(100))])
def test_a_search_gives_k_of_those_that_are_left_in_their_order(workspace: Workspace, gone: set[int]) -> None:
    for number in gone:
        optouts.withdraw(workspace, str(number))
    matches = found(Retriever(100), OptOuts(workspace), 10)
    left = [number for number in range(100) if number not in gone][:10]
    assert [(match.rank, match.track.song_id) for match in matches] == [(1 + i, str(n)) for i, n in enumerate(left)]


def test_the_index_is_asked_again_only_where_a_withdrawn_song_was_found(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "50")
    retriever, withdrawn = Retriever(100), OptOuts(workspace)
    found(retriever, withdrawn, 10)
    assert retriever.asked == [10]
    assert len(found(retriever, withdrawn, 60)) == 60
    assert retriever.asked == [10, 60, 62]


def test_withdrawn_songs_are_unknown_one_by_one_too(workspace: Workspace) -> None:
    optouts.withdraw(workspace, "7")
    consenting = OptOutFilteredRetriever(Retriever(10), OptOuts(workspace))
    mine = SongQuery("7", "e1", 3)
    for asked in (consenting.track("7"), consenting.search(mine)):
        with pytest.raises(UnknownTrack, match="'7' was withdrawn"):
            asyncio.run(asked)


def test_a_look_at_the_workspace_finds_what_came_and_what_was_taken_back(workspace: Workspace) -> None:
    withdrawn = OptOuts(workspace)
    optouts.withdraw(workspace, "a")
    asyncio.run(withdrawn.refresh())
    assert withdrawn.song_ids == {"a"}
    for info in objects.list_folder(workspace.optouts):
        objects.delete(info.uri)
    asyncio.run(withdrawn.refresh())
    assert withdrawn.song_ids == frozenset()


def test_looks_under_way_forget_nothing_that_is_withdrawn_meanwhile(workspace: Workspace) -> None:
    withdrawn = OptOuts(workspace)

    async def main() -> None:
        looks = [asyncio.create_task(withdrawn.refresh()) for _ in range(20)]
        for number in range(20):
            await withdrawn.withdraw(str(number))
            assert {str(i) for i in range(number + 1)} <= withdrawn.song_ids
        await asyncio.gather(*looks)

    asyncio.run(main())
    assert len(withdrawn.song_ids) == 20


# ---- over HTTP --------------------------------------------------------------------------------------------------


def ids(answer: Any) -> list[str]:
    return [match["track"]["song_id"] for match in answer.json()["matches"]]


def test_the_very_next_request_leaves_a_withdrawn_song_out(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    assert ids(e.client.post("/v1/searches", files=SONG, data={"k": "3"})) == ["t0", "t1", "t2"]
    assert e.client.delete("/v1/tracks/t1").status_code == 204
    assert ids(e.client.post("/v1/searches", files=SONG, data={"k": "3"})) == ["t0", "t2", "t3"]
    for path in ("/v1/tracks/t1", "/v1/tracks/t1/cover"):
        gone = e.client.get(path)
        assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")
    assert e.client.post("/v1/searches", json={"song_id": "t1"}).status_code == 404
    assert optouts.song_ids(e.workspace) == {"t1"}


def test_new_covers_take_nothing_from_a_withdrawn_song(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.client.delete("/v1/tracks/t0")
    e.generator.hold = True
    waiting = e.client.post("/v1/covers", files=SONG).json()
    assert ids_of(waiting["matches"]) == ["t1", "t2", "t3"]
    e.generator.hold = False
    job = e.client.post("/v1/covers", files=SONG, headers={"Prefer": "wait=5"}).json()
    assert {image["closest"]["track"]["song_id"] for image in job["images"]} == {"t1"}
    assert e.client.post("/v1/covers", json={"song_id": "t0"}).status_code == 404


def ids_of(matches: list[Any]) -> list[str]:
    return [match["track"]["song_id"] for match in matches]


def test_withdrawing_again_is_as_good_as_once(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    assert [e.client.delete("/v1/tracks/t1").status_code for _ in range(2)] == [204, 204]


def test_a_song_that_is_not_known_cannot_be_withdrawn(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    answer = e.client.delete("/v1/tracks/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_track")
    assert optouts.digests(e.workspace) == []


def test_only_who_has_a_key_may_withdraw_a_song(endpoint: Callable[..., Any]) -> None:
    e = endpoint(keys="ab" * 32)
    assert e.client.delete("/v1/tracks/t1").status_code == 401
    assert optouts.digests(e.workspace) == []


def test_a_song_withdrawn_elsewhere_is_gone_after_the_next_look(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(poll_interval_s=0.02))
    optouts.withdraw(e.workspace, "t0")
    deadline = time.monotonic() + 5
    while ids(e.client.post("/v1/searches", files=SONG, data={"k": "1"})) == ["t0"]:
        assert time.monotonic() < deadline
    assert ids(e.client.post("/v1/searches", files=SONG, data={"k": "1"})) == ["t1"]


def test_looking_goes_on_after_the_workspace_could_not_be_read(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(poll_interval_s=0.02))
    broken = f"{e.workspace.optouts}/{'0' * 64}.json"
    objects.put(broken, b"nonsense")
    time.sleep(0.1)
    objects.delete(broken)
    optouts.withdraw(e.workspace, "t0")
    deadline = time.monotonic() + 5
    while ids(e.client.post("/v1/searches", files=SONG, data={"k": "1"})) == ["t0"]:
        assert time.monotonic() < deadline
