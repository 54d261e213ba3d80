"""New covers as files: of any size and format, as a store demands them, and with title and artist on them.

Every file says that it was generated (IPTC, as XMP). What is meant to be kept, a download or an export, is checked by
preflight, and signed where the operator has a certificate.
"""

import asyncio
import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import Field

from gatefold.config import ExportSettings, ServeSettings
from gatefold.errors import GatefoldError, InputError, Overloaded
from gatefold.export.credentials import Signer
from gatefold.export.disclosure import Disclosure, SourceShare, source_type_of, xmp_packet
from gatefold.export.export import Exported, Lettering, export_cover, picture_file
from gatefold.export.profiles import PROFILES, Format, Profile, ProfileName, plain
from gatefold.generator.interface import Generated
from serve.access.own_jobs import OwnJobs
from serve.active_release import ActiveRelease
from serve.api.contents import Content, content_response, is_known, not_modified, tag_of
from serve.api.contracts import Body
from serve.api.cover_views import new_cover
from serve.api.description import headers
from serve.api.limits import SIZE_MIN, TEXT_MAX, marked
from serve.jobs.database import uninterrupted
from serve.jobs.files import JobFiles
from serve.jobs.jobs import Job
from serve.middleware.uploads import read_body
from serve.observability.metrics import EXPORT_FAILURES
from serve.observability.tracing import span

Done = TypeVar("Done")
ImageSize = Annotated[int, Query(ge=SIZE_MIN, json_schema_extra=marked(maximum="image_size_max"))]
Quality = Annotated[int, Query(ge=1, le=100)]
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
JPEG_QUALITY = 92
"""of pictures to look at; what is exported begins at 95"""
_NEVER_CHANGES = {"Cache-Control": "private, max-age=31536000, immutable"}
_NOT_KEPT = {"Cache-Control": "private, no-store"}
_SUFFIX = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_FIRST_GUESS_S = 2.0
"""seconds that an export takes, before any has been measured"""


class ExportFields(Body):
    """A new cover for a destination."""

    profile: ProfileName
    """where it goes, which decides size, shape, colours and bytes"""
    title: str | None = Field(None, min_length=1, max_length=TEXT_MAX)
    """of the release, set on the picture exactly as it is given"""
    artist: str | None = Field(None, min_length=1, max_length=TEXT_MAX)
    """likewise"""
    layout: Literal["auto", "corner", "band", "poster"] = "auto"
    """how title and artist stand; auto takes the most legible"""
    letters: bool = True
    """whether title and artist are set on the picture; else they are metadata alone"""
    creator: str | None = Field(None, min_length=1, max_length=TEXT_MAX)
    """whose cover it is, in its metadata; the artist's when absent"""
    format: Literal["png", "jpeg"] | None = None
    """the profile's own when absent"""
    quality: int | None = Field(None, ge=1, le=100)
    """of a JPEG at most; the bytes that the profile allows may lower it"""
    answer: Literal["file", "zip"] = "file"
    """the picture, or a zip of it and its sidecar: sources with their shares, what was done, and the preflight"""


@dataclass(frozen=True)
class ExportOptions:
    """What the operator decides: the credit in every file, and what it is signed with."""

    credit: str = ExportSettings().credit
    signer: Signer | None = None


@dataclass(frozen=True)
class Wanted:
    """A file that is asked for; `keep` where it is meant to be kept."""

    profile: Profile
    format: Format
    quality: int | None
    keep: bool


