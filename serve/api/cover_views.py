"""A job for new covers as it is answered: state, images, refused covers, sources. No routes, no Ray."""

from gatefold.errors import NotFound
from gatefold.generator.attribution import colours
from gatefold.generator.interface import Attribution
from gatefold.generator.originality import NewCover, Refused
from gatefold.records import Match
from serve.api.contracts import (
    CoverRequestView,
    ImageView,
    JobView,
    RefusedView,
    SourcesView,
    SourceView,
    cover_url,
    match_views,
)
from serve.api.problems import problem_of
from serve.jobs.jobs import Job, JobSpec


def matches_of(job: Job) -> tuple[Match, ...]:
    """The sources: those at the order, until generation has looked them up anew."""
    return job.spec.matches if job.generated is None else job.generated.result.matches


def job_view(job: Job) -> JobView:
    return JobView(
        job_id=job.job_id,
        state=job.state,
        position=job.position,
        progress=job.progress,
        created_at=job.created_at,
        finished_at=job.finished_at,
        release=job.spec.release.version,
        request=request_view(job.spec),
        matches=match_views(matches_of(job)),
        images=_image_views(job),
        refused=_refused_views(job),
        problem=None if job.error is None else problem_of(job.error, path_of(job)),
    )


def _image_views(job: Job) -> list[ImageView]:
    if job.generated is None:
        return []
    tracks = {match.track.song_id: match.track for match in job.generated.result.matches}
    views = []
    for index, (cover, closest) in enumerate(zip(job.generated.result.covers, job.generated.closest, strict=True)):
        if isinstance(cover, Refused):
            continue
        url, generated = f"{path_of(job)}/images/{index}", cover.generated
        shares = generated.attribution.shares if generated.attribution else ()
        views.append(
            ImageView(
                index=index,
                seed=generated.seed,
                url=url,
                closest=None if closest is None else match_views([closest])[0],
                likeness=cover.likeness.value if cover.likeness else None,
                largest_share=shares[0].share if shares else None,
                largest_region=max(share.largest_region for share in shares) if shares else None,
                attempts=cover.attempt,
                palette_from=tracks.get(generated.palette_from or ""),
                sources_url=f"{url}/sources" if shares else None,
                sources_map_url=f"{url}/sources.png" if shares else None,
            )
        )
    return views


def _refused_views(job: Job) -> list[RefusedView]:
    covers = enumerate(job.generated.result.covers if job.generated else ())
    return [
        RefusedView(index=index, seed=one.seed, code=one.code, value=one.value, limit=one.limit, detail=one.detail)
        for index, one in covers
        if isinstance(one, Refused)
    ]


def new_cover(job: Job, index: int) -> NewCover:
    """Raises: NotFound saying why there is none."""
    if job.generated is None:
        raise NotFound(f"job '{job.job_id}' has no images: it is {job.state}")
    if not 0 <= index < job.spec.n:
        raise NotFound(f"job '{job.job_id}' has no image {index}; it has 0 to {job.spec.n - 1}")
    cover = job.generated.result.covers[index]
    if isinstance(cover, Refused):
        raise NotFound(f"image {index} of job '{job.job_id}' was refused: {cover.detail}")
    return cover


def attribution_of(job: Job, index: int) -> Attribution:
    attribution = new_cover(job, index).generated.attribution
    if attribution is None:
        raise NotFound(f"the generator of release '{job.spec.release.version}' cannot say where its pixels come from")
    return attribution


def request_view(spec: JobSpec) -> CoverRequestView:
    request, picked = spec.job.request, spec.job.source_song_ids
    return CoverRequestView(
        n=spec.n,
        seed=spec.seed,
        size=spec.size,
        novelty=request.novelty,
        source_song_ids=None if picked is None else sorted(picked),
        palette_from=request.palette_from,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.num_inference_steps,
        strength=request.strength,
        adapter=request.adapter,
    )


def sources_view(job: Job, index: int) -> SourcesView:
    """Which covers a new cover is made from. Raises: NotFound saying why it is not known."""
    attribution = attribution_of(job, index)
    assert job.generated is not None
    known = {match.track.song_id: match.track for match in job.generated.result.matches}
    views = []
    for share, (red, green, blue) in zip(attribution.shares, colours(len(attribution.shares)), strict=True):
        track = known[share.song_id]
        views.append(
            SourceView(
                song_id=share.song_id,
                title=track.title,
                artist=track.artist,
                share=share.share,
                largest_region=share.largest_region,
                cover_url=cover_url(share.song_id),
                colour=f"#{red:02x}{green:02x}{blue:02x}",
            )
        )
    return SourcesView(sources=views)


def path_of(job: Job) -> str:
    return f"/v1/covers/{job.job_id}"
