"""The article's own generator, as a baseline: an SNGAN trained on the catalogue's covers, adapted to a song's nearest.

In the first phase a generator and a discriminator learn from all training covers (Miyato et al. 2018, "Spectral
Normalization for Generative Adversarial Networks": residual networks, spectral norm, hinge loss). In the second, of the
generator only scale and shift of its batch norms are fitted to the 100 covers nearest to a song, together with a latent
vector for each of them, by pixels and features and without a discriminator (Noguchi & Harada 2019, "Image Generation
From Small Datasets via Batch Statistics Adaptation"). Both are smaller than in the papers, so that they take minutes on
two cores. `make bench-sngan BENCH_ARGS=WORKSPACE` trains, adapts to held-out songs, and writes `reports/sngan.png`.

Shape legend: B = batch, M = training covers, N = covers of a song, Z = latent width, S = pixels a side.
"""

import argparse
import copy
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.optim import Adam

from benchmarks.sngan_networks import LATENT, Discriminator, Generator, norms_of
from gatefold.errors import InputError
from gatefold.images.pixels import to_model, to_pixels
from gatefold.records import SPLITS
from gatefold.storage import objects, tables
from gatefold.storage.contents import releases
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.models.encoders import load_encoder
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.training.conditions import conditions_of
from pipelines.training.precision import autocast_dtype
from pipelines.training.training_run import update_ema

Pixels = npt.NDArray[np.uint8]
Features = Callable[[Tensor], Sequence[Tensor]]
"""pictures float32 [B, 3, S, S] in [-1, 1] -> features [B, ...] of each layer, with gradients by the pictures"""

Item = TypeVar("Item")

SHEET = "sngan.png"
NEAREST, SHOWN = 100, 8
"""covers that a song's generator is adapted to, and those of each kind in a row of the sheet"""

BATCH = 16
LR, BETAS = (4e-4, 8e-4), (0.0, 0.9)
"""of generator and discriminator, which take turns step by step at two rates (Heusel et al. 2017)"""
EMA_DECAY = 0.99
ADAPT_LR, ADAPT_BATCH = (0.01, 0.05), 25
"""of scales and shifts, and of latents; covers a step"""
NOISE, FEATURES, LATENTS, STATISTICS = 0.02, 1.0, 0.1, 0.001
"""added to latents, and weights of the terms of equation 5 in Noguchi & Harada 2019"""
TRUNCATION = 0.7
"""latents are sampled from a normal distribution within these standard deviations: about as long as fitted ones are"""


