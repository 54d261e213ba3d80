"""One process that runs jobs, with doubles of what it runs them with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatefold.config import ServeSettings
from gatefold.storage import objects
from gatefold.workspace import Workspace
from serve.active_release import ActiveRelease
from serve.interfaces import ReleaseServices, ServedBundle, ServedRelease
from serve.jobs.files import JobFiles
from serve.jobs.jobs import Job
from serve.jobs.queue import JobQueue
from serve.jobs.runner import JobRunner
from serve.jobs.specs import CoversRequest, SongFile, make_spec
from serve.jobs.store import new_job_id
from serve.optout_filter import OptOuts
from tests.unit.serve.conftest import RELEASE, Encoder, Generator, Ready, Retriever
from tests.unit.serve.jobs.conftest import GENERATION, Jobs, Opened, soon

SONG = b"12345"
NEXT = ServedRelease("r2", ServedBundle("e2", "encoder-2"), RELEASE.index, RELEASE.generator)
POLL_S = 0.01


@dataclass
class Machine:
    """One process that runs jobs, and what it runs them with."""

    jobs: Jobs
    files: JobFiles
    workspace: Workspace
    limits: ServeSettings
    active: ActiveRelease
    encoder: Encoder
    generator: Generator
    runners: list[JobRunner] = field(default_factory=list)

    def switch_to(self, release: ServedRelease) -> None:
        self.active.switch_to(ReleaseServices(release, self.encoder, Retriever(), self.generator, Ready()))

    def run(self, queue: JobQueue | None = None) -> JobRunner:
        runner = JobRunner(self.active, queue or self.jobs.queue, self.files, self.limits)
        runner.start()
        self.runners.append(runner)
        return runner

    async def make(self, seed: int = 40, n: int = 2, caller: str = "me") -> Job:
        job_id = new_job_id()
        asked = CoversRequest(SongFile(SONG, "x.mp3"), GENERATION.request, n, seed, 8, None)
        await self.files.put_song(job_id, SONG)
        with self.active.current() as services:
            spec = await make_spec(services, asked)
        job, *_ = await self.jobs.store.create(job_id, spec, caller=caller)
        return job

    async def until(self, job: Job, state: str) -> Job:
        async def there() -> bool:
            return (await self.jobs.store.get(job.job_id)).state == state

        await soon(there)
        return await self.jobs.store.get(job.job_id)

    def kept(self, job: Job) -> list[str]:
        folder = f"{self.workspace.jobs}/{job.job_id}"
        return [objects.relative(one.uri, folder) for one in objects.list_objects(folder)]


@asynccontextmanager
async def machine(opened: Opened, folder: Path, **limits: Any) -> AsyncIterator[Machine]:
    limits = {"jobs_poll_s": POLL_S, **limits}
    workspace = Workspace(objects.resolve(str(folder / "workspace")))
    async with opened(**limits) as jobs:
        found = Machine(
            jobs,
            JobFiles(workspace, 10_000),
            workspace,
            ServeSettings(**limits),
            ActiveRelease(OptOuts(workspace)),
            Encoder(),
            Generator(),
        )
        found.switch_to(RELEASE)
        try:
            yield found
        finally:
            for runner in found.runners:
                await runner.close()