class ExportQueue:
    """Bounds the exports of this process: so many at once, so many that wait, and no more.

    Args:
        at_once, waiting: `serve.exports_max`, `serve.exports_queued_max`.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._at_once, self._most = at_once, at_once + waiting
        self._admitted = 0
        self._mean_s = _FIRST_GUESS_S

    async def run(self, work: Callable[[], Done]) -> Done:
        """What the work returns, done in a thread. Raises: Overloaded where too many wait."""
        if self._admitted >= self._most:
            wait_s = max(1, ceil(self._mean_s * self._admitted / self._at_once))
            raise Overloaded(f"{self._admitted} covers are being exported or wait for it, limit {self._most} "
                             "(serve.exports_max, serve.exports_queued_max); try again", wait_s)  # fmt: skip
        self._admitted += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self._admitted -= 1
            raise
        return await self._work(work)

    @uninterrupted  # a thread works on when its client has gone, and has its place until it is done
    async def _work(self, work: Callable[[], Done]) -> Done:
        began = time.monotonic()
        try:
            return await asyncio.to_thread(work)
        finally:
            self._mean_s += 0.2 * (time.monotonic() - began - self._mean_s)
            self._slots.release()
            self._admitted -= 1


class CoverFiles:
    """Makes the files of new covers.

    Args:
        active: says which kind of generator a job had, as long as its release is active.
        stored: the pictures as they were generated.
    """

    def __init__(
        self, active: ActiveRelease, limits: ServeSettings, options: ExportOptions, stored: JobFiles
    ) -> None:
        self._active, self._limits, self._options, self._stored = active, limits, options, stored
        self._queue = ExportQueue(limits.exports_max, limits.exports_queued_max)
        self._kinds: dict[str, str] = {}

    async def image(self, request: Request, job: Job, index: int, wanted: Wanted, disposition: str) -> Response:
        """A new cover as it is asked for, to look at or to keep.

        Args:
            disposition: "attachment" where a browser is to save it, else "inline".
        """
        cover = await self._generated(job, index)
        name = f"cover-{cover.seed}{f'-{wanted.profile.name}' if wanted.keep and wanted.profile.is_named else ''}"
        sent = _NEVER_CHANGES | _disposition(disposition, f"{name}.{_SUFFIX[wanted.format]}")
        disclosure = await self._disclosure(job, cover)
        signed = wanted.keep and self._options.signer is not None
        tag = tag_of(job.job_id, index, wanted.profile, wanted.format, wanted.quality, xmp_packet(disclosure))
        if not signed and is_known(request, tag):
            return not_modified(tag, sent)
        if wanted.keep:
            done = await self._export(cover, wanted, disclosure, None)
            data = done.data
        else:
            work = lambda: _picture(cover, wanted, disclosure)  # noqa: E731
            large = max(wanted.profile.width, wanted.profile.height) > self._limits.size_max
            data = await (self._queue.run(work) if large else asyncio.to_thread(work))
        if signed:  # with another signature each time
            tag, sent = tag_of(data), sent | _NOT_KEPT
        return content_response(request, Content(data, f"image/{wanted.format}"), tag, sent)

    async def export(self, job: Job, index: int, fields: ExportFields) -> Response:
        """A new cover for a destination, with title and artist."""
        cover = await self._generated(job, index)
        profile = PROFILES[fields.profile]
        wanted = Wanted(profile, _format(profile, fields.format), fields.quality, keep=True)
        disclosure = await self._disclosure(job, cover)
        disclosure = replace(disclosure, title=fields.title, creator=fields.creator or fields.artist)
        lettering = None
        if fields.letters and (fields.title or fields.artist):
            lettering = Lettering(fields.title, fields.artist, fields.layout)
        done = await self._export(cover, wanted, disclosure, lettering)
        name = f"cover-{cover.seed}-{profile.name}"
        file = f"{name}.{_SUFFIX[done.format]}"
        if fields.answer == "file":
            return Response(done.data, 200, _NOT_KEPT | _disposition("attachment", file), f"image/{done.format}")
        both = {file: done.data, f"{file}.json": json.dumps(done.sidecar, ensure_ascii=False, indent=1).encode()}
        sent = _NOT_KEPT | _disposition("attachment", f"{name}.zip")
        return Response(_zipped(both), 200, sent, "application/zip")

    async def _export(
        self, cover: Generated, wanted: Wanted, disclosure: Disclosure, lettering: Lettering | None
    ) -> Exported:
        def work() -> Exported:
            return export_cover(
                cover.pixels,
                wanted.profile,
                disclosure,
                lettering=lettering,
                signer=self._options.signer,
                format=wanted.format,
                quality=wanted.quality,
            )

        try:
            with span("export"):
                return await self._queue.run(work)
        except GatefoldError as error:
            EXPORT_FAILURES.add(code=error.code)
            raise

    async def _generated(self, job: Job, index: int) -> Generated:
        new_cover(job, index)  # says why there is none
        return await self._stored.generated(job, index)

    async def _disclosure(self, job: Job, cover: Generated) -> Disclosure:
        shares = cover.attribution.shares if cover.attribution else ()
        sources = tuple(SourceShare(one.song_id, one.share) for one in shares)
        release = job.spec.release.version
        kind = await self._kind(release)
        if kind is None:  # of a release that was active before: what discloses the most
            kind = "diffusers" if cover.attribution else "transformer"
        return Disclosure(source_type_of(kind), self._options.credit, sources=sources, seed=cover.seed, release=release)

    async def _kind(self, release: str) -> str | None:
        """The kind of generator of a release; None where it was not asked for while the release was active."""
        with self._active.current() as serving:
            if release not in self._kinds and serving.release.version == release:
                self._kinds[release] = (await serving.generator.describe()).kind
        return self._kinds.get(release)


class ExportRoutes:
    """Handlers of the routes that export; thin, around `CoverFiles`."""

    def __init__(self, own: OwnJobs, limits: ServeSettings, files: CoverFiles) -> None:
        self._own, self._limits, self._files = own, limits, files

    def router(self) -> APIRouter:
        """The routes of exports."""
        router = APIRouter(prefix="/covers", tags=["covers"])
        schema = ExportFields.model_json_schema() | marked(x_max_bytes="json_max_bytes")
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        binary = {"schema": {"type": "string", "format": "binary"}}
        sent = headers("Content-Disposition: the name of the file", "Cache-Control: that it is not to be kept")
        kinds = ("image/jpeg", "image/png", "application/zip")
        answers: dict[int | str, dict[str, Any]] = {
            200: {"description": "The file.", "headers": sent, "content": dict.fromkeys(kinds, binary)}
        }
        router.add_api_route(
            "/{job_id}/images/{index}/export",
            self.export,
            methods=["POST"],
            response_class=Response,
            responses=answers,
            openapi_extra={"requestBody": body} | marked(x_max_queued="exports_queued_max"),
        )
        return router

    async def export(self, request: Request, job_id: str, index: int) -> Response:
        """A new cover as a store demands it, with title and artist on it, checked before it is handed out."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, "send application/json")
        body = await read_body(request, self._limits)
        fields = ExportFields.model_validate(body.fields, strict=True)
        return await self._files.export(await self._own.get(request, job_id), index, fields)


def check_size(size: int, limits: ServeSettings) -> None:
    """Raises: InputError for an image larger than the endpoint gives out."""
    if size > limits.image_size_max:
        raise InputError(f"size = {size}: at most {limits.image_size_max} pixels a side (serve.image_size_max)")


def wanted_image(
    size: int, format: Format | None, quality: int | None, profile: ProfileName | None, *, keep: bool
) -> Wanted:
    """The file that these parameters of a request mean.

    Args:
        size: pixels a side, where there is no profile.
        format: PNG when None, or the profile's own; likewise where the profile does not take it.
    """
    destination = plain(size, "png") if profile is None else PROFILES[profile]
    return Wanted(destination, _format(destination, format), quality, keep or profile is not None)


def _format(profile: Profile, format: Format | None) -> Format:
    return format if format in profile.formats else profile.format


def _picture(cover: Generated, wanted: Wanted, disclosure: Disclosure) -> bytes:
    size = wanted.profile.width, wanted.profile.height
    return picture_file(cover.pixels, size, wanted.format, wanted.quality or JPEG_QUALITY, disclosure)


def _disposition(disposition: str, name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'} if disposition == "attachment" else {}


def _zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sink.getvalue()
