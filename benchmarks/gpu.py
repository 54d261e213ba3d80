"""What one GPU does: pairs a second that the encoder learns from, songs a second that it embeds, and exact search among
1, 10 and 100 million vectors, as far as its memory goes.

Everything is synthetic and made on the device, so that nothing but the device is measured. Training is also told as a
share of the most that the device multiplies in bfloat16, which is measured beside it and not read from a data sheet;
Fourier transforms are not counted as work. Writes results/gpu.md beside this file. `python -m benchmarks.gpu`, in an
environment with `.[gpu]`; without a GPU it says so and measures nothing.
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as fn
from torch.utils.flop_counter import FlopCounterMode

from gatefold.config import Settings
from gatefold.storage.encoders import build_encoder
from pipelines.learning import Learner
from pipelines.precision import autocast_dtype

RESULTS = Path(__file__).parent / "results" / "gpu.md"
BATCHES = (64, 512, 4_096)
CATALOGUES = (1_000_000, 10_000_000, 100_000_000)
QUERIES, NEAREST, PIECE = 64, 100, 1 << 22
TURNS = 10


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
    return told


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
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
        *rows(Settings(), device),
        "",
    ]
    RESULTS.write_text("\n".join(lines))
    Console().print("\n".join(lines), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
