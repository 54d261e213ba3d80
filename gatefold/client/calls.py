"""The calls of the HTTP API, typed, and how each is written as a request: shared by both clients, without any I/O but
the reading of a song's size."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

from gatefold.client import models, webhooks
from gatefold.client.models import EmbeddingAnswer
from gatefold.client.uploads import Fields, SongUpload

SongLike = str | os.PathLike[str] | bytes
"""path of an audio file, or its bytes"""
PictureFormat = Literal["png", "jpeg", "webp"]
T = TypeVar("T")


class SearchOptions(TypedDict, total=False):
    """What a search takes beside the song; what is absent has the endpoint's default."""

    k: int
    """matches wanted"""
    exclude_artists: Sequence[str]
    exclude_song_ids: Sequence[str]
    genres: Sequence[str]
    """only covers of these"""
    where: Mapping[str, Sequence[str]]
    """columns of the catalogue and the values allowed there"""
    spectrogram: bool
    """of an upload: whether the answer has a picture of its spectrogram"""


class CoverOptions(TypedDict, total=False):
    """What a job takes beside the song; what is absent or None has the endpoint's default."""

    n: int
    """covers wanted"""
    seed: int | None
    """of the first cover; the next has the next"""
    size: int
    """pixels a side"""
    novelty: float | None
    """0 stays close to single covers, 1 mixes small parts of many"""
    source_song_ids: Sequence[str] | None
    """which of the song's nearest covers the new ones are made from"""
    palette_from: str | None
    """one of them, whose colours lead"""
    guidance_scale: float | None
    num_inference_steps: int | None
    strength: float | None
    adapter: str | None
    webhook_url: str | None
    """https URL to which the job's end is reported, see `gatefold.client.webhooks`"""
    webhook_events: Sequence[str] | None
    """those that are reported; all where absent"""


class ExportOptions(TypedDict, total=False):
    """What an export takes beside its profile."""

    title: str
    """of the release, set on the picture exactly as it is given"""
    artist: str
    layout: Literal["auto", "corner", "band", "poster"]
    letters: bool
    """whether title and artist are set on the picture; else they are metadata alone"""
    creator: str
    """whose cover it is, in its metadata"""
    format: Literal["png", "jpeg"]
    quality: int
    """of a JPEG at most, 1 to 100"""
    answer: Literal["file", "zip"]
    """the picture, or a zip of it and its sidecar"""


