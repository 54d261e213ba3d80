"""Bundles: folders that are complete or absent, with their files put first and their `manifest.json` last.

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
"""Version of the manifest."""
_MANIFEST = "manifest.json"
_ADDRESS = re.compile(r"[0-9a-f]{64}/")
_DIGESTED_BYTES = 1 << 22  # of a file at a time


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
        return _address(self.uri, name, self.files[name])

    def read(self, name: str) -> bytes:
        """One file. Raises: BundleNotFound for a name it has not; BundleCorrupt when it is not what was published."""
        self._check_has(name)
        try:
            data = objects.read(self.uri_of(name))
        except ObjectNotFound as error:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' is missing; publish it anew") from error
        if hashlib.sha256(data).hexdigest() != self.files[name].sha256:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' was altered since; publish it anew")
        return data

    def path(self, name: str) -> Path | None:
        """Where a file lies, verified, on this machine's disk; None for a bundle in a store. Raises as `read` does."""
        self._check_has(name)
        path = objects.local_path(self.uri_of(name))
        return None if path is None else self._verified(name, path)

    def fetch_file(self, name: str, folder: Path) -> Path:
        """Copies one file, verified, into a local folder; its path. It is never in memory as a whole.

        Raises: as `read` does.
        """
        self._check_has(name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            objects.fetch(self.uri_of(name), target)
        except ObjectNotFound as error:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' is missing; publish it anew") from error
        return self._verified(name, target)

    def fetch(self, folder: Path) -> Path:
        """Copies every file, verified, into a local folder; that folder. Raises: BundleCorrupt."""
        for name in self.files:
            self.fetch_file(name, folder)
        return folder

    def _check_has(self, name: str) -> None:
        if name not in self.files:
            raise BundleNotFound(f"bundle '{self.uri}' has no file '{name}'; it has {sorted(self.files)}")

    def _verified(self, name: str, path: Path) -> Path:
        try:
            found = _entry(path)
        except OSError as error:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' is missing; publish it anew") from error
        if found != self.files[name]:
            raise BundleCorrupt(f"bundle '{self.uri}': file '{name}' was altered since; publish it anew")
        return path

def put_file(uri: str, name: str, data: bytes | Path) -> FileEntry:
    """Puts a file where a bundle is to be published, for one too large to be published by a single process.

    Args:
        data: its content, or a local file that has it.
    """
    _check_name(name)
    entry = _entry(data)
    _put(_address(uri, name, entry), data)
    return entry


def _put(uri: str, data: bytes | Path) -> None:
    if isinstance(data, Path):
        objects.put_file(uri, data)
    else:
        objects.put(uri, data)


def publish(
    uri: str,
    files: Mapping[str, bytes | Path | FileEntry],
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
        files: content by name, or a local file that has it, or what `put_file` said of it; a name may hold subfolders
            ("unet/config.json").
        kind: what it is ("encoder"), which `open_bundle` compares.
        lineage: the fingerprints of what it was made from.
        details: anything that JSON can hold.

    Raises: InputError for a bad name, or when another bundle is there already.
    """
    for name in files:
        _check_name(name)
    entries = {name: data if isinstance(data, FileEntry) else _entry(data) for name, data in sorted(files.items())}
    bundle = Bundle(uri, kind, version, _fingerprint(kind, entries), dict(lineage), dict(details), entries)
    standing = _find(uri)
    if standing is None:
        for name, data in files.items():
            if not isinstance(data, FileEntry):
                _put(_address(uri, name, entries[name]), data)
        if objects.put_if_absent(objects.join(uri, _MANIFEST), _to_json(bundle)):
            _remove_others(bundle)
            return bundle
        standing = _find(uri)
    if standing is None or (standing.kind, standing.fingerprint) != (kind, bundle.fingerprint):
        raise InputError(f"another bundle stands at '{uri}'; bundles never change: publish under another version")
    return standing


def open_bundle(uri: str, kind: str) -> Bundle:
    """The bundle at `uri`, all files there and of the right size; their content is checked when it is read.

    Raises: BundleNotFound; BundleCorrupt for another kind, another format, or a file that is missing or cut short.
    """
    bundle = _find(uri)
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
            bundle = _find(folder)
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


def _find(uri: str) -> Bundle | None:
    """The bundle that the manifest at `uri` describes, its files unchecked; None without a manifest."""
    try:
        text = objects.read(objects.join(uri, _MANIFEST))
    except ObjectNotFound:
        return None
    try:
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BundleCorrupt(
                f"bundle '{uri}' has format {manifest['format']!r}; this gatefold reads format {FORMAT}: "
                "use the gatefold that published it, or publish it anew"
            )
        files = {name: FileEntry(entry["size_bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        bundle = Bundle(uri, manifest["kind"], manifest["version"], _fingerprint(manifest["kind"], files),
                        manifest["lineage"], manifest["details"], files, manifest["format"])
        checksum = manifest.pop("checksum")
        if bundle.fingerprint != manifest["fingerprint"] or checksum != _checksum(manifest):
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


def _entry(data: bytes | Path) -> FileEntry:
    if isinstance(data, bytes):
        return FileEntry(len(data), hashlib.sha256(data).hexdigest())
    digest, size = hashlib.sha256(), 0
    with data.open("rb") as file:
        while chunk := file.read(_DIGESTED_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(size, digest.hexdigest())


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
