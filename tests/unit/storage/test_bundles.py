"""Bundles: whole or absent."""

from pathlib import Path

import pytest

from gatefold.errors import BundleCorrupt, BundleNotFound, InputError
from gatefold.storage import bundles, objects
from gatefold.storage.bundles import Bundle

FILES = {"config.json": b"{}", "unet/model.safetensors": b"weights"}


class Interrupted(Exception):
    """A run that is held up before it puts its manifest."""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return objects.resolve(str(tmp_path / "encoders"))


def publish(uri: str, files: dict[str, bytes] | None = None) -> Bundle:
    lineage, details = {"catalogue": "abc"}, {"steps": 3, "loss": 0.5}
    chosen = FILES if files is None else files
    return bundles.publish(uri, chosen, kind="encoder", version="v1", lineage=lineage, details=details)


def test_what_is_published_can_be_opened_read_and_fetched(folder: str, tmp_path: Path) -> None:
    published = publish(f"{folder}/v1")
    opened = bundles.open_bundle(f"{folder}/v1", "encoder")
    assert opened == published
    assert opened.read("unet/model.safetensors") == b"weights"
    assert (opened.fetch(tmp_path / "here") / "unet/model.safetensors").read_bytes() == b"weights"
    assert (opened.lineage, opened.details) == ({"catalogue": "abc"}, {"steps": 3, "loss": 0.5})


def test_the_fingerprint_distinguishes_content_and_kind_and_nothing_else(folder: str) -> None:
    first, copy = publish(f"{folder}/v1"), publish(f"{folder}/elsewhere")
    other = publish(f"{folder}/v2", {**FILES, "config.json": b"[]"})
    kind = bundles.publish(f"{folder}/v3", FILES, kind="index", version="v1", lineage={}, details={})
    assert first.fingerprint == copy.fingerprint
    assert len({first.fingerprint, other.fingerprint, kind.fingerprint}) == 3
    assert len(first.fingerprint) == 16


def test_without_its_manifest_a_bundle_is_absent(folder: str) -> None:
    objects.put(f"{folder}/v1/config.json", b"left behind by a crash")
    with pytest.raises(BundleNotFound, match="no encoder bundle"):
        bundles.open_bundle(f"{folder}/v1", "encoder")
    assert bundles.list_bundles(folder) == []
    assert publish(f"{folder}/v1").read("config.json") == b"{}"


def test_the_same_again_is_welcome_and_another_is_refused(folder: str) -> None:
    assert publish(f"{folder}/v1") == publish(f"{folder}/v1")
    with pytest.raises(InputError, match="another bundle stands"):
        publish(f"{folder}/v1", {"config.json": b"[]"})
    assert bundles.open_bundle(f"{folder}/v1", "encoder").read("config.json") == b"{}"


def test_an_altered_file_is_refused_when_read(folder: str, tmp_path: Path) -> None:
    bundle = publish(f"{folder}/v1")
    objects.put(bundle.uri_of("unet/model.safetensors"), b"weighty")
    assert bundles.open_bundle(f"{folder}/v1", "encoder") == bundle
    for use in (lambda: bundle.read("unet/model.safetensors"), lambda: bundle.fetch(tmp_path / "here")):
        with pytest.raises(BundleCorrupt, match=r"'unet/model\.safetensors' was altered"):
            use()


def test_a_missing_or_short_file_is_refused_at_once(folder: str) -> None:
    uri = publish(f"{folder}/v1").uri_of("unet/model.safetensors")
    objects.put(uri, b"wei")
    with pytest.raises(BundleCorrupt, match="has 3 bytes instead of 7"):
        bundles.open_bundle(f"{folder}/v1", "encoder")
    objects.delete(uri)
    with pytest.raises(BundleCorrupt, match=r"'unet/model\.safetensors' is missing"):
        bundles.open_bundle(f"{folder}/v1", "encoder")


