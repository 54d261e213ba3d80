"""An API that answers as the real one does: same addresses, same shapes, pictures drawn by rule.

It serves the real page, so that the page can be built and tried where there is no model. It knows of a song only what
the first bytes of its file say. What it does with a request is fixed, so that a test can ask for it: novelty 0 takes 4
sources and 1 takes 40; a picture with more than half from one source is refused, and so is one whose seed ends in 000;
an export whose title has a price breaks a rule.
"""

import asyncio
import csv
import hashlib
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Header, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve.middleware.security_headers import PAGE_POLICY
from tests.browser.fake_exports import ExportForm, exported
from tests.browser.fake_pictures import Mosaic, compose, cover_jpeg, draw_cover, draw_spectrogram, encode

STATIC = Path(__file__).parents[2] / "serve" / "static"
GENRES = ["Folk", "Jazz", "Classical", "Electronic", "Hip-Hop", "Blues", "Chiptune", "Polka", "Lo-fi"]
FIRST = ["Quiet", "Glass", "Northern", "Paper", "Second", "Velvet", "Salt", "Hollow", "Late", "Copper"]
SECOND = ["Rooms", "Harbour", "Machines", "Orchard", "Weather", "Telephone", "Summer", "Atlas", "Parade", "Snow"]
NAMES = ["Ana Ruiz", "The Low Tide", "Mori Kessler", "Dust Choir", "Lena & the Locks", "Otis Vane", "Plaza Norte"]
MAGIC = {b"RIFF": 0, b"OggS": 0, b"fLaC": 0, b"ID3": 0, b"\xff\xfb": 0, b"ftyp": 4}
ENDED = {"succeeded", "failed", "cancelled"}
STEPS = 25
NOVELTY = 0.4
SHARE_LIMIT = 0.5
LIKENESS_LIMIT = 0.9
LIMITS = {
    "upload_max_bytes": 200_000_000,
    "upload_max_duration_s": 900.0,
    "k_max": 100,
    "n_max": 8,
    "size_max": 1024,
    "size_min": 256,
    "image_size_max": 3000,
    "steps_max": 100,
    "results_kept_s": 86_400.0,
}
Kind = Literal["local-score", "transformer"]
Upload = Annotated[bytes, File()]


class CoverForm(BaseModel):
    """The fields of a request for new covers, the file apart."""

    model_config = ConfigDict(extra="forbid")
    song: Any
    n: int = Field(4, ge=1, le=LIMITS["n_max"])
    seed: int = Field(ge=0)
    size: int = Field(512, ge=LIMITS["size_min"], le=LIMITS["size_max"])
    novelty: float | None = Field(None, ge=0, le=1)
    source_song_ids: list[str] | None = None
    palette_from: str | None = Field(None, min_length=1)
    guidance_scale: float | None = None
    num_inference_steps: int | None = None


class RefusedError(Exception):
    """What the fake API will not do, as problem+json says it."""

    def __init__(self, status: int, title: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}


def match(rank: int, name: str) -> dict[str, Any]:
    """The match at a rank for a song: the same for the same name."""
    chance = random.Random(f"{name}/{rank}")
    song_id = f"song-{chance.randrange(1000):03d}{rank:03d}"
    track = {
        "song_id": song_id,
        "title": f"{chance.choice(FIRST)} {chance.choice(SECOND)}",
        "artist": chance.choice(NAMES),
        "album": f"{chance.choice(SECOND)} {rank}",
        "genre": GENRES[min(int(chance.expovariate(0.6)), len(GENRES) - 1)],
    }
    score = round(0.91 - 0.05 * math.log(rank + 1), 4)
    return {"rank": rank, "score": score, "track": track, "cover_url": f"/v1/tracks/{song_id}/cover"}


def check_song(name: str, data: bytes) -> None:
    """Refuses what does not begin as an audio file does."""
    if not any(data[at : at + len(magic)] == magic for magic, at in MAGIC.items()):
        detail = f"song '{name}': {len(data)} bytes that are no audio; send MP3, FLAC, WAV, Ogg, Opus or M4A"
        raise RefusedError(415, "Undecodable audio", "undecodable_audio", detail)