@dataclass(frozen=True)
class Sngan:
    """What the first phase learned; the generator in eval mode, with averaged weights."""

    generator: Generator
    discriminator: Discriminator
    size: int
    """pixels a side"""
    steps: int
    """that were done in the time"""

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What the discriminator makes of pictures float32 [B, 3, S, S] in [-1, 1], [B, ...] of every block."""
        with _autocast():
            return [layer.float() for layer in self.discriminator.features(pictures)]


@dataclass(frozen=True)
class Adapted:
    """A generator adapted to the covers of one song."""

    generator: Generator
    latents: Tensor
    """float32 [N, Z], fitted to the covers"""
    losses: tuple[float, ...]
    """one a step"""

    @torch.inference_mode()
    def sample(self, seeds: Sequence[int]) -> Pixels:
        """Covers uint8 [n, 3, S, S], one for each seed; each the same alone and among others."""
        covers = []
        for seed in seeds:
            latent = torch.empty(1, LATENT)
            nn.init.trunc_normal_(
                latent, a=-TRUNCATION, b=TRUNCATION, generator=torch.Generator().manual_seed(seed)
            )
            covers.append(to_pixels(self.generator(latent))[0].numpy())
        return np.stack(covers)


def train(pixels: Pixels, *, seconds: float, seed: int, steps: int | None = None) -> Sngan:
    """An SNGAN of these covers, after as many steps as fit into the time.

    Args:
        pixels: uint8 [M, 3, S, S]; S is a power of two from 8.
        steps: at most, when given.

    Raises: InputError for covers of another shape.
    """
    size = _checked(pixels)
    torch.manual_seed(seed)
    generator, discriminator = Generator(size), Discriminator(size)
    for module in (generator, discriminator):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a processor
    average = copy.deepcopy(generator).requires_grad_(False)
    of_generator, of_discriminator = (
        Adam(module.parameters(), lr=lr, betas=BETAS)
        for module, lr in zip((generator, discriminator), LR, strict=True)
    )
    draw, done = torch.Generator().manual_seed(seed), 0
    for done, real in _timed(_batches(pixels, draw), seconds, steps):
        with _autocast():
            fake = generator(torch.randn(len(real), LATENT, generator=draw))
            scores = discriminator(torch.cat([real, fake.detach()])).chunk(2)
            loss = fn.relu(1 - scores[0]).mean() + fn.relu(1 + scores[1]).mean()  # hinge: equation 16
        _update(of_discriminator, loss)
        with _autocast():
            loss = -discriminator.requires_grad_(False)(fake).mean()  # equation 17
        _update(of_generator, loss)
        discriminator.requires_grad_(True)
        update_ema(average, generator, decay=EMA_DECAY, step=done)
    _settle(average, seed)
    return Sngan(average, discriminator.eval().requires_grad_(False), size, done)


def adapt(
    sngan: Sngan,
    pixels: Pixels,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int,
    features: Features | None = None,
) -> Adapted:
    """The generator with scale and shift of its batch norms fitted to these covers.

    Args:
        pixels: uint8 [N, 3, S, S], of a song's nearest covers, as large as those of the first phase.
        seconds, steps: after whichever it ends; one of them at least.
        features: of what covers should be alike in beside pixels; those of the discriminator when None.

    Raises: InputError for covers of another size, or without an end.

    Source: Noguchi & Harada 2019, equation 5.
    """
    if _checked(pixels) != sngan.size:
        raise InputError(f"pixels {pixels.shape}: this generator makes covers of {sngan.size} pixels a side")
    if seconds is None and steps is None:
        raise InputError("seconds and steps are both None; give one of them, or the adaptation has no end")
    features = features or sngan.features
    draw, targets = torch.Generator().manual_seed(seed), to_model(torch.from_numpy(pixels))
    generator = copy.deepcopy(sngan.generator)  # in eval mode: what its norms divide by stays that of all covers
    latents = torch.zeros(len(targets), LATENT, requires_grad=True)
    fitted = [parameter.requires_grad_() for norm in norms_of(generator) for parameter in norm.parameters()]
    before = [parameter.detach().clone() for parameter in fitted]
    optimizer = Adam([{"params": fitted, "lr": ADAPT_LR[0]}, {"params": [latents], "lr": ADAPT_LR[1]}])
    with torch.no_grad():
        wanted = list(features(targets))
    losses: list[float] = []
    for _, some in _timed(_orders(len(targets), ADAPT_BATCH, draw), seconds, steps):
        latent = latents[some]
        with _autocast():
            made = generator(latent + NOISE * torch.randn(latent.shape, generator=draw))
        loss = fn.l1_loss(made, targets[some])
        for layer, want in zip(features(made), wanted, strict=True):
            loss = loss + FEATURES / len(wanted) * fn.l1_loss(layer, want[some]) / want.abs().mean()
        # every place that may be sampled lies near the latent of some cover
        loss = loss + LATENTS * torch.cdist(torch.randn(len(targets), LATENT, generator=draw), latents).amin(1).mean()
        drift = [(now - was).square().mean() for now, was in zip(fitted, before, strict=True)]
        _update(optimizer, loss + STATISTICS * torch.stack(drift).sum())
        losses.append(float(loss.detach()))
    return Adapted(generator.requires_grad_(False), latents.detach(), tuple(losses))


def _autocast() -> torch.autocast:
    dtype = autocast_dtype(torch.device("cpu"))
    return torch.autocast("cpu", dtype, enabled=dtype is not None)


def _update(optimizer: Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _settle(generator: Generator, seed: int, batches: int = 16) -> None:
    """Measures what the norms of averaged weights divide by, and fixes it."""
    for norm in norms_of(generator):
        norm.reset_running_stats()
        norm.momentum = None  # an equal mean over all batches
    draw = torch.Generator().manual_seed(seed)
    generator.train()
    for _ in range(batches):
        generator(torch.randn(BATCH, LATENT, generator=draw))
    generator.eval()


def _batches(pixels: Pixels, draw: torch.Generator) -> Iterator[Tensor]:
    """Pictures float32 [B, 3, S, S] in [-1, 1] without end, half of them mirrored."""
    for some in _orders(len(pixels), BATCH, draw):
        pictures = to_model(torch.from_numpy(pixels[some.numpy()]))
        mirrored = torch.rand(len(pictures), 1, 1, 1, generator=draw) < 0.5
        yield torch.where(mirrored, pictures.flip(3), pictures).contiguous(memory_format=torch.channels_last)


def _orders(size: int, batch: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Numbers of at most so many rows, without end: each row once in each round."""
    while True:
        order = torch.randperm(size, generator=draw)
        yield from torch.split(order[: size - size % batch], batch) if size > batch else (order,)


