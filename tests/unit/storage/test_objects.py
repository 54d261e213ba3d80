"""Names of objects, and objects on a disk."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gatefold.errors import InputError, ObjectChanged, ObjectNotFound, StorageDenied, TooLarge
from gatefold.ranged import Source
from gatefold.storage import local, objects

ODD = ["a b.mp3", "100%.mp3", "%20.mp3", "#1?.mp3", "ü ñ 曲.mp3", "semi;colon+plus&=.mp3", "tail ", "[x]'\".mp3"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return objects.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ODD)
def test_any_file_name_comes_back_as_it_was(tmp_path: Path, folder: str, name: str) -> None:
    uri = objects.resolve(name, folder)
    assert uri.isascii()
    assert uri == objects.join(folder, name) == objects.resolve(uri) == objects.resolve(str(tmp_path / name))
    assert objects.name(uri) == name
    assert objects.parent(uri) == folder
    assert objects.local_path(uri) == tmp_path / name
    objects.put(uri, b"x")
    assert (tmp_path / name).read_bytes() == b"x"
    assert [info.uri for info in objects.list_objects(folder)] == [uri]


def test_a_file_name_that_is_no_text_can_be_read(tmp_path: Path, folder: str) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.mp3"
    Path(os.fsdecode(path)).write_bytes(b"x")
    (info,) = objects.list_objects(folder)
    assert objects.read(info.uri) == b"x"
    assert objects.name(info.uri) == "\\xff.mp3"


@pytest.mark.parametrize(
    ("value", "base", "uri"),
    [
        ("/a/b/", None, "file:///a/b"),
        ("/a/../b", None, "file:///b"),
        ("//a", None, "file:///a"),
        ("file:///a/b%20c/", None, "file:///a/b%20c"),
        ("file://localhost/a", None, "file:///a"),
        ("file:///", None, "file:///"),
        ("s3://bucket", None, "s3://bucket"),
        ("s3://bucket/a b#%20/", None, "s3://bucket/a b#%20"),
        ("../x y.mp3", "s3://bucket/lists", "s3://bucket/x y.mp3"),
        ("..", "s3://bucket/lists", "s3://bucket"),
        ("../x.mp3", "file:///a/b", "file:///a/x.mp3"),
        ("/abs.mp3", "s3://bucket/lists", "file:///abs.mp3"),
        ("s3://other/x", "file:///a", "s3://other/x"),
        ("a:b.mp3", "file:///a", "file:///a/a:b.mp3"),
    ],
)
def test_locations_have_one_form(value: str, base: str | None, uri: str) -> None:
    assert objects.resolve(value, base) == uri


def test_a_relative_path_starts_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert objects.resolve("x/y") == objects.resolve(str(tmp_path / "x" / "y"))


@pytest.mark.parametrize("value", ["", "http://x/y", "s3:///key", "file://host/x", "a\0b", "gs://bucket/x"])
def test_other_locations_are_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(InputError, match="s3://bucket"):
        objects.resolve(value)


def test_a_relative_path_cannot_leave_its_bucket() -> None:
    with pytest.raises(InputError, match=r"'\.\./\.\./x' climbs out of bucket 'bucket'"):
        objects.resolve("../../x", "s3://bucket/lists")


def test_parents_end_at_the_root() -> None:
    assert objects.parent("file:///a") == objects.parent("file:///") == "file:///"
    assert objects.parent("s3://bucket/a") == objects.parent("s3://bucket") == "s3://bucket"
    assert objects.name("s3://bucket") == objects.name("file:///") == ""
    assert objects.join("file:///", "a") == "file:///a"


DATA = bytes(range(256)) * 1000


def test_a_source_reads_as_the_file_itself_and_fetches_no_byte_twice(folder: str) -> None:
    objects.put(f"{folder}/song", DATA)
    source: Source = objects.open_source(f"{folder}/song", first_bytes=1000)
    assert source.size == len(DATA)
    for offset, length in ((0, 10), (990, 10), (990, 20), (999, 1), (1000, 1), (5, 200_000), (255_990, 100), (9, 0)):
        assert source.read_at(offset, length) == DATA[offset : offset + length]
    assert source.read_at(len(DATA), 1) == source.read_at(1_000_000, 1) == b""
    with pytest.raises(InputError, match="negative"):
        source.read_at(-1, 1)


def test_a_source_counts_what_it_fetched(folder: str) -> None:
    objects.put(f"{folder}/song", DATA)
    source = objects.open_source(f"{folder}/song")
    assert source.bytes_read == objects.FIRST_BYTES
    source.read_at(0, objects.FIRST_BYTES)
    assert source.bytes_read == objects.FIRST_BYTES
    source.read_at(objects.FIRST_BYTES - 5, 10)
    assert source.bytes_read == objects.FIRST_BYTES + 5
    source.read_at(len(DATA) - 3, 10)
    assert source.bytes_read == objects.FIRST_BYTES + 8


def test_a_source_has_the_tag_that_listings_have(folder: str) -> None:
    objects.put(f"{folder}/song", DATA)
    objects.put(f"{folder}/void", b"")
    assert [objects.open_source(info.uri).etag for info in objects.list_folder(folder)] == [
        info.etag for info in objects.list_objects(folder)
    ]
    void = objects.open_source(f"{folder}/void")
    assert (void.size, void.read_at(0, 10), void.bytes_read) == (0, b"", 0)


def test_a_source_never_mixes_two_contents(folder: str) -> None:
    objects.put(f"{folder}/song", DATA)
    source = objects.open_source(f"{folder}/song", first_bytes=10)
    objects.put(f"{folder}/song", DATA[::-1])
    with pytest.raises(ObjectChanged, match="song' changed while it was read") as caught:
        source.read_at(5, 10)
    assert caught.value.retryable


def test_a_source_that_was_deleted_is_not_found(folder: str) -> None:
    objects.put(f"{folder}/song", DATA)
    source = objects.open_source(f"{folder}/song", first_bytes=10)
    objects.delete(f"{folder}/song")
    for call in (lambda: source.read_at(5, 10), lambda: objects.open_source(f"{folder}/song")):
        with pytest.raises(ObjectNotFound, match=f"{folder}/song"):
            call()


def test_a_folder_lists_what_lies_directly_in_it(tmp_path: Path, folder: str) -> None:
    for name in ("b 2", "b", "c/d", "b#1"):
        objects.put(objects.join(folder, name), name.encode())
    (tmp_path / f"{local.TEMPORARY}left").write_bytes(b"half")
    found = list(objects.list_folder(folder))
    assert [info.uri for info in found] == sorted(objects.join(folder, name) for name in ("b", "b 2", "b#1"))
    assert [objects.stat(info.uri) for info in found] == found
    assert list(objects.list_folder(f"{folder}/absent")) == list(objects.list_folder(f"{folder}/b")) == []


def test_an_object_above_the_limit_is_not_read(folder: str) -> None:
    objects.put(f"{folder}/big", b"x" * 11)
    assert len(objects.read(f"{folder}/big", 11)) == 11
    with pytest.raises(TooLarge, match="11 bytes, limit 10"):
        objects.read(f"{folder}/big", 10)


def test_what_is_missing_is_not_found(folder: str) -> None:
    objects.put(f"{folder}/file", b"x")
    for missing in (f"{folder}/absent", folder, f"{folder}/file/below"):
        with pytest.raises(ObjectNotFound, match=missing):
            objects.read(missing)
        assert not objects.exists(missing)
    assert list(objects.list_objects(f"{folder}/absent")) == []
    assert list(objects.list_objects(f"{folder}/file")) == []
    objects.delete(f"{folder}/absent")
    objects.delete_tree(f"{folder}/absent")


def test_listings_are_sorted_by_uri_and_leave_unfinished_files_out(tmp_path: Path, folder: str) -> None:
    for name in ("b/2", "b.c", "b-c", "a", "b/c/d"):
        objects.put(objects.join(folder, name), b"x")
    (tmp_path / "b" / f"{local.TEMPORARY}left").write_bytes(b"half")
    found = [info.uri for info in objects.list_objects(folder)]
    assert found == sorted(f"{folder}/{name}" for name in ("b/2", "b.c", "b-c", "a", "b/c/d"))
    objects.delete_tree(f"{folder}/b")
    assert not (tmp_path / "b").exists()


def test_a_reader_never_sees_half_of_a_put(folder: str) -> None:
    uri, contents = f"{folder}/x", [bytes([n]) * 300_000 for n in range(4)]
    objects.put(uri, contents[0])
    stop = threading.Event()

    def write(content: bytes) -> None:
        while not stop.is_set():
            objects.put(uri, content)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, content) for content in contents]
        try:
            assert all(objects.read(uri) in contents for _ in range(100))
        finally:
            stop.set()
        for writer in writers:
            writer.result()
    assert [info.uri for info in objects.list_objects(folder)] == [uri]


def test_of_many_writers_exactly_one_puts_an_absent_object(tmp_path: Path, folder: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: objects.put_if_absent(f"{folder}/lease", b"%d" % n), range(32)))
    assert won.count(True) == 1
    assert objects.read(f"{folder}/lease") == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_of_many_who_replace_what_they_read_one_alone_does(tmp_path: Path, folder: str) -> None:
    uri = f"{folder}/current"
    objects.put(uri, b"before")
    etag = objects.stat(uri).etag
    assert etag is not None
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: objects.put_if_unchanged(uri, b"%d" % n, etag), range(32)))
    assert won.count(True) == 1
    assert objects.read(uri) == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["current"]
    objects.delete(uri)
    assert not objects.put_if_unchanged(uri, b"deleted", etag)
    assert not objects.exists(uri)


def test_the_tag_of_an_object_changes_with_its_content(folder: str) -> None:
    objects.put(f"{folder}/x", b"one")
    before = objects.stat(f"{folder}/x")
    objects.put(f"{folder}/x", b"two")
    assert objects.stat(f"{folder}/x").etag != before.etag
    assert before.size_bytes == 3


def test_a_read_only_place_is_denied(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no disk refuses
    with pytest.raises(StorageDenied, match=r"x': Permission denied; give this account the right"):
        objects.put(f"{folder}/x", b"x")


def test_a_location_must_be_resolved_first() -> None:
    with pytest.raises(InputError, match="resolve it first"):
        objects.read("/etc/hostname")


def test_a_root_is_never_deleted() -> None:
    with pytest.raises(InputError, match="root of the disk"):
        objects.delete_tree("file:///")
