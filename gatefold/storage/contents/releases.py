"""Releases: which encoder, index and generator belong together, and which of the releases is serving.

`releases/<version>.json` never changes; `releases/current` holds the versions that were active, the present one last,
and is replaced in one atomic put, only where it is still what was read: of two activations none is lost. What is inside
the three bundles is not looked at here.
"""

import json
import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, ObjectNotFound, RunInProgress
from gatefold.storage import objects
from gatefold.workspace import Workspace

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIX = ".json"
_CURRENT = "current"


class ReleasePart(BaseModel):
    """A bundle that a release is made of; `uri` is relative to the workspace, so that one can be moved or copied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    version: str
    fingerprint: str


class Release(BaseModel):
    """What serves together; `created_at` is ISO 8601 in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    created_at: str
    encoder: ReleasePart
    index: ReleasePart
    generator: ReleasePart


def publish(workspace: Workspace, release: Release) -> None:
    """Keeps a release, without activating it. The same again changes nothing.

    Raises: InputError when another release has this version, or the version is no plain name.
    """
    data = release.model_dump_json(indent=1).encode()
    uri = _uri(workspace, release.version)
    if not objects.put_if_absent(uri, data) and objects.read(uri) != data:
        raise InputError(f"another release has version '{release.version}'; choose another")


def get(workspace: Workspace, version: str) -> Release:
    """The release of this version. Raises: BundleNotFound; BundleCorrupt when it cannot be read."""
    uri = _uri(workspace, version)
    try:
        return Release.model_validate_json(objects.read(uri))
    except ObjectNotFound as error:
        raise BundleNotFound(f"there is no release '{version}'; see `gatefold release list`") from error
    except ValidationError as error:
        raise BundleCorrupt(f"release '{uri}' cannot be read: {error}; run `gatefold release` anew") from error


def list_releases(workspace: Workspace) -> list[Release]:
    """All releases, the oldest first."""
    names = [objects.name(info.uri) for info in objects.list_objects(workspace.releases)]
    releases = [get(workspace, name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX)]
    return sorted(releases, key=lambda release: (release.created_at, release.version))


def activate(workspace: Workspace, version: str) -> Release:
    """Makes a release the one that serves. Of two activated at once each is in the history, one after the other.

    Raises: BundleNotFound when there is none of this version.
    """
    release = get(workspace, version)
    while True:
        history = _read_history(workspace)
        if history.activated[-1:] == [version] or _replace(workspace, history, [*history.activated, version]):
            return release


def current(workspace: Workspace) -> Release:
    """The release that serves. Raises: BundleNotFound when none was ever activated."""
    activated = _read_history(workspace).activated
    if not activated:
        raise BundleNotFound(
            f"'{workspace.uri}' has no active release; `gatefold run SOURCE` makes one of songs, `gatefold release` "
            "of models that are there"
        )
    return get(workspace, activated[-1])


def rollback(workspace: Workspace) -> Release:
    """Makes the release active again that was so before; once more goes one further back.

    Raises: BundleNotFound when there was none before; RunInProgress when another activation or rollback was first.
    """
    history = _read_history(workspace)
    if len(history.activated) < 2:
        raise BundleNotFound(f"'{workspace.uri}' has no release to go back to: fewer than two were ever activated")
    *before, last = history.activated
    release = get(workspace, before[-1])
    if not _replace(workspace, history, before):
        raise RunInProgress(
            f"release '{last}' was to be rolled back, but another process has changed meanwhile which one serves; "
            "see `gatefold release list`, and roll back again if it is still to be"
        )
    return release


def _uri(workspace: Workspace, version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise InputError(f"release version '{version}' cannot be used; allowed: letters, digits, '.', '_' and '-'")
    return objects.join(workspace.releases, version + _SUFFIX)


@dataclass(frozen=True)
class _History:
    """The versions that were active, the present one last; `etag` is that of the object, None where there is none."""

    activated: list[str]
    etag: str | None


def _read_history(workspace: Workspace) -> _History:
    uri = objects.join(workspace.releases, _CURRENT)
    try:
        source = objects.open_source(uri)
        found = json.loads(source.read_at(0, source.size))
        return _History([str(version) for version in found["activated"]], source.etag)
    except ObjectNotFound:
        return _History([], None)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(f"'{uri}' cannot be read ({error!r}); delete it and activate a release anew") from error


def _replace(workspace: Workspace, read: _History, activated: list[str]) -> bool:
    """Whether this history was put in the place of the one that was read; not where that has changed since."""
    uri, data = objects.join(workspace.releases, _CURRENT), json.dumps({"activated": activated}, indent=1).encode()
    return objects.put_if_absent(uri, data) if read.etag is None else objects.put_if_unchanged(uri, data, read.etag)