def _timed(items: Iterator[Item], seconds: float | None, steps: int | None) -> Iterator[tuple[int, Item]]:
    """Items, counted from 1, until the time is over or so many are done."""
    began = time.monotonic()
    for number, item in zip(count(1), items, strict=False):
        if steps is not None and number > steps:
            return
        if seconds is not None and time.monotonic() - began > seconds:
            return
        yield number, item


def _checked(pixels: Pixels) -> int:
    """Pixels a side. Raises: InputError."""
    size = pixels.shape[-1] if pixels.ndim == 4 else 0
    fits = pixels.dtype == np.uint8 and pixels.shape == (len(pixels), 3, size, size) and len(pixels) > 0
    if not fits or size < 8 or size & (size - 1):
        raise InputError(
            f"pixels {pixels.dtype} {pixels.shape}: expected uint8 [covers, 3, S, S] with S a power of two from 8"
        )
    return size


def held_out(workspace: Workspace, songs: int) -> tuple[Pixels, dict[str, Pixels]]:
    """Training covers uint8 [M, 3, S, S], and of some test songs the covers nearest to each, uint8 [N, 3, S, S].

    By the active release; a song's own cover and its artist's others are left out.
    """
    release = releases.current(workspace)
    encoder, index = (objects.join(workspace.uri, part.uri) for part in (release.encoder, release.index))
    covers = workspace.covers(load_encoder(encoder).cover)
    table = tables.read_table(covers, ["song_id", "pixels"], stage="covers")
    row_of = {song_id: row for row, song_id in enumerate(table["song_id"].to_pylist())}
    pixels: Pixels = tables.tensors(table["pixels"])
    tracks = read_tracks(workspace, ["song_id", "split"]).to_pylist()
    ids = {split: [t["song_id"] for t in tracks if t["split"] == split and t["song_id"] in row_of] for split in SPLITS}
    chosen = ids["test"][:: max(1, len(ids["test"]) // songs)][:songs]
    near = conditions_of(load_index(index), chosen, NEAREST).neighbour_ids
    rows = {song_id: [row_of[one] for one in ones] for song_id, ones in zip(chosen, near, strict=True)}
    return pixels[[row_of[one] for one in ids["train"]]], {song_id: pixels[some] for song_id, some in rows.items()}


def draw_sheet(rows: Sequence[Pixels]) -> bytes:
    """A PNG, a row for each [n, 3, S, S]."""
    lines = [np.concatenate(list(row.transpose(0, 2, 3, 1)), axis=1) for row in rows]
    png = io.BytesIO()
    Image.fromarray(np.concatenate(lines, axis=0)).save(png, "PNG")
    return png.getvalue()


def run(workspace: Workspace, *, songs: int, seconds: float, adapt_seconds: float, say: Callable[[str], None]) -> str:
    """Trains, adapts to `songs` held-out songs, and writes a sheet; its URI.

    A row of the sheet has the nearest covers of a song, and then as many that were generated.
    """
    training, of_songs = held_out(workspace, songs)
    began = time.monotonic()
    sngan = train(training, seconds=seconds, seed=0)
    say(f"trained on {len(training):,} covers: {sngan.steps:,} steps in {time.monotonic() - began:.1f} s")
    rows = []
    for song_id, nearest in of_songs.items():
        began = time.monotonic()
        adapted = adapt(sngan, nearest, seconds=adapt_seconds, seed=0)
        adapted_s, began = time.monotonic() - began, time.monotonic()
        made = adapted.sample(range(SHOWN))
        say(
            f"'{song_id}': {len(adapted.losses)} steps in {adapted_s:.1f} s, loss {adapted.losses[0]:.3f} to "
            f"{adapted.losses[-1]:.3f}, {(time.monotonic() - began) / SHOWN:.3f} s a cover"
        )
        rows.append(np.concatenate([nearest[:SHOWN], made]))
    uri = objects.join(workspace.reports, SHEET)
    objects.put(uri, draw_sheet(rows))
    return uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", help="folder or URI of a workspace with an active release")
    parser.add_argument("--songs", type=int, default=6, help="held-out songs to adapt to")
    parser.add_argument("--seconds", type=float, default=180.0, help="of training")
    parser.add_argument("--adapt-seconds", type=float, default=15.0, help="of adapting to each song")
    given = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    console = Console()
    uri = run(
        Workspace(objects.resolve(given.workspace)),
        songs=given.songs,
        seconds=given.seconds,
        adapt_seconds=given.adapt_seconds,
        say=lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    console.print(uri, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
