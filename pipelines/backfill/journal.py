"""What a run of backfill did, row for row, so that it can be continued after a kill, and undone.

    backfill/RUN.json                  what was asked for, and how far the run came
    backfill/RUN/rows/HASH.json        one for each object that is written: before as "writing", after as "done"
    backfill/RUN/originals/HASH.patch  what makes the object as it was out of the object as it is
    backfill/RUN/pictures/GROUP.jpg    the new covers
    backfill/RUN/manifest.parquet      of a run into a manifest
"""

import hashlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gatefold.errors import Corrupt, NotFound, ObjectNotFound
from gatefold.storage import objects
from gatefold.workspace import Workspace
from pipelines.backfill.songs import Into

_READERS = 8
_SUFFIX, _ROWS, _ORIGINALS, _PICTURES, _MANIFEST = ".json", "rows", "originals", "pictures", "manifest.parquet"


class Run(BaseModel):
    """One run, and how far it came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    source: str
    into: Into
    release: str
    """version of the release that makes its covers"""
    size: int
    """pixels a side"""
    novelty: float | None
    created_at: datetime
    state: Literal["open", "finished", "undone"] = "open"


class JournalRow(BaseModel):
    """One object that the run writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    song_id: str
    group: str
    uri: str
    kind: Into
    before: str | None
    """SHA-256 of its bytes, None where there was no such object"""
    after: str
    state: Literal["writing", "done", "undone"]

    @property
    def key(self) -> str:
        """Name of the row in the journal."""
        return _hashed(f"{self.song_id}\0{self.uri}")


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Journal:
    """The journal of one run."""

    workspace: Workspace
    run_id: str

    @property
    def folder(self) -> str:
        """URI of the folder that holds rows, pictures and originals."""
        return objects.join(self.workspace.backfill, self.run_id)

    @property
    def manifest_uri(self) -> str:
        """URI of the manifest that a run with `--into manifest` writes."""
        return objects.join(self.folder, _MANIFEST)

    def read(self) -> Run:
        """Raises: NotFound naming the runs that there are."""
        try:
            return _parsed(Run, self._run)
        except ObjectNotFound:
            known = ", ".join(sorted(run.run_id for run in runs(self.workspace))) or "none"
            raise NotFound(f"run '{self.run_id}' is not in '{self.workspace.uri}'; runs there: {known}") from None

    def write(self, run: Run) -> None:
        """Keeps the run's own record, in the place of the one before."""
        objects.put(self._run, run.model_dump_json(indent=1).encode())

    def rows(self) -> Iterator[JournalRow]:
        """All rows, in no order."""
        with ThreadPoolExecutor(_READERS) as pool:
            uris = [info.uri for info in objects.list_objects(objects.join(self.folder, _ROWS))]
            yield from pool.map(lambda uri: _parsed(JournalRow, uri), uris)

    def put(self, row: JournalRow) -> None:
        """Keeps a row, in the place of the one of the same song before."""
        objects.put(objects.join(self.folder, _ROWS, f"{row.key}.json"), row.model_dump_json().encode())

    def remove(self, row: JournalRow) -> None:
        """Forgets a row, of which nothing was written."""
        objects.delete(objects.join(self.folder, _ROWS, f"{row.key}.json"))
        objects.delete(self._original(row))

    def put_original(self, row: JournalRow, patch: bytes) -> None:
        """Keeps what restores a row's object.

        Args:
            patch: as `patches.make_patch` makes it of the object before and after.
        """
        objects.put(self._original(row), patch)

    def original(self, row: JournalRow) -> bytes:
        """The patch. Raises: ObjectNotFound."""
        return objects.read(self._original(row))

    def picture_uri(self, group: str) -> str:
        """URI of a group's cover, a JPEG, whether it was made or not."""
        return objects.join(self.folder, _PICTURES, f"{group}.jpg")

    def picture(self, group: str) -> bytes | None:
        """The cover of a group; None while none was made."""
        try:
            return objects.read(self.picture_uri(group))
        except ObjectNotFound:
            return None

    def put_picture(self, group: str, picture: bytes) -> None:
        """Keeps the cover of a group, an encoded JPEG."""
        objects.put(self.picture_uri(group), picture)

    @property
    def _run(self) -> str:
        return objects.join(self.workspace.backfill, f"{self.run_id}{_SUFFIX}")

    def _original(self, row: JournalRow) -> str:
        return objects.join(self.folder, _ORIGINALS, f"{row.key}.patch")


def new_run(
    workspace: Workspace, source: str, into: Into, *, release: str, size: int, novelty: float | None
) -> tuple[Run, Journal]:
    """A run that has written nothing yet."""
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    run = Run(
        run_id=run_id, source=source, into=into, release=release, size=size, novelty=novelty, created_at=now
    )  # fmt: skip
    journal = Journal(workspace, run_id)
    journal.write(run)
    return run, journal


def runs(workspace: Workspace) -> list[Run]:
    """All runs of a workspace, the oldest first."""
    uris = [info.uri for info in objects.list_folder(workspace.backfill) if info.uri.endswith(_SUFFIX)]
    return sorted((_parsed(Run, uri) for uri in uris), key=lambda run: (run.created_at, run.run_id))


def open_run(workspace: Workspace, source: str, into: Into) -> Run | None:
    """The run that was begun for this and is not finished."""
    found = [run for run in runs(workspace) if (run.source, run.into, run.state) == (source, into, "open")]
    return found[-1] if found else None


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _hashed(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape"))[:32]


def _parsed(model: type[Model], uri: str) -> Model:
    try:
        return model.model_validate_json(objects.read(uri))
    except ValidationError as error:
        raise Corrupt(f"'{uri}' is no {model.__name__} of a journal: {error}") from error
