"""Throughput of one GPU by gatefold's own functions, in under five minutes.

Pairs a second that the encoder learns from (`EncoderTrainer`), covers a second that the transformer learns from
(`TransformerTrainer`), songs a second that are embedded (`DualEncoder.embed_songs`), searches of an index of 1 and 4
million covers (`vectors.on_gpu`, where faiss has GPUs), and covers of the analytic generator; of a pre-trained model
with `--model FOLDER`.

Everything is synthetic. Training is also stated as a share of the most that the device multiplies in bfloat16, which is
measured beside it and not read from a data sheet; Fourier transforms are not counted as work. Writes results/gpu.md
beside this file. `python -m benchmarks.gpu`, in an environment with `.[gpu]`; without a GPU it says so and measures
nothing.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import faiss
import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as fn
from torch.utils.flop_counter import FlopCounterMode

from gatefold.config import PretrainedSettings, Settings, load
from gatefold.generator.interface import Generated, GenerationRequest, OnStep, Sources, Vectors
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, build_local_pipeline
from gatefold.index.vectors import build, on_gpu
from gatefold.storage.models.encoders import build_encoder
from pipelines.training.encoder_trainer import EncoderTrainer
from pipelines.training.transformer_trainer import TransformerTrainer

RESULTS = Path(__file__).parent / "results" / "gpu.md"
BATCHES = (64, 512, 4_096)
CATALOGUES = (1_000_000, 4_000_000)
QUERIES, NEAREST = 64, 100
SIDE = 256  # pixels of a cover of the analytic generator
TURNS = 10
PICTURES = (1, 4)
PICTURE_TURNS = 3


def seconds(do: Callable[[], object], device: torch.device, turns: int = TURNS) -> float:
    """Of one turn, the median of several, after one that is not counted."""
    took = []
    for _ in range(turns + 1):
        began = time.perf_counter()
        do()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return sorted(took[1:])[turns // 2]


def peak_flops(device: torch.device, side: int = 8_192) -> float:
    """Floating-point operations a second of a product of two square matrices of bfloat16."""
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)


def pairs(settings: Settings, count: int, device: torch.device) -> dict[str, Tensor]:
    """A batch as `stream_pairs` gives it."""
    audio, size = settings.audio, settings.cover.size
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(count, audio.windows, audio.n_mels, audio.frames, generator=generator).to(torch.float16)
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    genre = torch.randint(8, (count,), generator=generator)
    return {"log_mel": log_mel.to(device), "pixels": pixels.to(device), "genre": genre.to(device)}


def training(settings: Settings, batch_size: int, device: torch.device, turns: int = TURNS) -> tuple[float, float]:
    """Pairs a second that the encoder learns from, and operations a second that this takes."""
    settings = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"batch_size": batch_size})})
    trainer = EncoderTrainer(settings, steps=turns + 2, device=device, prepare=lambda module: module.to(device))
    batch = pairs(settings, batch_size, device)
    with FlopCounterMode(display=False) as counter:
        trainer.step(0, batch)
    took = seconds(lambda: trainer.step(1, batch), device, turns)
    return batch_size / took, counter.get_total_flops() / took


def transformer_training(settings: Settings, batch_size: int, device: torch.device, turns: int = TURNS) -> float:
    """Covers a second that the transformer learns from."""
    transformer = settings.generator.transformer.model_copy(update={"batch_size": batch_size, "steps": turns + 2})
    generator = settings.generator.model_copy(update={"transformer": transformer})
    settings = settings.model_copy(update={"generator": generator})
    trainer = TransformerTrainer(settings, device=device, prepare=lambda module: module.to(device))
    width, draw = settings.encoder.embed_dim, torch.Generator().manual_seed(0)
    batch = {
        "pixels": pairs(settings, batch_size, device)["pixels"],
        "song_embedding": fn.normalize(torch.randn(batch_size, width, generator=draw), dim=-1).to(device),
        "neighbours": fn.normalize(
            torch.randn(batch_size, transformer.neighbours, width, generator=draw), dim=-1
        ).to(device),
    }  # fmt: skip
    return batch_size / seconds(lambda: trainer.step(0, batch), device, turns)


def embedding(settings: Settings, songs: int, device: torch.device, turns: int = TURNS) -> float:
    """Songs a second, from their spectrograms in memory to their embeddings there, as the stage embeds a block."""
    encoder = build_encoder(settings.encoder, settings.audio, settings.cover).eval().requires_grad_(False).to(device)
    windows = list(pairs(settings, songs, torch.device("cpu"))["log_mel"].numpy())
    return songs / seconds(lambda: encoder.embed_songs(windows), device, turns)


def unit_vectors(count: int, width: int) -> Vectors:
    """float32 [count, width] around nothing: for an exact search one direction is as good as another."""
    vectors = np.random.default_rng(0).standard_normal((count, width), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def searching(count: int, width: int, device: str, turns: int = TURNS) -> float | None:
    """Seconds of a search of QUERIES in a flat index on the device; None where faiss does not search there."""
    copy = on_gpu(build(unit_vectors(count, width), "flat"), device)
    if copy is None:
        return None
    queries = unit_vectors(QUERIES, width)
    return seconds(lambda: copy.search(queries, NEAREST), torch.device(device), turns)


def analytic(size: int, device: torch.device, turns: int = PICTURE_TURNS) -> float:
    """Seconds a cover of `generator.kind: local-score`, of a job of four from a hundred sources."""
    curve = [CurvePoint(Parameters(0.6, 13, 0.03, 0.18), 0.2, 0.0)]
    pipeline = build_local_pipeline(curve, 0, num_sources=100, size=size, encoder_fingerprint="")
    pipeline.compute_on(device, half_precision=device.type != "cpu")
    pixels = np.random.default_rng(0).integers(256, size=(100, 3, size, size), dtype=np.uint8)
    sources = Sources(tuple(map(str, range(100))), np.linspace(0.7, 0.5, 100).astype(np.float32), pixels)
    seeds = range(PICTURES[-1])
    song, request = np.zeros(1, np.float32), GenerationRequest(size=size)
    took = seconds(
        lambda: pipeline.generate(song, sources, seeds=seeds, request=request, on_step=lambda *_: None), device, turns
    )
    return took / len(seeds)


class Noise:
    """The first stage of a pre-trained model, at no cost."""

    kind, num_sources, encoder_fingerprint = "noise", 100, ""
    reads_pixels, accepts = True, frozenset({"size"})
    novelty: float | None = None

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        del song_embedding, sources, on_step
        size = request.size or 256
        return [Generated(seed, np.random.default_rng(seed).integers(256, size=(3, size, size), dtype=np.uint8))
                for seed in seeds]  # fmt: skip


def pretrained(settings: PretrainedSettings, device: torch.device, turns: int = PICTURE_TURNS) -> list[str]:
    """Lines of the table: seconds a picture of `generator.kind: diffusers`, alone and in a job of several."""
    if settings.model is None:
        return ["| pre-trained model | not measured: no checkpoint was named; `--model FOLDER` does | |"]
    from gatefold.storage.models.pretrained_generators import assemble  # takes seconds, and the rest does without

    generator = assemble(settings, Noise(), device=device.type)
    pixels = np.random.default_rng(0).integers(256, size=(settings.image_prompts, 3, 256, 256), dtype=np.uint8)
    sources = Sources(tuple(map(str, range(len(pixels)))), np.ones(len(pixels), np.float32), pixels)

    def generate(count: int) -> None:
        song = np.zeros(1, np.float32)
        generator.generate(song, sources, seeds=range(count), request=GenerationRequest(), on_step=lambda *_: None)

    lines = []
    for count in PICTURES:
        took = seconds(lambda count=count: generate(count), device, turns) / count  # type: ignore[misc]
        what = f"{generator.size} px, {settings.num_inference_steps} steps at strength {settings.strength}"
        lines.append(f"| pre-trained model, {count} at once, {what} | {took:,.2f} s a picture | |")
    if device.type == "cuda":
        lines.append(f"| its peak memory | {torch.cuda.max_memory_allocated(device):,} bytes | |")
    return lines


def rows(settings: Settings, device: torch.device) -> list[str]:
    """The table."""
    peak = peak_flops(device)
    lines = [f"| bfloat16 product | {peak / 1e12:,.0f} TFLOP/s | 1.00 |"]
    for size in BATCHES:
        rate, flops = training(settings, size, device)
        lines.append(f"| training, batch {size:,} | {rate:,.0f} pairs/s | {flops / peak:.3f} |")
    covers = transformer_training(settings, BATCHES[1], device)
    lines.append(f"| training of the transformer, batch {BATCHES[1]:,} | {covers:,.0f} covers/s | |")
    songs = embedding(settings, BATCHES[1], device)
    lines.append(f"| embedding, {BATCHES[1]} songs at once | {songs:,.0f} songs/s | |")
    for count in CATALOGUES:
        took = searching(count, settings.encoder.embed_dim, device.type)
        speed = "not measured: faiss has no GPU here" if took is None else f"{QUERIES / took:,.0f} queries/s"
        lines.append(f"| exact search among {count:,} | {speed} | |")
    lines.append(f"| analytic generator, {SIDE} px, four at once | {analytic(SIDE, device):,.2f} s a picture | |")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return lines + pretrained(settings.generator.diffusers, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a checkpoint that diffusers loads")
    parser.add_argument("--ip-adapter", help="folder of an IP-Adapter for it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    asked = parser.parse_args()
    places = {"model": asked.model, "ip_adapter": asked.ip_adapter}
    named = [f"generator.diffusers.{setting}={place}" for setting, place in places.items() if place]
    settings = load(overrides=[*named, *asked.set])
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: torch sees no CUDA device here, so nothing was measured; run this on a GPU machine")
    device = torch.device("cuda")
    lines = [
        f"`python -m benchmarks.gpu`, {date.today().isoformat()}, {torch.cuda.get_device_name(device)}, torch "
        f"{torch.__version__}. Medians of {TURNS} turns; synthetic data. Searches: {QUERIES} queries at once for the "
        f"{NEAREST} nearest, float32, width {settings.encoder.embed_dim}, by faiss {faiss.__version__}.",
        "",
        "| what | rate | share of the peak |",
        "|---|---:|---:|",
        *rows(settings, device),
        "",
    ]
    RESULTS.write_text("\n".join(lines))
    Console().print("\n".join(lines), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
