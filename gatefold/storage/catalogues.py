"""The catalogue as it stands in a workspace: parts under a fingerprint, and `current.json`, which names one.

Readers follow `current.json`, so they see the catalogue before a change or after it. How one is made is not known here.
"""

import json
from dataclasses import asdict, dataclass

import pyarrow as pa

from gatefold.errors import Corrupt, ObjectNotFound, StageMissing
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
    uri = objects.join(workspace.catalogue, _CURRENT)
    try:
        found = json.loads(objects.read(uri))
        return Catalogue(str(found["fingerprint"]), int(found["rows"]), str(found["source"]))
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"'{uri}' cannot be read ({error!r}); run `gatefold catalogue SOURCE` anew") from error


def replace(workspace: Workspace, catalogue: Catalogue, tracks: pa.Table, rows_per_part: int) -> None:
    """Writes the parts, then makes them the catalogue, then removes those of the one before the last."""
    before = current(workspace)
    for number, start in enumerate(range(0, max(tracks.num_rows, 1), rows_per_part)):
        tables.write_part(folder(workspace, catalogue), f"part-{number:06}", tracks.slice(start, rows_per_part))
    uri = objects.join(workspace.catalogue, _CURRENT)
    objects.put(uri, json.dumps(asdict(catalogue), indent=1).encode())
    keep = {catalogue.fingerprint, before.fingerprint if before else catalogue.fingerprint}
    for part in tables.parts(workspace.catalogue):
        if objects.name(objects.parent(part)) not in keep:  # a reader may still be in the midst of the last one
            objects.delete(part)


def folder(workspace: Workspace, catalogue: Catalogue) -> str:
    """Where the parts of this catalogue lie."""
    return objects.join(workspace.catalogue, catalogue.fingerprint)


def read_tracks(
    workspace: Workspace, columns: list[str] | None = None, within: tables.Span = tables.EVERYTHING
) -> pa.Table:
    """All tracks: the columns of `records.TRACKS`, then those the manifest carried.

    Raises: StageMissing when there is no catalogue yet.
    """
    catalogue = current(workspace)
    if catalogue is None:
        raise StageMissing(f"'{workspace.uri}' has no catalogue; run `gatefold catalogue SOURCE` first")
    return tables.read_table(folder(workspace, catalogue), columns, stage="catalogue SOURCE", within=within)