class Job:
    """One request for covers, worked through in even steps."""

    def __init__(self, name: str, request: dict[str, Any], step_s: float, kind: Kind) -> None:
        self.job_id = hashlib.sha256(f"{name}{request}{random.random()}".encode()).hexdigest()[:12]
        self.name, self.request, self.step_s, self.kind = name, request, step_s, kind
        self.state, self.progress, self.version = "queued", 0.0, 0
        self.created_at = _now()
        self.finished_at: str | None = None
        self.expires_at: str | None = None
        self.changed = asyncio.Condition()
        asked = request["source_song_ids"]
        every = [match(rank, name) for rank in range(1, 101)]
        self.matches = [one for one in every if not asked or one["track"]["song_id"] in asked]

    async def change(self, **values: Any) -> None:
        """Sets values and wakes those who follow."""
        async with self.changed:
            self.__dict__.update(values)
            self.version += 1
            if self.state in ENDED:
                self.finished_at = _now()
                self.expires_at = _now(LIMITS["results_kept_s"])
            self.changed.notify_all()

    async def work(self) -> None:
        """From queued to an end, unless cancelled on the way."""
        await asyncio.sleep(self.step_s)
        for step in range(STEPS):
            if self.state == "cancelled":
                return
            await self.change(state="running", progress=step / STEPS)
            await asyncio.sleep(self.step_s)
        if self.state != "cancelled":
            await self.change(state="succeeded", progress=1.0)

    def mosaic(self, index: int) -> Mosaic:
        """The picture at an index, with what it is made of."""
        names = tuple(one["track"]["song_id"] for one in self.matches)
        novelty = NOVELTY if self.request["novelty"] is None else self.request["novelty"]
        return _mosaic(self.request["seed"] + index, names, novelty, self.request["palette_from"])

    def refusal(self, index: int) -> dict[str, Any] | None:
        """Why the picture at an index is not handed out, or None."""
        seed = self.request["seed"] + index
        refused = {"index": index, "seed": seed}
        share = self.mosaic(index).shares[0]
        if self.kind == "transformer":
            return None
        if seed % 1000 == 0:
            detail = f"seed {seed}: likeness 0.95 to one cover, limit {LIKENESS_LIMIT}, after 4 attempts"
            return {**refused, "code": "too_like_a_cover", "value": 0.95, "limit": LIKENESS_LIMIT, "detail": detail}
        if share > SHARE_LIMIT:
            detail = f"seed {seed}: {share:.3f} of it from one cover, limit {SHARE_LIMIT}, after 4 attempts"
            return {**refused, "code": "too_much_of_one_source", "value": share, "limit": SHARE_LIMIT, "detail": detail}
        return None

    def image(self, index: int) -> dict[str, Any]:
        """A picture that is handed out, as the API shows it."""
        seed, url = self.request["seed"] + index, f"/v1/covers/{self.job_id}/images/{index}"
        image = {"index": index, "seed": seed, "url": url, "closest": self.matches[index % len(self.matches)]}
        if self.kind == "transformer":
            nothing = ("largest_share", "largest_region", "likeness", "sources_url", "sources_map_url")
            return {**image, **dict.fromkeys(nothing), "attempts": 1}
        mosaic = self.mosaic(index)
        measured = {"largest_share": mosaic.shares[0], "largest_region": max(mosaic.regions), "likeness": 0.61}
        addresses = {"sources_url": f"{url}/sources", "sources_map_url": f"{url}/sources.png"}
        return {**image, **measured, "attempts": 1 + index, **addresses}

    def body(self) -> dict[str, Any]:
        """The job as the API shows it."""
        indices = range(self.request["n"]) if self.state == "succeeded" else ()
        refused = {index: self.refusal(index) for index in indices}
        return {
            "job_id": self.job_id,
            "state": self.state,
            "position": 0 if self.state == "queued" else None,
            "progress": self.progress,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "expires_at": self.expires_at,
            "release": "fake-1",
            "request": self.request,
            "matches": self.matches if self.state != "queued" else [],
            "images": [self.image(index) for index in indices if not refused[index]],
            "refused": [refusal for refusal in refused.values() if refusal],
            "problem": None,
        }


