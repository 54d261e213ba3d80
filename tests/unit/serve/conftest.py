"""What the tests of serve/ share: hand-written stages that need neither Ray nor models, and the API around them."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gatefold.config import AudioSettings, CoverSettings, ServeSettings
from gatefold.errors import IndexNotReady, SilentAudio, UnknownTrack
from gatefold.generator.interface import Attribution, Generated, Share
from gatefold.generator.originality import Likeness, NewCover, Refused
from gatefold.index.interface import IndexedTrack
from gatefold.records import Match, Track
from gatefold.storage import objects
from gatefold.workspace import Workspace
from serve.access.callers import Allowance
from serve.access.keys import KeyStore
from serve.active_release import ActiveRelease
from serve.api.application import create_app
from serve.api.exports import ExportOptions
from serve.api.page import Examples
from serve.api.thumbnails import Thumbnails
from serve.batches.store import BatchStore
from serve.batches.worker import BatchWorker
from serve.interfaces import (
    EncoderFacts,
    GenerationJob,
    GenerationResult,
    GeneratorFacts,
    IndexFacts,
    Pictures,
    Query,
    ReleaseServices,
    ServedBundle,
    ServedRelease,
    SongEmbedding,
    SongQuery,
    Vector,
)
from serve.jobs.database import Database, with_database
from serve.jobs.files import JobFiles
from serve.jobs.queue import JobQueue
from serve.jobs.runner import JobRunner
from serve.middleware.keys import Keys
from serve.observability import metrics, tracing
from serve.optout_filter import OptOuts
from tests.observed import Counted, Traced
from tests.postgres import PostgresServer

WIDTH = 4
COVER = CoverSettings(size=32)
RELEASE = ServedRelease(
    "r1", ServedBundle("e1", "encoder-1"), ServedBundle("i1", "index-1"), ServedBundle("g1", "generator-1")
)


@dataclass
class Encoder:
    """Encodes the length of the file; a file that begins with "silence" is silent, "bug" breaks it."""

    encoded: list[str] = field(default_factory=list)

    async def encode_song(self, data: bytes, name: str, spectrogram: bool) -> SongEmbedding:
        self.encoded.append(name)
        if data.startswith(b"silence"):
            raise SilentAudio(f"song '{name}': its loudest sample is -90 dBFS, a song must exceed -60 dBFS")
        if data.startswith(b"bug"):
            raise RuntimeError("secret: 10.0.0.7")
        embedding = np.zeros(WIDTH, np.float32)
        embedding[len(data) % WIDTH] = 1
        return SongEmbedding(embedding, float(len(data)), [0.0, 4.9], b"\x89PNG" if spectrogram else None)

    async def embed_covers(self, pixels: Pictures) -> Vector:
        return np.tile(np.eye(WIDTH, dtype=np.float32)[0], (len(pixels), 1))

    async def describe(self) -> EncoderFacts:
        return EncoderFacts(AudioSettings(), RELEASE.encoder.fingerprint)


@dataclass
class Retriever:
    """Knows tracks "t0", "t1", ... in this order of nearness; "t0" has a cover at `cover_uri`, "mute" has no song."""

    cover_uri: str | None = None
    asked: list[Query] = field(default_factory=list)

    async def search(self, query: Query | SongQuery) -> list[Match]:
        if isinstance(query, SongQuery):
            query = query.to_query(await self.track(query.song_id))
        self.asked.append(query)
        ids = [f"t{i}" for i in range(20) if f"t{i}" not in query.filters.exclude_song_ids]
        return [match(song_id, rank) for rank, song_id in enumerate(ids[: query.k], start=1)]

    async def track(self, song_id: str) -> IndexedTrack:
        if song_id == "mute":
            return IndexedTrack(Track(song_id=song_id), None, None, None)
        if not song_id.startswith("t"):
            raise UnknownTrack(f"track '{song_id}' is not in this index of 20 tracks")
        embedding = np.eye(WIDTH, dtype=np.float32)[1]
        return IndexedTrack(Track(song_id=song_id, title="T", artist="a/b"), self.cover_uri, embedding, embedding)

    async def describe(self) -> IndexFacts:
        return IndexFacts(20, WIDTH)


@dataclass
class Generator:
    """Generates grey squares as dark as their seeds, half from the first source and half from the last; while `hold` is
    set, it stands still after half of the steps. It refuses the seeds in `refuses`."""

    hold: bool = False
    failure: Exception | None = None
    jobs: list[GenerationJob] = field(default_factory=list)
    stopped: int = 0
    refuses: set[int] = field(default_factory=set)
    kind: str = "local-score"

    async def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        self.jobs.append(job)
        try:
            yield 0.0
            yield 0.5
            while self.hold:
                await asyncio.sleep(0.005)
            if self.failure is not None:
                raise self.failure
            yield 1.0
            sources = [match("t0", 1), match("t1", 2)]
            yield GenerationResult(tuple(self._cover(seed) for seed in job.seeds), tuple(sources))
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise

    def _cover(self, seed: int) -> NewCover | Refused:
        holder = np.zeros((8, 8), np.uint8)
        holder[4:] = 1
        attribution = Attribution((Share("t0", 0.5, 0.5), Share("t1", 0.5, 0.5)), holder)
        generated = Generated(seed, np.full((3, 8, 8), seed % 256, np.uint8), attribution, palette_from="t1")
        if seed in self.refuses:
            return Refused(seed, "too_much_of_one_source", 0.6, 0.25, "t0", 4, generated)
        return NewCover(generated, 1, Likeness(0.5, "t0"))

    async def describe(self) -> GeneratorFacts:
        accepts = {
            "local-score": frozenset({"size", "novelty", "palette_from"}),
            "transformer": frozenset({"size", "num_inference_steps", "guidance_scale"}),
        }[self.kind]
        novelty = 0.5 if self.kind == "local-score" else None
        return GeneratorFacts(self.kind, 3, accepts, novelty, {}, COVER)

    async def capacity(self) -> int:
        return 8


def match(song_id: str, rank: int) -> Match:
    """As the retriever gives it."""
    return Match(rank=rank, score=1 - rank / 100, track=Track(song_id=song_id, artist="a/b"))


@dataclass
class Ready:
    missing: str | None = None

    async def check(self) -> None:
        if self.missing:
            raise IndexNotReady(f"no replica is running yet of: {self.missing}")


@dataclass
class Endpoint:
    """The API in this process, and the doubles behind it."""

    client: TestClient
    encoder: Encoder
    retriever: Retriever
    generator: Generator
    ready: Ready
    active: ActiveRelease
    workspace: Workspace
    """where its opt-outs and jobs lie"""
    build: Callable[[], FastAPI]
    """the same API for another event loop, as another replica with the same database"""


@pytest.fixture
def endpoint(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., Endpoint]]:
    """Makes an endpoint; `limits` and `keys` as they would be configured, `examples` a folder."""
    opened: list[tuple[TestClient, JobRunner, BatchWorker, Database]] = []

    def make(
        limits: ServeSettings | None = None, keys: str = "", examples: Path | None = None, cover_uri: str | None = None,
        exports: ExportOptions | None = None, webhooks: bool = True,
    ) -> Endpoint:
        limits = (limits or ServeSettings()).model_copy(update={"jobs_poll_s": 0.01})
        encoder, retriever, generator, ready = Encoder(), Retriever(cover_uri), Generator(), Ready()
        workspace = Workspace(objects.resolve(str(tmp_path / "workspace")))
        active = ActiveRelease(OptOuts(workspace))
        active.switch_to(ReleaseServices(RELEASE, encoder, retriever, generator, ready))
        files = JobFiles(workspace, limits.image_cache_bytes)

        def build() -> FastAPI:
            return create_app(
                active,
                limits=limits,
                database=Database(sqlite_url),
                files=files,
                keys=Keys.from_environment({"GATEFOLD_API_KEYS": keys}),
                examples=Examples(examples),
                thumbnails=Thumbnails(workspace, limits.thumbnail_cache_bytes),
                exports=exports,
                webhooks=webhooks,
            )

        client = TestClient(build(), base_url="http://localhost")
        client.__enter__()  # one event loop for all of a test's requests, as jobs outlive theirs
        runner_database = Database(sqlite_url)  # as another process has it
        runner = JobRunner(active, JobQueue(runner_database, limits), files, limits)
        assert client.portal is not None
        worker = BatchWorker(active, BatchStore(runner_database, limits), limits)
        client.portal.call(_start, runner, worker)
        opened.append((client, runner, worker, runner_database))
        return Endpoint(client, encoder, retriever, generator, ready, active, workspace, build)

    yield make
    for client, runner, worker, database in opened:
        assert client.portal is not None
        client.portal.call(worker.close)
        client.portal.call(runner.close)
        client.portal.call(database.close)
        client.__exit__(None, None, None)


async def _start(runner: JobRunner, worker: BatchWorker) -> None:
    runner.start()
    worker.start()


@pytest.fixture
def new_key(sqlite_url: str) -> Callable[..., str]:
    """Makes a key in the database of this test's endpoint, and gives its secret; `allowed` as in Allowance."""

    def make(*scopes: str, expires_at: datetime | None = None, **allowed: int) -> str:
        wanted = Allowance(**allowed)
        made = with_database(sqlite_url, lambda found: KeyStore(found).create("Acme", scopes, wanted, expires_at))
        return asyncio.run(made)[1]

    return make


def bearer(secret: str) -> dict[str, str]:
    """The headers of a request with this key."""
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of a session."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a database with the tables and nothing in them; a copy takes a tenth of the time."""
    return prepared(postgres.new_database()).rpartition("/")[2]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the same kind."""
    path = tmp_path_factory.mktemp("sqlite") / "jobs.sqlite"
    prepared(f"sqlite:///{path}")
    return path


def prepared(url: str) -> str:
    """The URL of this database, whose tables are up to date now."""

    async def nothing(_: Database) -> None:
        pass

    asyncio.run(with_database(url, nothing))
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """Of a database with the tables and nothing in them."""
    shutil.copy(sqlite_template, tmp_path / "jobs.sqlite")
    return f"sqlite:///{tmp_path}/jobs.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Of such a database, of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(request.getfixturevalue("postgres_template"))


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database without tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs/jobs.sqlite"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def counted() -> Iterator[Counted]:
    """All that metrics count meanwhile."""
    registry = Counted()
    metrics.use(registry)
    yield registry
    metrics.use(metrics.NoRegistry())


@pytest.fixture
def traced() -> Iterator[Traced]:
    """All spans of the meantime."""
    tracer = Traced()
    tracing.use(tracer)
    yield tracer
    tracing.use(None)
