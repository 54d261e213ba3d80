"""What one GPU does: pairs a second that the encoder learns from, songs a second that it embeds, and exact search among
1, 10 and 100 million vectors, as far as its memory goes; and, with `--model FOLDER`, pictures of a pre-trained model.

Everything is synthetic and made on the device, so that nothing but the device is measured. Training is also told as a
share of the most that the device multiplies in bfloat16, which is measured beside it and not read from a data sheet;
Fourier transforms are not counted as work. Writes results/gpu.md beside this file. `python -m benchmarks.gpu`, in an
environment with `.[gpu]`; without a GPU it says so and measures nothing.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as fn
from torch.utils.flop_counter import FlopCounterMode

from gatefold.config import PretrainedSettings, Settings, load
from gatefold.generator.interface import Generated, GenerationRequest, OnStep, Sources, Vectors
from gatefold.storage.encoders import build_encoder
from pipelines.learning import Learner
from pipelines.precision import autocast_dtype

RESULTS = Path(__file__).parent / "results" / "gpu.md"
BATCHES = (64, 512, 4_096)
CATALOGUES = (1_000_000, 10_000_000, 100_000_000)
QUERIES, NEAREST, PIECE = 64, 100, 1 << 22
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
    learner = Learner(settings, steps=turns + 2, device=device, prepare=lambda module: module.to(device))
    batch = pairs(settings, batch_size, device)
    with FlopCounterMode(display=False) as counter:
        learner.step(0, batch)
    took = seconds(lambda: learner.step(1, batch), device, turns)
    return batch_size / took, counter.get_total_flops() / took


@torch.inference_mode()
def embedding(settings: Settings, songs: int, device: torch.device, turns: int = TURNS) -> float:
    """Songs a second, from their spectrograms on the device to their embeddings on it."""
    encoder = build_encoder(settings.encoder, settings.audio, settings.cover).eval().to(device)
    windows = pairs(settings, songs, device)["log_mel"]
    dtype = autocast_dtype(device)

    def embed() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            heard = encoder.encode_song(windows.flatten(0, 1).float())
        return fn.normalize(heard.float().view(songs, settings.audio.windows, -1).mean(1), dim=-1)

    return songs / seconds(embed, device, turns)


def unit_vectors(count: int, width: int, device: torch.device) -> Tensor:
    """float32 [count, width] around nothing: for an exact search one direction is as good as another."""
    vectors = torch.empty(count, width, device=device)
    for start in range(0, count, PIECE):
        piece = vectors[start : start + PIECE]
        piece.normal_()
        piece /= piece.norm(dim=1, keepdim=True)
    return vectors


@torch.inference_mode()
def exact_search(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and numbers of the k nearest of float32 [N, D] to each of [B, D], both [B, k], best first."""
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(vectors), PIECE):
        scores, places = (queries @ vectors[start : start + PIECE].T).topk(min(k, len(vectors) - start), dim=1)
        found.append((scores, places + start))
    scores, numbers = (torch.cat(side, dim=1) for side in zip(*found, strict=True))
    best, order = scores.topk(min(k, scores.shape[1]), dim=1)
    return best, numbers.gather(1, order)


class Noise:
    """The first stage of a pre-trained model, at no cost."""

    kind, num_sources, encoder_fingerprint, novelty = "noise", 100, "", None
    reads_pixels, accepts = True, frozenset({"size"})

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
    from gatefold.storage.pretrained import assemble  # takes seconds, and the rest does without

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
    told = [f"| bfloat16 product | {peak / 1e12:,.0f} TFLOP/s | 1.00 |"]
    for size in BATCHES:
        rate, flops = training(settings, size, device)
        told.append(f"| training, batch {size:,} | {rate:,.0f} pairs/s | {flops / peak:.3f} |")
    told.append(f"| embedding, {BATCHES[1]} songs at once | {embedding(settings, BATCHES[1], device):,.0f} songs/s | |")
    width = settings.encoder.embed_dim
    queries = unit_vectors(QUERIES, width, device)
    for count in CATALOGUES:
        needed, free = count * width * 4, torch.cuda.mem_get_info(device)[0]
        if needed + QUERIES * PIECE * 8 > free:
            told.append(f"| exact search among {count:,} | no memory: {needed:,} bytes, {free:,} are free | |")
            continue
        vectors = unit_vectors(count, width, device)
        took = seconds(lambda vectors=vectors: exact_search(vectors, queries, NEAREST), device)  # type: ignore[misc]
        told.append(f"| exact search among {count:,} | {QUERIES / took:,.0f} queries/s, {took * 1e3:,.1f} ms | |")
        del vectors
        torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return told + pretrained(settings.generator.diffusers, device)


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
        f"{torch.__version__}. Medians of {TURNS} turns; synthetic data on the device. Searches: {QUERIES} queries at "
        f"once for the {NEAREST} nearest, float32, width {Settings().encoder.embed_dim}, by torch.",
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
