"""A small house that answers as the real one does: same addresses, same shapes, pictures drawn with a ruler.

It serves the real page, so that the page can be built and tried where there is no model. It knows nothing of sound but
what the first bytes of a file say.
"""

import asyncio
import base64
import csv
import hashlib
import io
import json
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Header, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image, ImageDraw, ImageFilter

STATIC = Path(__file__).parents[2] / "serve" / "static"
CSP = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:"
GENRES = ["Folk", "Jazz", "Classical", "Electronic", "Hip-Hop", "Blues", "Chiptune", "Polka", "Lo-fi"]
FIRST = ["Quiet", "Glass", "Northern", "Paper", "Second", "Velvet", "Salt", "Hollow", "Late", "Copper"]
SECOND = ["Rooms", "Harbour", "Machines", "Orchard", "Weather", "Telephone", "Summer", "Atlas", "Parade", "Snow"]
NAMES = ["Ana Ruiz", "The Low Tide", "Mori Kessler", "Dust Choir", "Lena & the Locks", "Otis Vane", "Plaza Norte"]
MAGIC = {b"RIFF": 0, b"OggS": 0, b"fLaC": 0, b"ID3": 0, b"\xff\xfb": 0, b"ftyp": 4}
ENDED = {"succeeded", "failed", "cancelled"}
NEIGHBOURS = 8
Upload = Annotated[bytes, File()]


class RefusedError(Exception):
    """What the fake house will not do, as problem+json says it."""

    def __init__(self, status: int, title: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}


def _colours(chance: random.Random) -> list[tuple[int, int, int]]:
    hue = chance.random()
    parts = [(hue + shift) % 1 for shift in (0, 0.08, 0.5, 0.62)]
    return [
        tuple(int(255 * (light + 0.35 * math.cos(6.283 * (part + third / 3)))) for third in range(3))  # type: ignore[misc]
        for part, light in zip(parts, (0.25, 0.5, 0.62, 0.4), strict=True)
    ]