_Options = SearchOptions | CoverOptions | ExportOptions


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call. `repeatable` says whether sending it twice does no more than sending it once."""

    method: str
    path: str
    """behind base_url, quoted"""
    answer: type[T]
    """a model of `gatefold.client.models`, or bytes, or None where there is no body"""
    repeatable: bool
    json: dict[str, Any] | None = None
    content: bytes | None = None
    """or a body of another type, which the headers name"""
    song: SongUpload | None = None
    fields: Fields = ()
    """of the form around the song"""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


def search(
    song: SongLike | None,
    song_id: str | None,
    embedding: EmbeddingAnswer | Sequence[float] | None,
    encoder: str | None,
    name: str | None,
    options: SearchOptions,
) -> Call[models.SearchAnswer]:
    """Call for the covers nearest to a song.

    Raises: ValueError unless there is exactly one of song, song_id and embedding; SongUnreadable when sent.
    """
    kinds = {"song": song, "song_id": song_id, "embedding": embedding}
    given = [kind for kind, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"search takes one of song, song_id and embedding, not {' and '.join(given) or 'none'}")
    if song is not None:
        upload, fields = SongUpload.of(song, name), _form(options)
        return Call("POST", "/v1/searches", models.SearchAnswer, False, song=upload, fields=fields)
    body: dict[str, Any] = _json(options)
    if song_id is not None:
        body["song_id"] = song_id
    elif isinstance(embedding, EmbeddingAnswer):
        body |= {"embedding": embedding.embedding, "encoder": encoder or embedding.encoder}
    else:
        if encoder is None:
            raise ValueError("encoder = None: an embedding needs the fingerprint of the encoder that made it")
        body |= {"embedding": [float(number) for number in embedding or ()], "encoder": encoder}
    return Call("POST", "/v1/searches", models.SearchAnswer, False, json=body)


def embed(song: SongLike, name: str | None) -> Call[EmbeddingAnswer]:
    """Call for the embedding of a song. Raises: SongUnreadable when sent."""
    return Call("POST", "/v1/embeddings", EmbeddingAnswer, False, song=SongUpload.of(song, name))


def generate(
    song: SongLike | None,
    song_id: str | None,
    idempotency_key: str | None,
    name: str | None,
    options: CoverOptions,
    cancel_after_s: int | None = None,
) -> Call[models.JobStatus]:
    """A call that may be repeated, since it always has an Idempotency-Key.

    Raises: ValueError unless there is either song or song_id.
    """
    if (song is None) == (song_id is None):
        raise ValueError("generate takes either song or song_id")
    headers = {"Idempotency-Key": secrets.token_hex(16) if idempotency_key is None else idempotency_key}
    if cancel_after_s is not None:
        headers["Cancel-After"] = str(int(cancel_after_s))
    if song is not None:
        upload, fields = SongUpload.of(song, name), _form(options)
        return Call("POST", "/v1/covers", models.JobStatus, True, song=upload, fields=fields, headers=headers)
    body = _json(options) | {"song_id": song_id}
    return Call("POST", "/v1/covers", models.JobStatus, True, json=body, headers=headers)


def job(job_id: str) -> Call[models.JobStatus]:
    """Call for the state of a job."""
    return get(_job_path(job_id), models.JobStatus)


def jobs(state: str | None, limit: int | None, after: str | None) -> Call[models.JobPage]:
    """Call for a page of the caller's jobs.

    Args:
        state: only jobs in it; None for all.
        limit: jobs at most.
        after: as the page before gives it.
    """
    query = {"state": state, "limit": None if limit is None else str(limit), "after": after}
    return get("/v1/covers", models.JobPage, {name: value for name, value in query.items() if value is not None})


def cancel(job_id: str) -> Call[models.JobStatus]:
    """Call that cancels a job and answers with its state."""
    return Call("DELETE", _job_path(job_id), models.JobStatus, True)


def events_path(job_id: str) -> str:
    """Path of the server-sent events of a job."""
    return f"{_job_path(job_id)}/events"


def image(
    job_id: str,
    index: int,
    size: int | None,
    picture_format: PictureFormat,
    quality: int | None = None,
    profile: str | None = None,
) -> Call[bytes]:
    """Call for a new cover as an encoded picture.

    Args:
        index: of the cover in its job, from 0.
        size: pixels a side.
        quality: of a JPEG, 1 to 100.
        profile: name of a shop's rules, which decide size and format.
    """
    query = {"format": picture_format, "size": size, "quality": quality, "profile": profile}
    given = {name: str(value) for name, value in query.items() if value is not None}
    return get(f"{_job_path(job_id)}/images/{int(index)}", bytes, given)


def export(job_id: str, index: int, profile: str, options: ExportOptions) -> Call[bytes]:
    """Call for the file of an export, or a zip of it and its sidecar.

    Args:
        index: of the cover in its job, from 0.
        profile: name of a shop's rules.
    """
    body = _json(options) | {"profile": profile}
    return Call("POST", f"{_job_path(job_id)}/images/{int(index)}/export", bytes, False, json=body)


def sources(job_id: str, index: int) -> Call[models.CoverSources]:
    """Call for the covers that one new cover was made from, and the share of each."""
    return get(f"{_job_path(job_id)}/images/{int(index)}/sources", models.CoverSources)


def sources_map(job_id: str, index: int) -> Call[bytes]:
    """Call for a PNG that shows which source lies where in one new cover."""
    return get(f"{_job_path(job_id)}/images/{int(index)}/sources.png", bytes)


def manifest(job_id: str) -> Call[models.JobManifest]:
    """Call for all that replays a job exactly."""
    return get(f"{_job_path(job_id)}/manifest.json", models.JobManifest)


def manifest_bytes(job_id: str) -> Call[bytes]:
    """The same, as the bytes that the endpoint sends."""
    return get(f"{_job_path(job_id)}/manifest.json", bytes)


def deliveries(job_id: str) -> Call[webhooks.DeliveryPage]:
    """Call for what became of a job's webhook."""
    return get(f"{_job_path(job_id)}/deliveries", webhooks.DeliveryPage)


