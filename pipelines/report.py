"""Report of a pipeline stage: counts, seconds and details."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue

from gatefold.errors import Corrupt, ObjectNotFound
from gatefold.progress import NOTHING, OnProgress
from gatefold.storage import objects
from gatefold.storage.leases import Lease
from gatefold.workspace import Workspace


def while_held(lease: Lease, on_progress: OnProgress) -> OnProgress:
    """The same, but it raises LeaseLost where the lease could not be renewed: so a run that has lost it stops."""

    def report_progress(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        lease.check_renewed()
        on_progress(done, total, facts)

    return report_progress


class Report(BaseModel):
    """The outcome of one run of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    done: int
    """inputs worked on in this run"""
    skipped: int
    """inputs that were done before"""
    rejected: int
    """inputs that could not be used; the rejects table names each"""
    seconds: float
    details: dict[str, JsonValue] = {}


def write_report(workspace: Workspace, report: Report) -> str:
    """Keeps the report as `reports/<stage>.json`, in the place of the one before; its uri."""
    uri = objects.join(workspace.reports, f"{report.stage}.json")
    objects.put(uri, report.model_dump_json(indent=1).encode())
    return uri


def read_report(workspace: Workspace, stage: str) -> Report | None:
    """The last report of a stage; None when it never ran. Raises: Corrupt."""
    uri = objects.join(workspace.reports, f"{stage}.json")
    try:
        return Report.model_validate_json(objects.read(uri))
    except ObjectNotFound:
        return None
    except ValueError as error:
        raise Corrupt(f"report '{uri}' cannot be read: {error}; run `gatefold {stage}` anew") from error
