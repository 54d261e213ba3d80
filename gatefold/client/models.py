"""What the HTTP API answers, as typed models: jobs, matches, covers, sources, releases.

They follow the HTTP contract and not the code of the server, which this package never imports. A field that is not
known here is kept and never refused, so that a client goes on working beside a newer server; a field that an older
server does not send yet has a default.
"""

from datetime import date, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""states that a job never leaves"""


class Answer(BaseModel):
    """A part of an answer. Frozen; unknown fields are kept in `model_extra`."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True, protected_namespaces=())


class ProblemDetails(Answer):
    """An error as the API sends it (RFC 9457); `code` is stable, the rest is for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str


class TrackInfo(Answer):
    """A song of the catalogue with its metadata."""

    song_id: str
    title: str | None = None
    artist: str | None = None
    album: str | None = None
    genre: str | None = None


class TrackAnswer(Answer):
    """A track, and whether it has a cover."""

    track: TrackInfo
    cover_url: str | None


class EncodedSong(Answer):
    """What was encoded of an uploaded song."""

    duration_s: float
    """seconds"""
    window_starts_s: list[float]
    """seconds"""
    spectrogram: str | None = None
    """a data: URI of a PNG"""


class FoundCover(Answer):
    """A track whose cover lies near a song."""

    rank: int
    """1 is the nearest"""
    score: float
    """cosine, at most 1"""
    track: TrackInfo
    cover_url: str


class SearchAnswer(Answer):
    """The nearest covers of a song, the nearest first."""

    release: str
    encoder: str
    """fingerprint"""
    song: EncodedSong | None
    """None when nothing was uploaded"""
    matches: list[FoundCover]


class EmbeddingAnswer(Answer):
    """The embedding of an uploaded song; `client.search(embedding=...)` takes it back whole."""

    release: str
    encoder: str
    """fingerprint"""
    embedding: list[float]
    """of unit length"""
    song: EncodedSong


class JobSettings(Answer):
    """What a job was asked for, with every default filled in."""

    n: int
    seed: int
    size: int
    """pixels a side"""
    novelty: float | None
    source_song_ids: list[str] | None
    palette_from: str | None
    guidance_scale: float | None
    num_inference_steps: int | None
    strength: float | None
    adapter: str | None


class CoverImage(Answer):
    """A new cover; its pixels come from `job.image(index)`."""

    index: int
    seed: int
    url: str
    """path at the endpoint"""
    closest: FoundCover | None
    """the cover of the catalogue nearest to this one"""
    likeness: float | None
    """to the most similar of all catalogue covers, at most 1"""
    largest_share: float | None
    """of one source, 0 to 1"""
    largest_region: float | None
    """largest connected region of one source, as a share of the cover"""
    attempts: int
    palette_from: TrackInfo | None
    sources_url: str | None
    sources_map_url: str | None


class RefusedCover(Answer):
    """A cover that came too close to an existing one in every attempt, and is not handed out."""

    index: int
    seed: int
    code: str
    value: float
    limit: float
    detail: str


class CoverSource(Answer):
    """What one cover of the catalogue contributed to a new one."""

    song_id: str
    title: str | None
    artist: str | None
    share: float
    """0 to 1; those of a new cover sum to 1"""
    largest_region: float
    """share of the new cover in the largest connected region that this source holds"""
    cover_url: str
    colour: str
    """its colour on the map of sources, "#rrggbb\""""


class CoverSources(Answer):
    """The sources of a new cover, the largest share first."""

    sources: list[CoverSource]


class JobStatus(Answer):
    """A job at one moment."""

    job_id: str
    state: str
    """queued, running, succeeded, failed or cancelled"""
    position: int | None
    """jobs ahead of it while queued"""
    progress: float
    """share of the work done, 0 to 1"""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None
    expires_at: datetime | None = None
    """when its pictures are deleted"""
    cancel_at: datetime | None = None
    """when it is cancelled if it has not ended"""
    queued_s: float | None = None
    """seconds it waited"""
    generation_s: float | None = None
    """seconds of generation"""
    release: str
    request: JobSettings
    matches: list[FoundCover]
    """covers that the new ones are made from"""
    images: list[CoverImage]
    refused: list[RefusedCover]
    problem: ProblemDetails | None
    """why it failed"""

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state in ENDED