def redeliver(job_id: str, number: int) -> Call[webhooks.WebhookDelivery]:
    """Call that delivers an event of a job again."""
    path = f"{_job_path(job_id)}/deliveries/{int(number)}/redeliver"
    return Call("POST", path, webhooks.WebhookDelivery, False)


def track(song_id: str) -> Call[models.TrackAnswer]:
    """Call for a song of the catalogue."""
    return get(_track_path(song_id), models.TrackAnswer)


def track_cover(song_id: str, size: int | None) -> Call[bytes]:
    """Call for the cover of a song of the catalogue.

    Args:
        size: pixels a side; None for the original.
    """
    return get(f"{_track_path(song_id)}/cover", bytes, {} if size is None else {"size": str(size)})


def withdraw(song_id: str) -> Call[None]:
    """Call that withdraws a song, so that it is neither found nor a source any more."""
    return Call("DELETE", _track_path(song_id), type(None), True)


def current_release() -> Call[models.ReleaseInfo]:
    """Call for the release that serves."""
    return get("/v1/releases/current", models.ReleaseInfo)


def limits() -> Call[models.LimitsAnswer]:
    """Call for what a request may ask for at most."""
    return get("/v1/limits", models.LimitsAnswer)


def usage(first: date | None, last: date | None, everyone: bool) -> Call[models.UsageAnswer]:
    """Call for what was used by day.

    Args:
        first: day in UTC; None for the first of the month of `last`.
        last: day in UTC; None for today.
        everyone: of every caller, which needs the scope admin.
    """
    days = {"from": first, "to": last}
    query = {name: day.isoformat() for name, day in days.items() if day is not None}
    return get("/v1/usage", models.UsageAnswer, query | ({"all": "true"} if everyone else {}))


def audit(limit: int | None, before: int | None) -> Call[models.AuditPage]:
    """Call for a page of the audit.

    Args:
        limit: entries at most.
        before: number of the entry to go on from; None for the last ones.
    """
    query = {"limit": limit, "before": before}
    return get("/v1/audit", models.AuditPage, {name: str(value) for name, value in query.items() if value is not None})


def health(probe: Literal["live", "ready"]) -> Call[models.HealthAnswer]:
    """Call that succeeds once the endpoint is live, or ready."""
    return get(f"/v1/health/{probe}", models.HealthAnswer)


def get(path: str, answer: type[T], query: Mapping[str, str] | None = None) -> Call[T]:
    """Call for what a path answers, which may be repeated."""
    return Call("GET", path, answer, True, query=query or {})


def _job_path(job_id: str) -> str:
    return f"/v1/covers/{quoted('job_id', job_id)}"


def _track_path(song_id: str) -> str:
    return f"/v1/tracks/{quoted('song_id', song_id)}"


def quoted(field_name: str, value: str) -> str:
    """An id as one segment of a path. Raises: ValueError for one that no path can hold."""
    if value in ("", ".", ".."):
        raise ValueError(f"{field_name} = '{value}': no path can hold it")
    return quote(value, safe="")


def _json(options: _Options) -> dict[str, Any]:
    """The options without those that are None; sequences as lists."""
    given = {name: value for name, value in options.items() if value is not None}
    return {name: _plain(name, value) for name, value in given.items()}


def _form(options: _Options) -> Fields:
    """The same as texts: a list is a field that is sent several times, an object is JSON."""
    fields: list[tuple[str, str]] = []
    for name, value in _json(options).items():
        values = value if isinstance(value, list) else [value]
        fields += [(name, one if isinstance(one, str) else json.dumps(one)) for one in values]
    return tuple(fields)


def _plain(name: str, value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(name, inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{name} = {value!r}: a {type(value).__name__} cannot be sent")
