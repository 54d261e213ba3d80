"""How the present etags are found: what is listed, what is asked for, and what is said of what is not there."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from gatefold.errors import ObjectNotFound, StorageDenied, StorageUnavailable
from gatefold.progress import silent
from gatefold.storage.uris import ObjectInfo, parent
from pipelines.catalogue import etags
from pipelines.catalogue.etags import find_etags


@dataclass
class Bucket:
    """A store in memory that remembers what it was asked."""

    etags: dict[str, str]
    may_list: bool = True
    listed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    yielded: int = 0

    def list_folder(self, uri: str) -> Iterator[ObjectInfo]:
        self.listed.append(uri)
        if not self.may_list:
            raise StorageDenied(f"'{uri}' may not be listed")
        for found in sorted(key for key in self.etags if parent(key) == uri):
            self.yielded += 1
            yield ObjectInfo(found, 1, None, self.etags[found])

    def stat(self, uri: str) -> ObjectInfo:
        self.asked.append(uri)
        if uri not in self.etags:
            raise ObjectNotFound(f"'{uri}' does not exist")
        return ObjectInfo(uri, 1, None, self.etags[uri])


def bucket(monkeypatch: pytest.MonkeyPatch, *folders: tuple[str, int], may_list: bool = True) -> Bucket:
    """`s3://b/<folder>/<number>.mp3`, so many of each."""
    made = Bucket({uri: f"tag of {uri}" for uri in songs(*folders)}, may_list)
    monkeypatch.setattr(etags, "objects", made)
    return made


def songs(*folders: tuple[str, int]) -> list[str]:
    return [f"s3://b/{folder}/{number}.mp3" for folder, count in folders for number in range(count)]


def found_of(uris: list[str]) -> dict[str, str | None]:
    """etag, or code where there is none, of each."""
    found = find_etags(pa.array(uris, pa.large_string()), silent)
    assert sorted(found["uri"].to_pylist()) == sorted(uris)
    return {row["uri"]: row["etag"] or row["code"] for row in found.to_pylist()}


def test_a_folder_of_many_wanted_is_listed_once_and_the_few_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("many", 8), ("few", 7), ("", 1))
    assert found_of(list(store.etags)) == store.etags
    assert store.listed == ["s3://b/many"]
    assert sorted(store.asked) == sorted(songs(("few", 7), ("", 1)))


def test_what_no_listing_shows_is_asked_for_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("many", 9))
    found = found_of([*store.etags, "s3://b/many/lost.mp3"])
    assert found == {**store.etags, "s3://b/many/lost.mp3": "object_not_found"}
    assert store.asked == ["s3://b/many/lost.mp3"]


def test_a_huge_folder_is_not_listed_to_its_end_for_a_few_songs(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("huge", 5_000))
    wanted = sorted(store.etags)[-8:]
    assert found_of(wanted) == {uri: store.etags[uri] for uri in wanted}
    assert store.yielded <= 8 * 256
    assert len(store.asked) == 8


def test_a_listing_ends_when_all_wanted_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("huge", 5_000))
    found_of(sorted(store.etags)[:100])
    assert (store.yielded, store.asked) == (100, [])


def test_an_account_that_may_read_but_not_list_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("many", 20), may_list=False)
    assert found_of(list(store.etags)) == store.etags
    assert len(store.asked) == 20


def test_a_store_that_does_not_answer_is_no_missing_song(monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(uri: str) -> Iterator[ObjectInfo]:
        raise StorageUnavailable(f"'{uri}': no answer; try again")

    store = bucket(monkeypatch, ("many", 20))
    monkeypatch.setattr(store, "list_folder", silence)
    with pytest.raises(StorageUnavailable):
        find_etags(pa.array(list(store.etags), pa.large_string()), silent)


def test_progress_counts_objects_whichever_way_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket(monkeypatch, ("many", 20), ("few", 3))
    reported: list[tuple[int, int]] = []
    uris = pa.array(list(store.etags), pa.large_string())
    find_etags(uris, lambda done, total, _=None: reported.append((done, total)))
    assert reported == [(20, 23), (23, 23)]
    assert find_etags(pa.array([], pa.large_string()), lambda *_: pytest.fail("nothing to report")).num_rows == 0
