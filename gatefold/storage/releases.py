"""Releases: which encoder, index and generator belong together, and which of the releases is serving.

`releases/<version>.json` never changes; `releases/current` holds the versions that were active, the present one last,
and is replaced in one atomic put. What is inside the three bundles is not looked at here.
"""

import json
import re

from pydantic import BaseModel, ConfigDict, ValidationError

from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, ObjectNotFound
from gatefold.storage import objects
from gatefold.workspace import Workspace

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIX = ".json"


class Part(BaseModel):
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
    encoder: Part
    index: Part
    generator: Part


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
    """Makes a release the one that serves. Raises: BundleNotFound when there is none of this version."""
    release = get(workspace, version)
    history = _history(workspace)
    if history[-1:] != [version]:
        _put_history(workspace, [*history, version])
    return release


def current(workspace: Workspace) -> Release:
    """The release that serves. Raises: BundleNotFound when none was ever activated."""
    history = _history(workspace)
    if not history:
        raise BundleNotFound(f"'{workspace.uri}' has no active release; run `gatefold release`")
    return get(workspace, history[-1])


def rollback(workspace: Workspace) -> Release:
    """Makes the release active again that was so before; once more goes one further back.

    Raises: BundleNotFound when there was none before.
    """
    history = _history(workspace)
    if len(history) < 2:
        raise BundleNotFound(f"'{workspace.uri}' has no release to go back to: fewer than two were ever activated")
    release = get(workspace, history[-2])
    _put_history(workspace, history[:-1])
    return release


def _uri(workspace: Workspace, version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise InputError(f"release version '{version}' cannot be used; allowed: letters, digits, '.', '_' and '-'")
    return objects.join(workspace.releases, version + _SUFFIX)


def _history(workspace: Workspace) -> list[str]:
    uri = objects.join(workspace.releases, "current")
    try:
        return [str(version) for version in json.loads(objects.read(uri))["activated"]]
    except ObjectNotFound:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise BundleCorrupt(f"'{uri}' cannot be read ({error!r}); delete it and activate a release anew") from error


def _put_history(workspace: Workspace, history: list[str]) -> None:
    objects.put(objects.join(workspace.releases, "current"), json.dumps({"activated": history}, indent=1).encode())