class JobPage(Answer):
    """Jobs of the caller, the last created first."""

    jobs: list[JobStatus]
    after: str | None
    """names what `client.jobs(after=...)` goes on with; None where there is nothing more"""


class BundleInfo(Answer):
    """An encoder, index or generator of a release."""

    version: str
    fingerprint: str


class ReleaseInfo(Answer):
    """What serves."""

    version: str
    encoder: BundleInfo
    index: BundleInfo
    generator: BundleInfo
    covers: int
    """covers in the index"""
    generator_kind: str
    """local-score, transformer or diffusers"""
    novelty: float | None
    audio: dict[str, Any]
    """settings of the spectrograms"""


class NeighbourScore(Answer):
    """One of the nearest covers in a manifest."""

    song_id: str
    score: float


class JobManifest(Answer):
    """All that replays a job exactly."""

    job_id: str
    created_at: datetime
    release: str
    encoder: BundleInfo
    index: BundleInfo
    generator: BundleInfo
    song_embedding: list[float]
    neighbours: list[NeighbourScore]
    seeds: list[int]
    settings: JobSettings
    covers: list[dict[str, Any]]


class HealthAnswer(Answer):
    """That the process answers ("live"), or that requests can be answered ("ready")."""

    status: str


class LimitsAnswer(Answer):
    """What a request may ask for at most; most have the name of the setting that decides them."""

    upload_max_bytes: int
    """bytes of an uploaded song"""
    upload_max_duration_s: float
    """seconds of an uploaded song"""
    uploads_max_bytes: int | None = None
    """bytes of all songs that a replica receives at a time"""
    bodies_max: int | None = None
    """requests that a replica receives at a time"""
    body_timeout_s: float | None = None
    """seconds that a client may send nothing of a body"""
    body_min_rate: int | None = None
    """bytes a second of a body on average, at least, after the first `body_timeout_s`"""
    decode_timeout_s: float | None = None
    """seconds that the decoding of a song may take"""
    form_fields_max: int
    """fields of a form beside the song"""
    form_fields_max_bytes: int
    """bytes of a form beside the song"""
    json_max_bytes: int
    """bytes of a JSON body"""
    k_max: int
    """matches of a search"""
    n_max: int
    """covers of a job"""
    size_min: int
    """pixels a side of a picture, at least"""
    size_max: int
    """pixels a side of a job's covers"""
    image_size_max: int
    """pixels a side that an image of a job can be fetched at"""
    exports_queued_max: int
    """covers that wait to be exported"""
    steps_max: int
    """denoising steps of a cover"""
    guidance_max: float
    """guidance scale"""
    seed_max: int
    """seed of a job's last cover"""
    list_max: int
    """values of a list"""
    columns_max: int
    """columns that a search filters by"""
    embedding_max: int
    """numbers of an embedding"""
    idempotency_key_max: int
    """characters of an Idempotency-Key"""
    songs_queued_max: int
    """uploaded songs that wait for the encoder"""
    jobs_max: int
    """jobs queued or running"""
    results_kept_s: float
    """seconds after its end that a job is kept with its images"""
    wait_max_s: float
    """seconds that `Prefer: wait` holds a request; more are shortened to it"""
    jobs_listed_max: int | None = None
    """jobs in one list"""
    batch_lines_max: int | None = None
    """calls of a batch"""
    custom_id_max: int | None = None
    """characters of a `custom_id`"""
    text_max: int | None = None
    """characters of a title, artist or creator on a cover"""
    webhook_url_max: int | None = None
    """characters of a webhook's URL"""


class UsageDay(Answer):
    """What a caller used on a day."""

    caller: str
    """how its API key begins"""
    day: date
    """in UTC"""
    searches: int
    covers: int
    generation_s: float
    cost: float | None = None
    """None where the operator has set no prices"""


class UsageAnswer(Answer):
    """Usage by day and caller, the first day first; days without usage are left out."""

    first: date
    last: date
    currency: str | None = None
    days: list[UsageDay]


class AuditEntry(Answer):
    """A call that needed the scope `admin`, or a change of a key."""

    number: int
    at: datetime
    caller: str
    action: str
    target: str
    result: str | None = None
    """status of the answer, or `done`; None where the endpoint ended before"""


class AuditPage(Answer):
    """Entries of the audit, the last first."""

    entries: list[AuditEntry]