@lru_cache(maxsize=64)
def _mosaic(seed: int, names: tuple[str, ...], novelty: float, palette: str | None) -> Mosaic:
    return compose(seed, list(names), novelty, palette)


def _now(later_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later_s)).isoformat()


def create_app(examples: Path, step_s: float = 0.05, key: str | None = None, kind: Kind = "local-score") -> FastAPI:
    """The fake API.

    Args:
        examples: a folder of songs with its ATTRIBUTION.csv
        step_s: seconds a step takes
        key: what every /v1 call must bear, or None for an open endpoint
        kind: of the generator; the transformer knows neither novelty nor sources
    """
    app = FastAPI()
    jobs: dict[str, Job] = {}
    working: set[asyncio.Task[None]] = set()
    _access(app, key)
    _catalogue(app, examples, kind)

    @app.post("/v1/searches")
    async def search(song: Upload, request: Request, k: Annotated[int, Form()] = 100) -> dict[str, Any]:
        name = await _song_name(request)
        check_song(name, song)
        view = {"duration_s": 15.0, "window_starts_s": [0.0, 4.94, 9.88], "spectrogram": draw_spectrogram(name)}
        matches = [match(rank, name) for rank in range(1, k + 1)]
        return {"release": "fake-1", "encoder": "0" * 12, "song": view, "matches": matches}

    @app.post("/v1/covers")
    async def make(song: Upload, request: Request) -> JSONResponse:
        form = await request.form()
        name = await _song_name(request)
        check_song(name, song)
        sources = form.getlist("source_song_ids") or None
        fields = CoverForm.model_validate({**form, "source_song_ids": sources}).model_dump(exclude={"song"})
        job = Job(name, fields, step_s, kind)
        jobs[job.job_id] = job
        task = asyncio.create_task(job.work())
        working.add(task)
        task.add_done_callback(working.discard)
        return JSONResponse(job.body(), 202, {"Location": f"/v1/covers/{job.job_id}"})

    _following(app, jobs)
    _pictures(app, jobs)
    _exports(app, jobs)
    return app


async def _song_name(request: Request) -> str:
    upload = (await request.form())["song"]
    return str(getattr(upload, "filename", "song"))


def _access(app: FastAPI, key: str | None) -> None:
    """The page, its security policy, the key, and problems."""
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if key and request.url.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
            detail = "every call needs an API key; ask who runs this server for one"
            return _problem(RefusedError(401, "Unauthorized", "unauthorized", detail))
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, refused: RefusedError) -> JSONResponse:
        return _problem(refused)

    @app.exception_handler(ValidationError)
    async def invalid(_: Request, error: ValidationError) -> JSONResponse:
        return _problem(RefusedError(422, "Invalid request", "invalid_request", str(error.errors())))

    @app.get("/")
    @app.get("/covers/{job_id}")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")


def _problem(refused: RefusedError) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, media_type="application/problem+json")


def _catalogue(app: FastAPI, examples: Path, kind: Kind) -> None:
    """What does not depend on a song: the release, the limits, the tracks, the examples."""

    @app.get("/v1/limits")
    async def limits() -> dict[str, Any]:
        return LIMITS

    @app.get("/v1/releases/current")
    async def release() -> dict[str, Any]:
        audio = {"window_s": 5.12, "min_duration_s": 1.0, "max_duration_s": 900.0, "max_bytes": 200_000_000}
        part = {"version": "fake-1", "fingerprint": "0" * 12}
        models = {"encoder": part, "index": part, "generator": part}
        generator = {"generator_kind": kind, "novelty": NOVELTY if kind == "local-score" else None}
        return {"version": "fake-1", **models, "covers": 10_000, "audio": audio, **generator}

    @app.get("/v1/tracks/{song_id}/cover")
    def cover(song_id: str, size: int = 256) -> Response:
        return Response(cover_jpeg(song_id, size), media_type="image/jpeg")

    @app.get("/examples")
    async def listing() -> list[dict[str, str]]:
        fields = ("file", "title", "artist", "genre", "licence", "attribution")
        with (examples / "ATTRIBUTION.csv").open(newline="") as table:
            rows = list(csv.DictReader(table))
        return [{**{field: row[field] for field in fields}, "url": f"/examples/{row['file']}"} for row in rows]

    @app.get("/examples/{file}")
    async def example(file: str) -> FileResponse:
        return FileResponse(examples / Path(file).name)


