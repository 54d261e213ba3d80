"""A folder that is whole or absent: its files first, its `manifest.json` last.

The manifest names every file with size and SHA-256, so a bundle that is cut short, altered or of another kind is
refused and never used by mistake. A file lies under its SHA-256, so two processes that publish at once never write over
each other's: whichever manifest is put first names bytes that are there. What the files hold is for others to know.

    <uri>/manifest.json
    <uri>/<SHA-256 of the file>/<its name>
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, ObjectNotFound
from gatefold.storage import objects

FORMAT = 2
"""Version of the manifest that is written."""
_BY_NAME = 1
"""Version of the manifest of earlier gatefolds, whose files lie under their names alone; it is read and not written."""
_MANIFEST = "manifest.json"
_ADDRESS = re.compile(r"[0-9a-f]{64}/")


@dataclass(frozen=True)
class FileEntry:
    """A file of a bundle: its size in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """A whole bundle; `fingerprint` is 16 hex digits that change whenever its kind or any file does."""

    uri: str
    kind: str
    version: str
    fingerprint: str
    lineage: Mapping[str, str]
    details: Mapping[str, object]
    files: Mapping[str, FileEntry]
    format: int = FORMAT

    def uri_of(self, name: str) -> str:
        """Where a file of the bundle lies."""
        return objects.join(self.uri, name) if self.format == _BY_NAME else _address(self.uri, name, self.files[name])

    def read(self, name: str) -> bytes:
        """One file. Raises: BundleNotFound for a name it has not; BundleCorrupt when it is not what was published."""
        if name not in self.files:
            raise BundleNotFound(f"bundle '{self.uri}' has no file '{name}'; it has {sorted(self.files)}")
        try:
            data = objects.read(self.uri_of(name))
        except ObjectNotFound as error:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' is missing; publish it anew") from error
        if hashlib.sha256(data).hexdigest() != self.files[name].sha256:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' was altered since; publish it anew")
        return data

    def path(self, name: str) -> Path | None:
        """Where a file lies, verified, on this machine's disk; None for a bundle in a store. Raises as `read` does."""
        if objects.local_path(self.uri) is None:
            return None
        self.read(name)
        return objects.local_path(self.uri_of(name))

    def fetch(self, folder: Path) -> Path:
        """Copies every file, verified, into a local folder; that folder. Raises: BundleCorrupt."""
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(name))
        return folder


def put_file(uri: str, name: str, data: bytes) -> FileEntry:
    """Puts a file where a bundle is to be published, for one too large to be published by a single process."""
    _check_name(name)
    entry = _entry(data)
    objects.put(_address(uri, name, entry), data)
    return entry


def publish(
    uri: str,
    files: Mapping[str, bytes | FileEntry],
    *,
    kind: str,
    version: str,
    lineage: Mapping[str, str],
    details: Mapping[str, object],
) -> Bundle:
    """Publishes a bundle at `uri`; nobody sees it before all of it is there.

    Publishing the same files again returns the bundle that stands. What else lies there, of a run that was killed or of
    one that came second, is removed once the manifest is put: no other manifest can name it any more.

    Args:
        files: content by name, or what `put_file` said of it; a name may hold subfolders ("unet/config.json").
        kind: what it is ("encoder"); whoever opens it must ask for the same.
        lineage: the fingerprints of what it was made from.
        details: anything that JSON can hold.

    Raises: InputError for a bad name, or when another bundle stands there already.
    """
    for name in files:
        _check_name(name)
    entries = {name: _entry(data) if isinstance(data, bytes) else data for name, data in sorted(files.items())}
    bundle = Bundle(uri, kind, version, _fingerprint(kind, entries), dict(lineage), dict(details), entries)
    standing = _standing(uri)
    if standing is None:
        for name, data in files.items():
            if isinstance(data, bytes):
                objects.put(_address(uri, name, entries[name]), data)
        if objects.put_if_absent(objects.join(uri, _MANIFEST), _to_json(bundle)):
            _remove_others(bundle)
            return bundle
        standing = _standing(uri)
    if standing is None or (standing.kind, standing.fingerprint) != (kind, bundle.fingerprint):
        raise InputError(f"another bundle stands at '{uri}'; bundles never change: publish under another version")
    return standing


