"""What lies of a job in the workspace's store, under `jobs/<job_id>/`: the uploaded song until the job ends, then the
pictures, the maps of their sources and the manifest, each run's in a folder of its own. Knows no database.

Shape legend: G = pixels a side of a new cover.
"""

import asyncio
import io
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from gatefold.errors import GatefoldError, ObjectNotFound, Unavailable, UnknownJob
from gatefold.generator.interface import Attribution, Generated
from gatefold.generator.originality import NewCover, Refused
from gatefold.images.pixels import encode_picture
from gatefold.storage import objects
from gatefold.workspace import Workspace
from serve.jobs.jobs import Job

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
_SONG = "song"
_JOB_ID = re.compile(r"[0-9a-f]{32}")


class JobFiles:
    """The files of a workspace's jobs.

    Args:
        cache_bytes: of decoded pictures that are kept in memory, those that were read last.
    """

    def __init__(self, workspace: Workspace, cache_bytes: int) -> None:
        self._folder = workspace.jobs
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    async def put_song(self, job_id: str, data: bytes) -> None:
        """Stores an uploaded song."""
        await asyncio.to_thread(objects.put, self._uri(job_id, _SONG), data)

    async def read_song(self, job_id: str) -> bytes:
        """The uploaded song. Raises: UnknownJob once the job has ended; Unavailable."""
        return await self._read_object(job_id, self._uri(job_id, _SONG))

    async def delete_song(self, job_id: str) -> None:
        """Deletes the uploaded song, if there is one."""
        await asyncio.to_thread(objects.delete, self._uri(job_id, _SONG))

    async def put_result(
        self, job_id: str, folder: str, covers: Sequence[NewCover | Refused], manifest: bytes
    ) -> None:
        """Stores the pictures of all covers that were not refused, and the manifest. Raises: Unavailable."""
        try:
            await asyncio.to_thread(self._put_result, job_id, folder, covers, manifest)
        except GatefoldError as error:  # whose message names a place in our storage
            logger.error("images of job %s cannot be stored: %s", job_id, error)
            raise Unavailable("the store does not take the images now; try again later") from None

    async def generated(self, job: Job, place: int) -> Generated:
        """A cover, which was not refused, of a job that has succeeded. Raises: UnknownJob once it is deleted."""
        assert job.result is not None
        cover = job.result.covers[place]
        pixels = (await self._read(job, f"{place}.png")).transpose(2, 0, 1)
        attribution = None
        if cover.shares is not None:
            attribution = Attribution(cover.shares, await self._read(job, f"{place}-sources.png"))
        record = cover.record
        return Generated(record["seed"], pixels, attribution, record["palette_from"], tuple(record["enlarged"]))

    async def delete(self, job_id: str) -> None:
        """Deletes all files of a job."""
        await asyncio.to_thread(objects.delete_tree, objects.join(self._folder, job_id))

    async def job_ids_before(self, age_s: float) -> list[str]:
        """job_ids that have files, the last of which was written so many seconds ago or earlier."""
        return await asyncio.to_thread(self._job_ids_before, time.time() - age_s)

    def _job_ids_before(self, seconds: float) -> list[str]:
        written: dict[str, float] = {}
        for found in objects.list_objects(self._folder):
            job_id = objects.relative(found.uri, self._folder).partition("/")[0]
            if _JOB_ID.fullmatch(job_id) and found.modified is not None:
                written[job_id] = max(written.get(job_id, 0.0), found.modified.timestamp())
        return [job_id for job_id, at in written.items() if at < seconds]

    def _put_result(self, job_id: str, folder: str, covers: Sequence[NewCover | Refused], manifest: bytes) -> None:
        for place, cover in enumerate(covers):
            if isinstance(cover, Refused):
                continue
            pixels, attribution = cover.generated.pixels, cover.generated.attribution
            picture = encode_picture(pixels, pixels.shape[-1], "png")
            objects.put(self._uri(job_id, folder, f"{place}.png"), picture)
            if attribution is not None:
                sink = io.BytesIO()
                Image.fromarray(attribution.holder, mode="L").save(sink, "PNG")
                objects.put(self._uri(job_id, folder, f"{place}-sources.png"), sink.getvalue())
        objects.put(self._uri(job_id, folder, "manifest.json"), manifest)

    async def _read(self, job: Job, name: str) -> Pixels:
        assert job.result is not None
        uri = self._uri(job.job_id, job.result.folder, name)
        with self._lock:
            if uri in self._cache:
                self._cache.move_to_end(uri)
                return self._cache[uri]
        pixels = _decoded(await self._read_object(job.job_id, uri))
        with self._lock:
            self._cache[uri] = pixels
            while sum(kept.nbytes for kept in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        return pixels

    async def _read_object(self, job_id: str, uri: str) -> bytes:
        try:
            return await asyncio.to_thread(objects.read, uri)
        except ObjectNotFound:
            raise UnknownJob(f"job '{job_id}' has been deleted with its files") from None
        except GatefoldError as error:  # whose message names a place in our storage
            logger.error("a file of job %s cannot be read: %s", job_id, error)
            raise Unavailable(f"the store does not give out files of job '{job_id}' now; try again later") from None

    def _uri(self, job_id: str, *names: str) -> str:
        return objects.join(self._folder, "/".join([job_id, *names]))


def _decoded(data: bytes) -> Pixels:
    """uint8 [G, G, 3] of a picture, [G, G] of a map: what was written, without loss."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.asarray(picture)
