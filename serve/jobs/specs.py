"""From a request for new covers to the specification of a job: the song encoded, the covers found that may be its
sources, every default filled in. Done when a job is accepted, and again where another release runs it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gatefold.errors import InputError
from gatefold.generator.interface import GenerationRequest, check_request
from gatefold.generator.sources import SourceRule, chosen
from serve.interfaces import GenerationJob, Query, ReleaseServices, Vector, song_embedding
from serve.jobs.jobs import JobSpec


@dataclass(frozen=True)
class SongFile:
    """An uploaded song: its bytes, and its file name fit to be shown in a message."""

    data: bytes
    name: str


@dataclass(frozen=True)
class CoversRequest:
    """New covers of a song, whichever release generates them."""

    song: SongFile | str
    """or the song_id of one in the catalogue"""
    request: GenerationRequest
    n: int
    seed: int
    """of the first cover; cover i has seed + i"""
    size: int
    """pixels a side of the pictures handed out"""
    source_song_ids: frozenset[str] | None
    """the sources to use among those that are allowed; all when None"""


async def make_spec(services: ReleaseServices, asked: CoversRequest) -> JobSpec:
    """The job that this release would generate.

    Raises: InputError for a song that cannot be decoded, or for what this release's generator cannot do; UnknownTrack;
        NoSources; Unavailable.
    """
    facts = await services.generator.describe()
    check_request(facts.kind, facts.accepts, asked.request)
    song_id = artist = name = None
    embedding: Vector
    if isinstance(asked.song, SongFile):
        name = asked.song.name
        embedding = (await services.encoder.encode_song(asked.song.data, name, False)).embedding
    else:
        song_id = asked.song
        known = await services.retriever.track(song_id)
        embedding, artist = song_embedding(known), known.track.artist
    filters = SourceRule(facts.sources).filters(song_id, artist)
    query = Query(embedding, services.release.encoder.fingerprint, facts.num_sources, filters)
    picked = asked.source_song_ids
    matches = chosen(await services.retriever.search(query), picked)
    ids = {match.track.song_id for match in matches}
    for field, wanted in (("source_song_ids", picked or ()), ("palette_from", [asked.request.palette_from])):
        if unknown := sorted(song_id for song_id in wanted if song_id is not None and song_id not in ids):
            raise InputError(f"{field} = '{unknown[0][:80]}': it is none of the {len(ids)} covers that may be sources")
    seeds = [asked.seed + i for i in range(asked.n)]
    job = GenerationJob(embedding, song_id, artist, seeds, asked.request, picked)
    return JobSpec(services.release, job, tuple(matches), n=asked.n, seed=asked.seed, size=asked.size, song_name=name)


async def for_release(
    services: ReleaseServices, spec: JobSpec, read_song: Callable[[], Awaitable[bytes]]
) -> JobSpec:
    """The same specification where it was made for this release, else one that is, of the same song and settings.

    Args:
        read_song: the bytes of an uploaded song.

    Raises: as `make_spec`.
    """
    if spec.release == services.release:
        return spec
    song: SongFile | str
    if spec.song_name is not None:
        song = SongFile(await read_song(), spec.song_name)
    else:
        assert spec.job.song_id is not None
        song = spec.job.song_id
    asked = CoversRequest(song, spec.job.request, spec.n, spec.seed, spec.size, spec.job.source_song_ids)
    return replace(await make_spec(services, asked), carried=spec.carried)
