"""A job for new covers as it is answered: state, images, refused covers, sources, manifest. No routes, no Ray."""

from gatefold.errors import NotFound
from gatefold.generator.attribution import colours
from gatefold.generator.interface import Share
from gatefold.records import Match
from serve.api.contracts import (
    CoverManifest,
    CoverRequestView,
    ImageView,
    JobView,
    NeighbourView,
    RefusedView,
    SourcesView,
    SourceView,
    cover_url,
    match_views,
    part_view,
)
from serve.api.problems import problem_of
from serve.jobs.jobs import Job, JobSpec, StoredCover


def matches_of(job: Job) -> tuple[Match, ...]:
    """The sources: those when it was created, until generation has looked them up anew."""
    return job.spec.matches if job.result is None else job.result.matches


def job_view(job: Job) -> JobView:
    """The job as the API shows it."""
    return JobView(
        job_id=job.job_id,
        state=job.state,
        position=job.position,
        progress=job.progress,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        cancel_at=job.cancel_at,
        queued_s=job.queued_s,
        generation_s=job.generation_s,
        release=job.spec.release.version,
        request=request_view(job.spec),
        matches=match_views(matches_of(job)),
        images=_image_views(job),
        refused=_refused_views(job),
        problem=None if job.error is None else problem_of(job.error, path_of(job)),
    )


def _image_views(job: Job) -> list[ImageView]:
    if job.result is None:
        return []
    tracks = {match.track.song_id: match.track for match in job.result.matches}
    views = []
    for index, cover in enumerate(job.result.covers):
        if cover.is_refused:
            continue
        record, shares, url = cover.record, cover.shares or (), f"{path_of(job)}/images/{index}"
        views.append(
            ImageView(
                index=index,
                seed=record["seed"],
                url=url,
                closest=None if cover.closest is None else match_views([cover.closest])[0],
                likeness=record["likeness"]["value"] if record["likeness"] else None,
                largest_share=shares[0].share if shares else None,
                largest_region=max(share.largest_region for share in shares) if shares else None,
                attempts=record["attempt"],
                palette_from=tracks.get(record["palette_from"] or ""),
                sources_url=f"{url}/sources" if shares else None,
                sources_map_url=f"{url}/sources.png" if shares else None,
            )
        )
    return views


def _refused_views(job: Job) -> list[RefusedView]:
    covers = enumerate(job.result.covers if job.result else ())
    records = [(index, cover.record) for index, cover in covers if cover.is_refused]
    return [
        RefusedView(
            index=index,
            seed=record["seed"],
            code=record["refused"],
            value=record["value"],
            limit=record["limit"],
            detail=record["detail"],
        )
        for index, record in records
    ]


def new_cover(job: Job, index: int) -> StoredCover:
    """The cover that a job generated as number `index`, from 0. Raises: NotFound saying why there is none."""
    if job.result is None:
        raise NotFound(f"job '{job.job_id}' has no images: it is {job.state}")
    if not 0 <= index < job.spec.n:
        raise NotFound(f"job '{job.job_id}' has no image {index}; it has 0 to {job.spec.n - 1}")
    cover = job.result.covers[index]
    if cover.is_refused:
        raise NotFound(f"image {index} of job '{job.job_id}' was refused: {cover.record['detail']}")
    return cover


def shares_of(job: Job, index: int) -> tuple[Share, ...]:
    """The sources of a new cover, the largest share first. Raises: NotFound saying why they are not known."""
    shares = new_cover(job, index).shares
    if shares is None:
        raise NotFound(f"the generator of release '{job.spec.release.version}' cannot say where its pixels come from")
    return shares


def manifest_of(job: Job) -> CoverManifest:
    """All that replays a job exactly."""
    release = job.spec.release
    return CoverManifest(
        job_id=job.job_id,
        created_at=job.created_at,
        release=release.version,
        encoder=part_view(release.encoder),
        index=part_view(release.index),
        generator=part_view(release.generator),
        song_embedding=job.spec.job.song_embedding.tolist(),
        neighbours=[NeighbourView(song_id=m.track.song_id, score=m.score) for m in matches_of(job)],
        seeds=job.spec.job.seeds,
        settings=request_view(job.spec),
        covers=[cover.record for cover in job.result.covers] if job.result else [],
    )


def request_view(spec: JobSpec) -> CoverRequestView:
    """What was asked for, as the API shows it."""
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
    shares = shares_of(job, index)
    known = {match.track.song_id: match.track for match in matches_of(job)}
    views = []
    for share, (red, green, blue) in zip(shares, colours(len(shares)), strict=True):
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
    """The path of the job in the API."""
    return f"/v1/covers/{job.job_id}"
