"""A small release of untrained models to serve, and songs to send to it."""

import io
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, IndexSettings, TransformerSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.images.pixels import decode_cover, encode_picture
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_tuned
from gatefold.records import cover_schema
from gatefold.storage.contents import releases
from gatefold.storage.models.encoders import publish_encoder
from gatefold.storage.models.generators import publish_generator
from gatefold.storage.models.indexes import publish_index
from gatefold.storage.tables import tensor_column, write_part
from gatefold.workspace import Workspace

TRACKS = 30
COVER = CoverSettings(size=32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def publish_release(workspace: Workspace) -> None:
    """A release of untrained models over a few drawn covers."""
    settings = EncoderSettings(embed_dim=16, width=16)
    encoder = DualEncoder(settings, AudioSettings(), COVER).eval()
    rng = np.random.default_rng(0)
    folder = Path(workspace.uri.removeprefix("file://")) / "pictures"
    folder.mkdir(parents=True)
    uris, pixels = [], []
    for i in range(TRACKS):
        data = encode_picture(rng.integers(0, 256, (3, 8, 8), np.uint8), 64, "png")
        (folder / f"{i}.png").write_bytes(data)
        uris.append((folder / f"{i}.png").as_uri())
        pixels.append(decode_cover(data, COVER))
    encoder_bundle = publish_encoder(f"{workspace.encoders}/e1", encoder, version="e1", lineage={}, details={})
    vectors = pa.array(encoder.embed_covers(np.stack(pixels)).tolist(), pa.list_(pa.float32(), 16))
    tracks = pa.table(
        {
            "song_id": [f"song/{i}" for i in range(TRACKS)],
            "title": [f"Title {i}" for i in range(TRACKS)],
            "artist": [f"artist {i % 5}" for i in range(TRACKS)],
            "album": pa.nulls(TRACKS, pa.string()),
            "genre": [["jazz", "rock"][i % 2] for i in range(TRACKS)],
            "cover_uri": uris,
            "song_embedding": vectors,
            "cover_embedding": vectors,
        }
    )
    built = build_tuned(*unit_columns(tracks), IndexSettings())
    index = CoverIndex(tracks, encoder_bundle.fingerprint, built.vectors)
    covers = publish_index(f"{workspace.indexes}/i1", index, tracks, built.stats, version="i1", lineage={})
    generator = TransformerSettings(hidden=64, layers=2, heads=2, neighbours=4)
    pipeline = build_pipeline(
        build_transformer(generator, COVER, 16),
        neighbours=4,
        num_inference_steps=5,
        guidance_scale=2.0,
        encoder_fingerprint=encoder_bundle.fingerprint,
    )
    column = tensor_column(pixels, cover_schema(COVER).field("pixels").type)
    stored = pa.table({"song_id": tracks["song_id"], "pixels": column})
    write_part(workspace.covers(COVER), "part", stored)
    generator_bundle = publish_generator(
        f"{workspace.generators}/g1", pipeline, version="g1", lineage={}, details={}, cover=COVER, sources={}
    )
    parts = {
        kind: releases.ReleasePart(
            uri=f"{kind}s/{bundle.version}", version=bundle.version, fingerprint=bundle.fingerprint
        )
        for kind, bundle in (("encoder", encoder_bundle), ("indexe", covers), ("generator", generator_bundle))
    }
    release = releases.Release(
        version="r1",
        created_at="2024-01-01T00:00:00Z",
        encoder=parts["encoder"],
        index=parts["indexe"],
        generator=parts["generator"],
    )
    releases.publish(workspace, release)
    releases.activate(workspace, "r1")


def song(duration_s: float = 3.0, frequency: float = 440.0) -> dict[str, tuple[str, bytes]]:
    sink = io.BytesIO()
    t = np.arange(int(duration_s * 16_000)) / 16_000
    soundfile.write(sink, 0.5 * np.sin(2 * np.pi * frequency * t), 16_000, format="WAV")
    return {"song": ("tone.wav", sink.getvalue())}
