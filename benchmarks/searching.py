"""How many searches a second the endpoint answers: the release, the deployments and serve/serve.yaml as they are
served, 32 clients at once on the same machine, which take a part of its cores; as it comes, and with
infra/throughput.env. Used by benchmarks/retrieval.py."""

import asyncio
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import pyarrow as pa
import ray

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, TransformerSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.index.retrieval import CoverIndex
from gatefold.index.tuning import TunedIndex
from gatefold.index.vectors import Vectors
from gatefold.storage import objects
from gatefold.storage.bundles import Bundle
from gatefold.storage.contents import releases
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.storage.models.encoders import publish_encoder
from gatefold.storage.models.generators import publish_generator
from gatefold.storage.models.indexes import publish_index
from gatefold.workspace import Workspace
from pipelines.cluster import connect
from serve.deploy import deploy, stop

CONFIG = Path(__file__).parents[1] / "serve" / "serve.yaml"
THROUGHPUT = Path(__file__).parents[1] / "infra" / "throughput.env"
CLIENTS = 32
WARMING_S, MEASURED_S = 3.0, 10.0
Bodies = Sequence[bytes] | None


@dataclass(frozen=True)
class Load:
    """What clients send again and again; a GET where there are no bodies."""

    name: str
    path: str
    bodies: Bodies
    matches: int


def publish_release(workspace: Workspace, built: TunedIndex, table: pa.Table) -> Release:
    """The index over the table, between an untrained encoder and an untrained generator; active."""
    settings, cover, transformer = EncoderSettings(), CoverSettings(), TransformerSettings()
    encoder = DualEncoder(settings, AudioSettings(), cover).eval()
    encoder_bundle = publish_encoder(f"{workspace.encoders}/e1", encoder, version="e1", lineage={}, details={})
    index = CoverIndex(table, encoder_bundle.fingerprint, built.vectors)
    index_bundle = publish_index(f"{workspace.indexes}/i1", index, table, built.stats, version="i1", lineage={})
    pipeline = build_pipeline(
        build_transformer(transformer, cover, settings.embed_dim),
        neighbours=transformer.neighbours,
        num_inference_steps=transformer.num_inference_steps,
        guidance_scale=transformer.guidance_scale,
        encoder_fingerprint=encoder_bundle.fingerprint,
    )
    generator_bundle = publish_generator(
        f"{workspace.generators}/g1", pipeline, version="g1", lineage={}, details={}, cover=cover, sources={}
    )

    def part(bundle: Bundle) -> ReleasePart:
        uri = objects.relative(bundle.uri, workspace.uri)
        return ReleasePart(uri=uri, version=bundle.version, fingerprint=bundle.fingerprint)

    release = Release(
        version="r1",
        created_at="2026-01-01T00:00:00+00:00",
        encoder=part(encoder_bundle),
        index=part(index_bundle),
        generator=part(generator_bundle),
    )
    releases.publish(workspace, release)
    return releases.activate(workspace, release.version)


def loads(table: pa.Table, queries: Vectors, encoder: str) -> list[Load]:
    """By id and by embedding; for 100 and for 10. First what any route costs."""
    rows = np.random.default_rng(0).integers(0, table.num_rows, 1_000)
    known = [{"song_id": song_id} for song_id in table["song_id"].take(pa.array(rows)).to_pylist()]
    numbers = [{"embedding": query.tolist(), "encoder": encoder} for query in queries]
    made = [Load("a route that does nothing", "/v1/health/live", None, 0)]
    for k in (100, 10):
        for name, asked in (("by song_id", known), ("by embedding", numbers)):
            bodies = [json.dumps({**one, "k": k}).encode() for one in asked]
            made.append(Load(f"{name}, k {k}", "/v1/searches", bodies, k))
    return made


async def latencies(url: str, load: Load) -> list[float]:
    """Seconds that each answer took, over MEASURED_S, from all clients together."""
    took: list[float] = []
    began = time.perf_counter() + WARMING_S

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        asked = number
        while (sent := time.perf_counter()) < began + MEASURED_S:
            body = None if load.bodies is None else load.bodies[asked % len(load.bodies)]
            asked += CLIENTS
            headers = {} if body is None else {"Content-Type": "application/json"}
            method = "GET" if body is None else "POST"
            async with session.request(method, load.path, data=body, headers=headers) as response:
                answer = await response.read()
            if response.status != 200 or answer.count(b'"rank"') != load.matches:
                raise RuntimeError(f"{load.name}: HTTP {response.status}, {answer[:200]!r}")
            if sent >= began:
                took.append(time.perf_counter() - sent)

    connector = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        await asyncio.gather(*(client(session, number) for number in range(CLIENTS)))
    return took


def served(built: TunedIndex, table: pa.Table, queries: Vectors, say: Callable[[str], None]) -> list[str]:
    """The tables of the endpoint: as it comes, and as infra/throughput.env makes it."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(objects.resolve(folder))
        encoder = publish_release(workspace, built, table).encoder.fingerprint
        say("the release is published")
        for name, environment in (("as it comes", {}), (f"with infra/{THROUGHPUT.name}", throughput())):
            lines += [
                f"Through HTTP {name}, {CLIENTS} clients at once on the same machine, {MEASURED_S:.0f} s each:",
                "",
                "| request | queries/s | p50, ms | p99, ms |",
                "|---|---:|---:|---:|",
                *measured(workspace, loads(table, queries, encoder), environment, say),
                "",
            ]
    return lines


def throughput() -> dict[str, str]:
    lines = THROUGHPUT.read_text().splitlines()
    return dict(line.split("=") for line in lines if not line.startswith("#"))


def measured(
    workspace: Workspace, loads: Sequence[Load], environment: dict[str, str], say: Callable[[str], None]
) -> list[str]:
    """The rows of one table, of an endpoint whose processes are started in this environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    lines = []
    os.environ.update(environment)
    connect()
    try:
        url = deploy(CONFIG, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port).url
        say(f"the endpoint answers at {url}")
        for load in loads:
            took = np.array(asyncio.run(latencies(url, load))) * 1000
            p50, p99 = np.percentile(took, [50, 99])
            lines.append(f"| {load.name} | {len(took) / MEASURED_S:,.0f} | {p50:,.1f} | {p99:,.1f} |")
            say(lines[-1])
        stop()
    finally:
        ray.shutdown()
        for name in environment:
            del os.environ[name]
    return lines
