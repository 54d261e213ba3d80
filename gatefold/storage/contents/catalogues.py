"""The catalogue in a workspace: parts under a fingerprint, and `current.json`, which names one.

Readers follow `current.json`, so they see the catalogue before a change or after it. How one is made is not known here.
"""

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from gatefold.errors import Corrupt, LeaseLost, ObjectNotFound, StageMissing
from gatefold.storage import objects, tables
from gatefold.workspace import Workspace

_CURRENT = "current.json"


@dataclass(frozen=True)
class Catalogue:
    """Which catalogue counts: its fingerprint, how many tracks it has, and the source it was read from."""

    fingerprint: str
    rows: int
    source: str


def current(workspace: Workspace) -> Catalogue | None:
    """The catalogue that counts; None before the first. Raises: Corrupt."""
    return _read_current(workspace)[0]


def required(workspace: Workspace) -> Catalogue:
    """The catalogue that counts. Raises: StageMissing before the first; Corrupt."""
    catalogue = current(workspace)
    if catalogue is None:
        raise StageMissing(f"'{workspace.uri}' has no catalogue; run `gatefold catalogue SOURCE` first")
    return catalogue


def replace(workspace: Workspace, catalogue: Catalogue, tracks: pa.Table, rows_per_part: int) -> None:
    """Writes the parts, then makes them the catalogue, then removes those that were there but for the last one's.

    Raises: LeaseLost when another process has replaced the catalogue meanwhile; then nothing is removed.
    """
    before, etag = _read_current(workspace)
    keep = {catalogue.fingerprint, before.fingerprint if before else catalogue.fingerprint}
    # a reader may still be in the midst of the last one; and what another process writes from here on is its own
    old = [part for part in tables.parts(workspace.catalogue) if objects.name(objects.parent(part)) not in keep]
    for number, start in enumerate(range(0, max(tracks.num_rows, 1), rows_per_part)):
        tables.write_part(folder(workspace, catalogue), f"part-{number:06}", tracks.slice(start, rows_per_part))
    uri, data = objects.join(workspace.catalogue, _CURRENT), json.dumps(asdict(catalogue), indent=1).encode()
    if not (objects.put_if_absent(uri, data) if etag is None else objects.put_if_unchanged(uri, data, etag)):
        raise LeaseLost(f"'{uri}' was replaced by another run while this one worked; that run's catalogue counts")
    for part in old:
        objects.delete(part)


def folder(workspace: Workspace, catalogue: Catalogue) -> str:
    """Where the parts of this catalogue lie."""
    return objects.join(workspace.catalogue, catalogue.fingerprint)


def schema(workspace: Workspace) -> pa.Schema | None:
    """Of the tracks; None before the first catalogue. Raises: Corrupt."""
    catalogue = current(workspace)
    return None if catalogue is None else tables.read_schema(folder(workspace, catalogue), stage="catalogue SOURCE")


def read_tracks(
    workspace: Workspace, columns: list[str] | None = None, within: tables.Span = tables.EVERYTHING
) -> pa.Table:
    """All tracks: the columns of `records.TRACKS`, then those the manifest carried.

    Raises: StageMissing when there is no catalogue yet.
    """
    catalogue = required(workspace)
    return tables.read_table(folder(workspace, catalogue), columns, stage="catalogue SOURCE", within=within)


def _read_current(workspace: Workspace) -> tuple[Catalogue | None, str | None]:
    """The catalogue that counts, and the etag of the object that says so."""
    uri = objects.join(workspace.catalogue, _CURRENT)
    try:
        source = objects.open_source(uri)
        found = json.loads(source.read_at(0, source.size))
        return Catalogue(str(found["fingerprint"]), int(found["rows"]), str(found["source"])), source.etag
    except ObjectNotFound:
        return None, None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"'{uri}' cannot be read ({error!r}); run `gatefold catalogue SOURCE` anew") from error
