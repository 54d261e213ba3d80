"""What the database holds of a job as JSON, and back: specification, result, error. No pickles: plain lists, numbers
and strings, in which an embedding keeps every bit."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import sqlalchemy as sa

from gatefold.errors import GatefoldError
from gatefold.generator.interface import GenerationRequest
from gatefold.records import Match
from serve.interfaces import GenerationJob, ServedBundle, ServedRelease
from serve.jobs.jobs import JobSpec, Webhook
from serve.observability.carried import carried_of

Record = Mapping[str, Any]


def spec_record(spec: JobSpec) -> dict[str, Any]:
    """A specification as JSON."""
    job = spec.job
    picked = job.source_song_ids
    return {
        "release": asdict(spec.release),
        "song_embedding": job.song_embedding.tolist(),
        "song_id": job.song_id,
        "artist": job.artist,
        "request": asdict(job.request),
        "source_song_ids": None if picked is None else sorted(picked),
        "matches": [match_record(match) for match in spec.matches],
        "n": spec.n,
        "seed": spec.seed,
        "size": spec.size,
        "song_name": spec.song_name,
        "carried": spec.carried.record(),
    }


def spec_of(record: Record) -> JobSpec:
    """The specification that `spec_record` was made of."""
    picked = record["source_song_ids"]
    job = GenerationJob(
        np.array(record["song_embedding"], np.float32),
        record["song_id"],
        record["artist"],
        [record["seed"] + i for i in range(record["n"])],
        GenerationRequest(**record["request"]),
        None if picked is None else frozenset(picked),
    )
    matches = tuple(match_of(match) for match in record["matches"])
    return JobSpec(
        _release_of(record["release"]),
        job,
        matches,
        record["n"],
        record["seed"],
        record["size"],
        record["song_name"],
        carried_of(record.get("carried", {})),  # of a job that an earlier version accepted, nothing is known
    )


def match_record(match: Match) -> dict[str, Any]:
    """A match as JSON."""
    return match.model_dump(mode="json")


def match_of(record: Record) -> Match:
    """The match that `match_record` was made of."""
    return Match.model_validate(record)


def error_record(error: GatefoldError) -> dict[str, Any]:
    """An error as JSON: its class and arguments, of which it can be made again."""
    return {"kind": type(error).__name__, "arguments": list(error.args)}


def error_of(record: Record) -> GatefoldError:
    """The error that `error_record` was made of; a bare one of a class that is not known any more."""
    kinds = {kind.__name__: kind for kind in _kinds(GatefoldError)}
    if record["kind"] in kinds:
        return kinds[record["kind"]](*record["arguments"])
    return GatefoldError(str(record["arguments"][0]))


def webhook_columns(webhook: Webhook | None) -> dict[str, Any]:
    """The columns of jobs, or of keys, that hold a webhook."""
    url, events = (None, None) if webhook is None else (webhook.url, webhook.events)
    return {"webhook_url": url, "webhook_events": sa.null() if events is None else list(events)}


def webhook_of(row: Any) -> Webhook | None:
    """The webhook that `webhook_columns` was made of."""
    if row.webhook_url is None:
        return None
    return Webhook(row.webhook_url, None if row.webhook_events is None else tuple(row.webhook_events))


def _kinds(kind: type[GatefoldError]) -> Iterator[type[GatefoldError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _release_of(record: Record) -> ServedRelease:
    bundles = {name: ServedBundle(**record[name]) for name in ("encoder", "index", "generator")}
    return ServedRelease(record["version"], **bundles)