def test_another_kind_or_format_or_a_broken_manifest_is_refused(folder: str) -> None:
    publish(f"{folder}/v1")
    with pytest.raises(BundleCorrupt, match="of kind 'encoder', not 'index'"):
        bundles.open_bundle(f"{folder}/v1", "index")
    manifest = objects.read(f"{folder}/v1/manifest.json")
    for altered, why in (
        (manifest.replace(b'"format": 2', b'"format": 3'), "has format 3; .* use the gatefold that published it"),
        (manifest.replace(b'"kind": "encoder"', b'"kind": "index"'), "manifest was altered"),
        (manifest[:50], "cannot be read"),
        (b"[]", "cannot be read"),
    ):
        objects.put(f"{folder}/v1/manifest.json", altered)
        with pytest.raises(BundleCorrupt, match=why):
            bundles.open_bundle(f"{folder}/v1", "encoder")


def test_listing_shows_whole_bundles_alone(folder: str) -> None:
    whole = [publish(f"{folder}/v1"), publish(f"{folder}/v2")]
    objects.delete(publish(f"{folder}/v3").uri_of("config.json"))
    objects.put(f"{folder}/v4/config.json", b"")
    assert bundles.list_bundles(folder) == whole
    assert bundles.list_bundles(f"{folder}/none") == []


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../b", "a//b", "./a", "a/", "manifest.json", "a\\b", "a\0"])
def test_a_file_name_that_could_leave_the_bundle_is_refused(folder: str, name: str) -> None:
    with pytest.raises(InputError, match="cannot be used; allowed"):
        publish(f"{folder}/v1", {name: b""})
    assert list(objects.list_objects(folder)) == []


def test_a_bundle_can_be_copied_elsewhere(folder: str) -> None:
    published = publish(f"{folder}/v1")
    for info in list(objects.list_objects(f"{folder}/v1")):
        objects.put(objects.join(f"{folder}/moved", objects.relative(info.uri, f"{folder}/v1")), objects.read(info.uri))
    assert bundles.open_bundle(f"{folder}/moved", "encoder").fingerprint == published.fingerprint


def test_of_two_that_publish_at_once_the_manifest_names_the_bytes_that_are_there(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = objects.put_if_absent
    contents = [{"config.json": b"{}", "model": b"weights of %d" % number} for number in range(2)]

    def put_once_another_has_put_its_files(uri: str, data: bytes) -> bool:
        monkeypatch.setattr(objects, "put_if_absent", put_last)
        with pytest.raises(Interrupted):
            publish(f"{folder}/v1", contents[1])
        return put(uri, data)

    def put_last(*_: object) -> bool:
        raise Interrupted

    monkeypatch.setattr(objects, "put_if_absent", put_once_another_has_put_its_files)
    publish(f"{folder}/v1", contents[0])
    monkeypatch.setattr(objects, "put_if_absent", put)
    with pytest.raises(InputError, match="another bundle stands"):
        publish(f"{folder}/v1", contents[1])
    bundle = bundles.open_bundle(f"{folder}/v1", "encoder")
    assert {name: bundle.read(name) for name in bundle.files} == contents[0]


def test_what_a_killed_run_left_is_removed_once_another_has_published(folder: str) -> None:
    bundles.put_file(f"{folder}/v1", "unet/model.safetensors", b"of a run that was killed")
    objects.put(f"{folder}/v1/config.json", b"of a killed run of an earlier gatefold")
    objects.put(f"{folder}/v1/README", b"somebody's own")
    bundle = publish(f"{folder}/v1")
    there = {info.uri for info in objects.list_objects(f"{folder}/v1")}
    ours = {bundle.uri_of(name) for name in FILES}
    assert there == ours | {f"{folder}/v1/manifest.json", f"{folder}/v1/README"}


def test_a_bundle_of_another_format_is_refused_with_what_to_do(folder: str) -> None:
    made = publish(f"{folder}/v1")
    old = Bundle(f"{folder}/old", made.kind, made.version, made.fingerprint, made.lineage, made.details, made.files, 1)
    for name, data in FILES.items():
        objects.put(f"{folder}/old/{name}", data)
    objects.put(f"{folder}/old/manifest.json", bundles._to_json(old))
    with pytest.raises(BundleCorrupt, match=r"has format 1; this gatefold reads format 2: .* or publish it anew"):
        bundles.open_bundle(f"{folder}/old", "encoder")