def _following(app: FastAPI, jobs: dict[str, Job]) -> None:
    """A job from its beginning to its end."""

    @app.get("/v1/covers/{job_id}")
    async def read(job_id: str) -> dict[str, Any]:
        if job_id not in jobs:
            raise RefusedError(404, "Not found", "unknown_job", f"there is no job '{job_id}'")
        return jobs[job_id].body()

    @app.delete("/v1/covers/{job_id}")
    async def cancel(job_id: str) -> dict[str, Any]:
        if jobs[job_id].state not in ENDED:
            await jobs[job_id].change(state="cancelled")
        return jobs[job_id].body()

    @app.get("/v1/covers/{job_id}/events")
    async def events(job_id: str, last_event_id: Annotated[int, Header()] = -1) -> StreamingResponse:
        return StreamingResponse(_events(jobs[job_id], last_event_id), media_type="text/event-stream")

    @app.get("/v1/covers/{job_id}/manifest.json")
    async def manifest(job_id: str) -> dict[str, Any]:
        return jobs[job_id].body()


def _pictures(app: FastAPI, jobs: dict[str, Job]) -> None:
    """The pictures of a job and where they come from."""

    @app.get("/v1/covers/{job_id}/images/{index}")
    def image(job_id: str, index: int, size: int = 512, format: str = "png") -> Response:
        job = jobs[job_id]
        drawn = draw_cover(f"new-{job.request['seed'] + index}", size)
        picture = drawn if job.kind == "transformer" else job.mosaic(index).picture(size)
        return Response(encode(picture, format.upper()), media_type=f"image/{format}")

    @app.get("/v1/covers/{job_id}/images/{index}/sources")
    def sources(job_id: str, index: int) -> dict[str, Any]:
        job = jobs[job_id]
        mosaic = job.mosaic(index)
        found = {one["track"]["song_id"]: one for one in job.matches}
        rows = zip(mosaic.names, mosaic.shares, mosaic.regions, mosaic.colours, strict=True)
        listed = []
        for song_id, share, region, colour in rows:
            track = {name: found[song_id]["track"][name] for name in ("song_id", "title", "artist")}
            measured = {"share": share, "largest_region": region, "colour": colour}
            listed.append({**track, **measured, "cover_url": found[song_id]["cover_url"]})
        return {"sources": listed}

    @app.get("/v1/covers/{job_id}/images/{index}/sources.png")
    def sources_map(job_id: str, index: int) -> Response:
        return Response(encode(jobs[job_id].mosaic(index).map(), "PNG"), media_type="image/png")


def _exports(app: FastAPI, jobs: dict[str, Job]) -> None:
    @app.post("/v1/covers/{job_id}/images/{index}/export")
    def export(job_id: str, index: int, fields: ExportForm) -> Response:
        if fields.title and "$" in fields.title:
            detail = "title on the picture: found a price, allowed no addresses, handles or prices"
            raise RefusedError(422, "Preflight failed", "preflight_failed", detail)
        job = jobs[job_id]
        archive = exported(job.mosaic(index).picture(300), f"cover-{job.request['seed'] + index}", fields)
        return Response(archive, media_type="application/zip")


async def _events(job: Job, seen: int) -> AsyncIterator[str]:
    while True:
        async with job.changed:
            while job.version <= seen and job.state not in ENDED:
                await job.changed.wait()
            seen = job.version
            text = json.dumps(job.body())
        yield f"event: state\nid: {seen}\ndata: {text}\n\n"
        if job.state in ENDED:
            return
