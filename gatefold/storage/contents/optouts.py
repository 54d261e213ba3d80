"""Opt-outs: songs that their artists withdrew, each an object of its own, in the store before the call returns.

`optouts/<SHA-256 of the song_id>.json` never changes; deleting it takes the opt-out back. `optouts/indexed.json` names
those that the last index was built without, so that one withdrawn during a run is left to the next one.
Where withdrawn songs are left out is not known here.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from gatefold.errors import Corrupt, ObjectNotFound
from gatefold.storage import objects
from gatefold.workspace import Workspace

_OBJECT = re.compile(r"([0-9a-f]{64})\.json")
_INDEXED = "indexed.json"
_READERS = 16  # objects read at once: a store takes its time for each, and there may be thousands


class OptOut(BaseModel):
    """A song, and when it was withdrawn: ISO 8601 in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    song_id: str
    at: str


NONE: Mapping[str, OptOut] = MappingProxyType({})


def withdraw(workspace: Workspace, song_id: str) -> OptOut:
    """The opt-out of this song, which is in the store by now; one that is there already keeps its time."""
    uri = uri_of(workspace, song_id)
    made = OptOut(song_id=song_id, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
    return made if objects.put_if_absent(uri, made.model_dump_json().encode()) else _read(uri)


def read_all(workspace: Workspace, known: Mapping[str, OptOut] = NONE) -> dict[str, OptOut]:
    """Every opt-out by its digest.

    Args:
        known: what an earlier call gave; of these nothing is read again.

    Raises: Corrupt.
    """

    def read(digest: str) -> OptOut | None:
        try:
            return known[digest] if digest in known else _read(_uri(workspace, digest))
        except ObjectNotFound:  # taken back since it was listed
            return None

    listed = digests(workspace)
    with ThreadPoolExecutor(_READERS) as readers:
        found = dict(zip(listed, readers.map(read, listed), strict=True))
    return {digest: optout for digest, optout in found.items() if optout is not None}


def song_ids(workspace: Workspace) -> frozenset[str]:
    """The songs that are withdrawn."""
    return frozenset(optout.song_id for optout in read_all(workspace).values())


def digests(workspace: Workspace) -> list[str]:
    """SHA-256 of the song_id of each, sorted, from a listing alone."""
    names = (objects.name(info.uri) for info in objects.list_folder(workspace.optouts))
    return [match[1] for name in names if (match := _OBJECT.fullmatch(name))]


def record_indexed(workspace: Workspace) -> None:
    """Records the songs that the index which is built next leaves out: all that are withdrawn by now."""
    present = digests(workspace)
    if present != indexed_digests(workspace):
        objects.put(objects.join(workspace.optouts, _INDEXED), json.dumps(present, indent=1).encode())


def indexed_digests(workspace: Workspace) -> list[str]:
    """`digests`, as they were when an index was last built. Raises: Corrupt."""
    uri = objects.join(workspace.optouts, _INDEXED)
    try:
        return [str(digest) for digest in json.loads(objects.read(uri))]
    except ObjectNotFound:
        return []
    except (ValueError, TypeError) as error:
        raise Corrupt(f"'{uri}' cannot be read ({error!r}); delete it and run `gatefold index`") from error


def uri_of(workspace: Workspace, song_id: str) -> str:
    """Where the opt-out of a song lies, or would lie: it is named by the SHA-256 of the id."""
    return _uri(workspace, hashlib.sha256(song_id.encode()).hexdigest())


def _uri(workspace: Workspace, digest: str) -> str:
    return objects.join(workspace.optouts, f"{digest}.json")


def _read(uri: str) -> OptOut:
    try:
        return OptOut.model_validate_json(objects.read(uri))
    except ValidationError as error:
        raise Corrupt(f"opt-out '{uri}' cannot be read ({error}); delete it and withdraw its song again") from error
