"""Models of response bodies, each with its fields' ranges and units.

Requests are in `serve.api.requests`. Nothing here knows of routes, of Ray or of models.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, TypeAdapter

from gatefold.config import AudioSettings
from gatefold.records import Match, Track
from serve.interfaces import ServedBundle

THUMBNAIL_SIZE = 256

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
PictureFormat = Literal["png", "jpeg", "webp"]


class Body(BaseModel):
    """Frozen; a field nobody knows is refused, so that a misspelled option is never silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Problem(Body):
    """RFC 9457; `code` is stable, the rest is for people."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str


class SongView(Body):
    """What was encoded of an uploaded song."""

    duration_s: float
    """seconds"""
    window_starts_s: list[float]
    """seconds"""
    spectrogram: str | None = None
    """a data: URI of a PNG"""


class MatchView(Body):
    """A track whose cover lies near the song."""

    rank: int
    """1 is the nearest"""
    score: float
    """cosine, at most 1"""
    track: Track
    cover_url: str


class SearchResult(Body):
    """The covers nearest to a song, and which release found them."""

    release: str
    encoder: str
    """fingerprint"""
    song: SongView | None
    """null when nothing was uploaded"""
    matches: list[MatchView]


class EmbeddingResult(Body):
    """The embedding of an uploaded song, and which encoder made it."""

    release: str
    encoder: str
    """fingerprint"""
    embedding: list[float]
    """of unit length"""
    song: SongView


class CoverRequestView(Body):
    """What a job was asked for, with every default filled in."""

    n: int
    seed: int
    size: int
    novelty: float | None
    source_song_ids: list[str] | None
    palette_from: str | None
    guidance_scale: float | None
    num_inference_steps: int | None
    strength: float | None
    adapter: str | None
    """null is the release's own default"""


class ImageView(Body):
    """A new cover."""

    index: int
    seed: int
    url: str
    closest: MatchView | None
    """the cover of the catalogue nearest to this one"""
    likeness: float | None
    """to the most similar of all catalogue covers, at most 1; null where the endpoint cannot measure it"""
    largest_share: float | None
    """of one source, 0 to 1; null where the generator cannot say"""
    largest_region: float | None
    """largest connected region of one source, as a share of the cover"""
    attempts: int
    """times it was generated until it kept within the limits"""
    palette_from: Track | None
    """the source whose colours lead"""
    sources_url: str | None
    sources_map_url: str | None


class RefusedView(Body):
    """A new cover that is not handed out, since in every attempt it came too close to an existing one."""

    index: int
    seed: int
    code: Literal["too_much_of_one_source", "region_too_large", "too_like_a_cover"]
    value: float
    limit: float
    detail: str


class SourceView(Body):
    """What one cover contributed to a new one."""

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


class SourcesView(Body):
    """The covers that contributed to a new one."""

    sources: list[SourceView]
    """the largest share first"""


class JobView(Body):
    """A job, at the moment of the answer."""

    job_id: str
    state: JobState
    position: int | None
    """jobs ahead of it while queued"""
    progress: float
    """share of the denoising steps done"""
    created_at: datetime
    started_at: datetime | None
    """when the generation began that runs or that ended it"""
    finished_at: datetime | None
    expires_at: datetime | None
    """once ended: when it is deleted with its images"""
    cancel_at: datetime | None
    """when it is cancelled if it has not ended, as Cancel-After asked"""
    queued_s: float | None
    """seconds from created_at to started_at"""
    generation_s: float | None
    """seconds from started_at to finished_at"""
    release: str
    """the one that generates it: the active one when it was created, and again when it began"""
    request: CoverRequestView
    matches: list[MatchView]
    """covers that the new ones are made from: those allowed when generation began"""
    images: list[ImageView]
    refused: list[RefusedView]
    problem: Problem | None


class JobList(Body):
    """Jobs of the caller, the last created first."""

    jobs: list[JobView]
    after: str | None
    """what `after` of the next request names to get those that follow; null where there are none"""


class TrackView(Body):
    """A song of the catalogue."""

    track: Track
    cover_url: str | None


class PartView(Body):
    """One bundle of a release."""

    version: str
    fingerprint: str


class ReleaseView(Body):
    """The release that serves."""

    version: str
    encoder: PartView
    index: PartView
    generator: PartView
    covers: int
    """covers in the index"""
    generator_kind: str
    """local-score, transformer or diffusers"""
    novelty: float | None
    """of new covers where none is asked for, 0 to 1; null where the generator has no novelty"""
    audio: AudioSettings


class LimitsView(Body):
    """What a request may ask for at most; those that a setting decides have its name, in the section `serve`."""

    upload_max_bytes: int
    """bytes of an uploaded song"""
    upload_max_duration_s: float
    """seconds of an uploaded song"""
    uploads_max_bytes: int
    """bytes of all songs that a replica receives at a time"""
    bodies_max: int
    """requests that a replica receives at a time"""
    body_timeout_s: float
    """seconds that a client may send nothing of a body"""
    body_min_rate: int
    """bytes a second of a body on average, at least, after the first `body_timeout_s`"""
    decode_timeout_s: float
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
    jobs_listed_max: int
    """jobs in one list"""
    batch_lines_max: int
    """calls of a batch"""
    custom_id_max: int
    """characters of a `custom_id`"""
    text_max: int
    """characters of a title, artist or creator on a cover"""
    webhook_url_max: int
    """characters of a webhook's URL"""


class Example(Body):
    """A song the endpoint offers to try, with what its licence asks to be said."""

    file: str
    title: str
    artist: str
    genre: str
    licence: str
    attribution: str
    url: str


class NeighbourView(Body):
    """A cover that new ones were made from, and how near it lies to the song."""

    song_id: str
    score: float


class CoverManifest(Body):
    """All that replays a job exactly."""

    job_id: str
    created_at: datetime
    release: str
    encoder: PartView
    index: PartView
    generator: PartView
    song_embedding: list[float]
    """the song's, of unit length"""
    neighbours: list[NeighbourView]
    seeds: list[int]
    settings: CoverRequestView
    covers: list[dict[str, Any]]
    """of each seed: sources with their shares, attempt and likeness, or why it was refused"""


class Health(Body):
    """Whether the endpoint runs, or can answer requests."""

    status: Literal["live", "ready"]


_MATCH_VIEWS = TypeAdapter(list[MatchView])


def match_views(matches: Iterable[Match]) -> list[MatchView]:
    """The matches as they are answered; made in one go, since an answer has hundreds."""
    return _MATCH_VIEWS.validate_python(
        [{**match.__dict__, "cover_url": cover_url(match.track.song_id)} for match in matches]
    )


def part_view(bundle: ServedBundle) -> PartView:
    """One bundle of the release."""
    return PartView(version=bundle.version, fingerprint=bundle.fingerprint)


def cover_url(song_id: str) -> str:
    """Where a track's cover is served; the id is quoted whole, slashes too."""
    return f"/v1/tracks/{quote(song_id, safe='')}/cover"