def draw_cover(name: str, size: int) -> Image.Image:
    """A square picture, the same for the same name."""
    chance = random.Random(name)
    colours = _colours(chance)
    image = Image.new("RGB", (size, size), colours[0])
    pen = ImageDraw.Draw(image)
    kind = chance.randrange(4)
    for step in range(chance.randint(3, 9)):
        colour = colours[1 + step % 3]
        x, y, reach = (chance.random() * size for _ in range(3))
        if kind == 0:
            pen.ellipse([x - reach / 2, y - reach / 2, x + reach / 2, y + reach / 2], fill=colour)
        elif kind == 1:
            pen.rectangle([0, y, size, y + reach / 6], fill=colour)
        elif kind == 2:
            pen.polygon([(x, y), (y, reach), (reach, x)], fill=colour)
        else:
            low, high = size / 2 - reach, size / 2 + reach
            pen.arc([low, low, high, high], 0, 360, fill=colour, width=max(2, size // 24))
    return image.filter(ImageFilter.GaussianBlur(size / 60)) if chance.random() < 0.4 else image


def draw_spectrogram(name: str) -> str:
    """A picture of partials and beats as a data URI, time to the right, pitch upwards."""
    chance = random.Random(name)
    width, height, base, beat = 512, 80, chance.uniform(5, 9), chance.uniform(18, 44)
    grey = bytearray()
    for y in range(height):
        pitch = height - 1 - y
        for x in range(width):
            note = base * (1 + 0.25 * ((x // 64 * 7) % 5))
            partial = math.exp(-((pitch % note - note / 2) ** 2) / 3) * math.exp(-pitch / 38)
            hit = math.exp(-(x % beat) / 6) * 0.55
            grey.append(min(255, int(255 * (0.75 * partial + hit * math.exp(-pitch / 60) + 0.08 * chance.random()))))
    picture = _encode(Image.frombytes("L", (width, height), bytes(grey)), "PNG")
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def match(rank: int, name: str) -> dict[str, Any]:
    """The match at a rank for a song: the same for the same name."""
    chance = random.Random(f"{name}/{rank}")
    song_id = f"song-{chance.randrange(10_000):04d}"
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
    """One order of covers, worked through in even steps."""

    def __init__(self, name: str, request: dict[str, Any], step_s: float) -> None:
        self.job_id = hashlib.sha256(f"{name}{request}{random.random()}".encode()).hexdigest()[:12]
        self.name, self.request, self.step_s = name, request, step_s
        self.state, self.progress, self.version = "queued", 0.0, 0
        self.created_at = _now()
        self.finished_at: str | None = None
        self.changed = asyncio.Condition()

    async def change(self, **values: Any) -> None:
        """Sets values and wakes those who follow."""
        async with self.changed:
            self.__dict__.update(values)
            self.version += 1
            if self.state in ENDED:
                self.finished_at = _now()
            self.changed.notify_all()

    async def work(self) -> None:
        """From queued to an end, unless cancelled on the way."""
        await asyncio.sleep(self.step_s)
        for step in range(self.request["num_inference_steps"]):
            if self.state == "cancelled":
                return
            await self.change(state="running", progress=step / self.request["num_inference_steps"])
            await asyncio.sleep(self.step_s)
        if self.state != "cancelled":
            await self.change(state="succeeded", progress=1.0)

    def body(self) -> dict[str, Any]:
        """The job as the API shows it."""
        matches = [match(rank, self.name) for rank in range(1, NEIGHBOURS + 1)]
        seeds = [self.request["seed"] + index for index in range(self.request["n"])]
        images = [
            {"index": index, "seed": seed, "url": f"/v1/covers/{self.job_id}/images/{index}", "closest": matches[index]}
            for index, seed in enumerate(seeds)
        ]
        return {
            "job_id": self.job_id,
            "state": self.state,
            "position": 0 if self.state == "queued" else None,
            "progress": self.progress,
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "release": "fake-1",
            "request": self.request,
            "matches": matches if self.state != "queued" else [],
            "images": images if self.state == "succeeded" else [],
            "problem": None,
        }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def create_app(examples: Path, step_s: float = 0.05, key: str | None = None) -> FastAPI:
    """The fake house.

    Args:
        examples: a folder of songs with its ATTRIBUTION.csv
        step_s: seconds a denoising step takes
        key: what every /v1 call must bear, or None for an open house
    """
    app = FastAPI()
    jobs: dict[str, Job] = {}
    working: set[asyncio.Task[None]] = set()
    _doors(app, key)
    _catalogue(app, examples)

    @app.post("/v1/searches")
    async def search(song: Upload, request: Request, k: Annotated[int, Form()] = 100) -> dict[str, Any]:
        name = await _song_name(request)
        check_song(name, song)
        heard = {"duration_s": 15.0, "window_starts_s": [0.0, 4.94, 9.88], "spectrogram": draw_spectrogram(name)}
        matches = [match(rank, name) for rank in range(1, k + 1)]
        return {"release": "fake-1", "encoder": "0" * 12, "song": heard, "matches": matches}

    @app.post("/v1/covers")
    async def make(
        song: Upload,
        request: Request,
        seed: Annotated[int, Form()],
        n: Annotated[int, Form()] = 4,
        guidance_scale: Annotated[float, Form()] = 2.0,
    ) -> JSONResponse:
        name = await _song_name(request)
        check_song(name, song)
        order = {"n": n, "seed": seed, "guidance_scale": guidance_scale, "num_inference_steps": 25, "size": 512}
        job = Job(name, order, step_s)
        jobs[job.job_id] = job
        task = asyncio.create_task(job.work())
        working.add(task)
        task.add_done_callback(working.discard)
        return JSONResponse(job.body(), 202, {"Location": f"/v1/covers/{job.job_id}"})

    _following(app, jobs)
    return app


async def _song_name(request: Request) -> str:
    upload = (await request.form())["song"]
    return str(getattr(upload, "filename", "song"))


def _doors(app: FastAPI, key: str | None) -> None:
    """The page, its security policy, the key, and problems."""
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if key and request.url.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
            detail = "this house answers only to its key; ask its keeper for one"
            return _problem(RefusedError(401, "Unauthorized", "unauthorized", detail))
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CSP
        return response

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, refused: RefusedError) -> JSONResponse:
        return _problem(refused)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")


def _problem(refused: RefusedError) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, media_type="application/problem+json")


def _catalogue(app: FastAPI, examples: Path) -> None:
    """What does not depend on a song: the release, the tracks, the examples."""

    @app.get("/v1/releases/current")
    async def release() -> dict[str, Any]:
        audio = {"window_s": 5.12, "min_duration_s": 1.0, "max_duration_s": 900.0, "max_bytes": 200_000_000}
        part = {"version": "fake-1", "fingerprint": "0" * 12}
        models = {"encoder": part, "index": part, "generator": part}
        return {"version": "fake-1", **models, "covers": 10_000, "audio": audio}

    @app.get("/v1/tracks/{song_id}/cover")
    async def cover(song_id: str, size: int = 256) -> Response:
        return Response(_encode(draw_cover(song_id, size), "JPEG"), media_type="image/jpeg")

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
    """A job from its birth to its pictures."""

    @app.get("/v1/covers/{job_id}")
    async def read(job_id: str) -> dict[str, Any]:
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

    @app.get("/v1/covers/{job_id}/images/{index}")
    async def image(job_id: str, index: int, size: int = 512, format: str = "png") -> Response:
        seed = jobs[job_id].request["seed"] + index
        return Response(_encode(draw_cover(f"new-{seed}", size), format.upper()), media_type=f"image/{format}")


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