def open_bundle(uri: str, kind: str) -> Bundle:
    """The bundle at `uri`, all files there and of the right size; their content is checked when it is read.

    Raises: BundleNotFound; BundleCorrupt for another kind, another format, or a file that is missing or cut short.
    """
    bundle = _standing(uri)
    if bundle is None:
        raise BundleNotFound(f"there is no {kind} bundle at '{uri}'")
    if bundle.kind != kind:
        raise BundleCorrupt(f"bundle '{uri}' is of kind '{bundle.kind}', not '{kind}'")
    sizes = {info.uri: info.size_bytes for info in objects.list_objects(uri)}
    _check_files(bundle, sizes)
    return bundle


def find_bundle(uri: str, kind: str) -> Bundle | None:
    """As `open_bundle`, but None where there is none. Raises: BundleCorrupt."""
    try:
        return open_bundle(uri, kind)
    except BundleNotFound:
        return None


def list_bundles(folder_uri: str) -> list[Bundle]:
    """The whole bundles directly inside a folder, sorted by uri; unfinished and damaged ones are left out."""
    sizes = {info.uri: info.size_bytes for info in objects.list_objects(folder_uri)}
    bundles = []
    for uri in sizes:
        folder = objects.parent(uri)
        if objects.name(uri) != _MANIFEST or objects.parent(folder) != folder_uri:
            continue
        try:
            bundle = _standing(folder)
            if bundle is not None:
                _check_files(bundle, sizes)
                bundles.append(bundle)
        except BundleCorrupt:
            continue
    return bundles


def _check_files(bundle: Bundle, sizes: Mapping[str, int]) -> None:
    for name, entry in bundle.files.items():
        size = sizes.get(bundle.uri_of(name))
        if size != entry.size_bytes:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {entry.size_bytes:,}"
            raise BundleCorrupt(f"bundle '{bundle.uri}': file '{name}' {found}; publish it anew")


def _standing(uri: str) -> Bundle | None:
    """The bundle that the manifest at `uri` tells of, its files unchecked; None without a manifest."""
    try:
        text = objects.read(objects.join(uri, _MANIFEST))
    except ObjectNotFound:
        return None
    try:
        manifest = json.loads(text)
        if manifest["format"] not in (_BY_NAME, FORMAT):
            raise BundleCorrupt(f"bundle '{uri}' has format {manifest['format']!r}; this gatefold reads formats "
                                f"{_BY_NAME} and {FORMAT}: use the gatefold that published it, or one that is newer")
        files = {name: FileEntry(entry["size_bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        bundle = Bundle(uri, manifest["kind"], manifest["version"], _fingerprint(manifest["kind"], files),
                        manifest["lineage"], manifest["details"], files, manifest["format"])
        told = manifest.pop("checksum", None)  # bundles of earlier releases have none
        if bundle.fingerprint != manifest["fingerprint"] or told not in (None, _checksum(manifest)):
            raise BundleCorrupt(f"bundle '{uri}': its manifest was altered; publish it anew")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleCorrupt(f"bundle '{uri}': its manifest cannot be read ({error!r}); publish it anew") from error
    return bundle


def _address(uri: str, name: str, entry: FileEntry) -> str:
    return objects.join(uri, f"{entry.sha256}/{name}")


def _remove_others(bundle: Bundle) -> None:
    """Removes files of this bundle's names that its manifest does not name."""
    ours = {bundle.uri_of(name) for name in bundle.files}
    for info in objects.list_objects(bundle.uri):
        path = objects.relative(info.uri, bundle.uri)
        if info.uri not in ours and (_ADDRESS.match(path) or path in bundle.files):
            objects.delete(info.uri)


def _entry(data: bytes) -> FileEntry:
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


def _to_json(bundle: Bundle) -> bytes:
    content = asdict(bundle)
    del content["uri"]  # a bundle may be copied elsewhere
    content = json.loads(json.dumps(content))  # as it will be read
    return json.dumps(content | {"checksum": _checksum(content)}, indent=1, sort_keys=True).encode()


def _checksum(manifest: Mapping[str, object]) -> str:
    """Of all that a manifest says besides."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fingerprint(kind: str, files: Mapping[str, FileEntry]) -> str:
    lines = [kind, *(f"{entry.sha256} {name}" for name, entry in sorted(files.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _check_name(name: str) -> None:
    if name == _MANIFEST or any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise InputError(f"bundle file name {name!r} cannot be used; allowed: relative names as in 'unet/config.json'")
