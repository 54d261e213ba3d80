"""Sampler of whole pictures by exact diffusion through local windows, from coarse to fine, tile by tile, which also
reports how much comes from each source.

Each picture has its own noise and its own palette: all sources are recoloured to that of one source, the lead, drawn by
the prior, since parts in the colours of many covers do not make one cover. While the composition is found (t >= 1/2)
the prior of a source that holds more than its capacity is lowered, which bounds the largest share without narrowing the
windows.

A picture is computed by itself, element by element, in an order that depends neither on other pictures nor on how it
is cut into tiles; so its bytes depend on its own seed alone. Knows no embeddings, songs or files.

Shape legend: N = sources, M = N and their mirror images, A = those of M that are active in a tile, S = pixels a side
at a level, G = pixels a side of the result, h, w = a tile, H, W = a tile with the margin that its windows reach into.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as fn

from gatefold.generator.local_score.denoiser import COARSEST, NOISE_FLOOR, Parameters, Step, Window, posterior, steps
from gatefold.generator.local_score.palette import colour_maps, recoloured

DROPPED_BELOW = 1e-4
"""weight under which a source counts as absent from the surroundings of a place in the next step"""
_ALL_ABOVE = 0.45  # noise level down to which all sources count: new noise of the second level may bring any back
_GAIN = 10.0  # by how much a log prior is lowered when a share is e times the capacity
_CELLS = 16  # a side of the map that says which sources are active where
_REACH = 2  # cells around a place in which a source counts as near
_TILE, _TILE_ON_GPU = 64, 256  # pixels a side, about

ReadLevel = Callable[[int, Sequence[int]], Tensor]
"""(pixels a side, numbers of sources) -> uint8 [len(numbers), 3, S, S] on the sampler's device"""


@dataclass(frozen=True)
class Sampled:
    """A finished picture and what it was composed of.

    Args:
        picture: float32 [3, G, G] in [-1, 1].
        share: float64 [N], mean weight of each source over all pixels; they sum to 1.
        holder: int16 [G, G], the source with the largest weight at each pixel.
        lead: the source that lends its colours.
    """

    picture: Tensor
    share: Tensor
    holder: Tensor
    lead: int


@dataclass(frozen=True)
class _Level:
    """The sources at one level: uint8 [rows, 3, S, S], and the row of each source that is held, int64 [N]."""

    pixels: Tensor
    row_of: Tensor

    @property
    def size(self) -> int:
        return int(self.pixels.shape[-1])

    def window(self, numbers: Tensor, rows: slice, columns: slice, maps: tuple[Tensor, Tensor]) -> Window:
        """This place in these of M sources, those from N on being mirror images, in the colours of `maps`."""
        count = len(self.row_of)
        flipped = slice(self.size - columns.stop, self.size - columns.start)
        plain, mirrored = numbers[numbers < count], numbers[numbers >= count] - count
        pixels = torch.cat(
            [
                self.pixels[:, :, rows, columns].index_select(0, self.row_of[plain]),
                self.pixels[:, :, rows, flipped].index_select(0, self.row_of[mirrored]).flip(-1),
            ]
        )
        matrices, offsets = maps
        return Window.of(recoloured(pixels, matrices[numbers % count], offsets[numbers % count]))


@dataclass
class _Picture:
    """One picture while it is sampled."""

    draw: torch.Generator
    lead: int
    maps: tuple[Tensor, Tensor]
    """colours of each source to those of the lead, [N, 3, 3] and [N, 3]"""
    log_prior: Tensor
    """float32 [N]"""
    noisy: Tensor
    """float32 [3, S, S]"""
    clean: Tensor
    """float32 [3, S, S], expected behind it"""
    active: Tensor
    """bool [M, cells, cells]: which sources may still hold pixels of a cell"""
    peaks: Tensor
    """float32 [M, cells, cells]: largest weight of each source in each cell, in the present step"""
    share: Tensor
    """float64 [tiles, N]: sum of the weights of each source and its mirror image over a tile, in the present step"""
    holder: Tensor
    """int16 [S, S]: the source with the largest weight at each pixel, in the last step"""
    whole: Window | None = None
    """all of M sources, at a level of one tile"""


class Sampler:
    """Samples pictures from N sources.

    Args:
        read: returns sources at a level's size.
        cosines: float32 [N], of song and source.
        mirrored: whether mirror images are sources too.
        device: where to compute.
        half_precision: weights and sources are averaged as float16; window sums stay float32.
        dropping: leaves out sources where their weight fell under DROPPED_BELOW in the step before.
        threads: tiles and pictures computed side by side on a CPU.
    """

    def __init__(
        self,
        read: ReadLevel,
        cosines: Tensor,
        parameters: Parameters,
        *,
        mirrored: bool = True,
        device: torch.device,
        half_precision: bool = False,
        dropping: bool = True,
        threads: int = 1,
    ) -> None:
        self._read, self._parameters, self._device = read, parameters, device
        self._log_prior = (cosines / parameters.temperature).to(device, torch.float32)
        self._count, self._sources = len(cosines), len(cosines) * (2 if mirrored else 1)
        self._dropping, self._threads = dropping, threads
        self._averaged = torch.float16 if half_precision else torch.float32

    def sample(
        self,
        seeds: Sequence[int],
        size: int,
        *,
        lead: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Sampled]:
        """A picture of `size` pixels a side for each seed.

        Args:
            lead: the source that lends its colours; None draws one by the prior, for each picture its own.
            on_step: called with (steps done, steps in all) before each step and at the end; raises to stop.
        """
        plan = steps(size)
        # one thread of torch in each: splitting an operation differently can change its rounding
        with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            coarse = self._read(plan[0].size, range(self._count))
            pictures = list(pool.map(partial(self._begin, plan[0].size, coarse, lead), seeds))
            level = None
            for number, step in enumerate(plan):
                if on_step is not None:
                    on_step(number, len(plan))
                if level is None or level.size != step.size:
                    level = self._open_level(step.size, pictures)
                last = number + 1 == len(plan)
                work = [(picture, tile) for picture in pictures for tile in enumerate(self._tiles(step.size))]
                list(pool.map(partial(self._denoise, step, level, last), *zip(*work, strict=True)))
                list(pool.map(partial(self._finish_step, step, step.size if last else plan[number + 1].size), pictures))
        if on_step is not None:
            on_step(len(plan), len(plan))
        return [_sampled(picture) for picture in pictures]

    def _begin(self, size: int, coarse: Tensor, lead: int | None, seed: int) -> _Picture:
        draw = torch.Generator().manual_seed(seed)
        noise = self._noise(draw, size)
        drawn = int(torch.multinomial(torch.softmax(self._log_prior, 0).cpu(), 1, generator=draw))
        lead = drawn if lead is None else lead
        cells = _cells(size)
        nothing = torch.zeros(0, device=self._device)
        return _Picture(
            draw,
            lead,
            colour_maps(coarse, lead),
            self._log_prior.clone(),
            noisy=noise,
            clean=nothing,
            active=torch.ones(self._sources, cells, cells, dtype=torch.bool, device=self._device),
            peaks=torch.zeros(self._sources, cells, cells, device=self._device),
            share=nothing,
            holder=nothing,
        )

    def _noise(self, draw: torch.Generator, size: int) -> Tensor:
        return torch.randn((3, size, size), generator=draw).to(self._device)  # the same on every device

    def _open_level(self, size: int, pictures: Sequence[_Picture]) -> _Level:
        """Reads the sources that are active anywhere in any picture."""
        active = torch.stack([picture.active.flatten(1).any(1) for picture in pictures]).any(0)
        numbers = active.view(-1, self._count).any(0).nonzero()[:, 0]
        row_of = torch.full((self._count,), -1, dtype=torch.int64, device=self._device)
        row_of[numbers] = torch.arange(len(numbers), device=self._device)
        level = _Level(self._read(size, numbers.tolist()), row_of)
        tiles, everything = self._tiles(size), torch.arange(self._sources, device=self._device)
        for picture in pictures:
            picture.clean = torch.empty(3, size, size, device=self._device)
            picture.holder = torch.empty(size, size, dtype=torch.int16, device=self._device)
            picture.share = torch.zeros(len(tiles), self._count, dtype=torch.float64, device=self._device)
            all_of_it = slice(0, size)
            single = len(tiles) == 1
            picture.whole = level.window(everything, all_of_it, all_of_it, picture.maps) if single else None
        return level

    def _tiles(self, size: int) -> list[tuple[slice, slice]]:
        """Blocks of cells, as rows and columns of cells, that cover a picture."""
        cells = _cells(size)
        wanted = _TILE if self._device.type == "cpu" else _TILE_ON_GPU
        side = max(1, round(wanted * cells / size)) if size > COARSEST else cells
        blocks = [slice(at, min(at + side, cells)) for at in range(0, cells, side)]
        return [(rows, columns) for rows in blocks for columns in blocks]

    def _denoise(
        self, step: Step, level: _Level, last: bool, picture: _Picture, numbered: tuple[int, tuple[slice, slice]]
    ) -> None:
        """Fills in one tile of the clean picture, and what is known of its sources."""
        number, tile = numbered
        half = self._parameters.half_window(step.size, step.t)
        (top, bottom), (left, right) = (_pixels_of(cells, step.size) for cells in tile)
        rows = slice(max(0, top - half), min(step.size, bottom + half))
        columns = slice(max(0, left - half), min(step.size, right + half))
        cut = (rows.start - top + half, bottom + half - rows.stop, columns.start - left + half,
               right + half - columns.stop)  # fmt: skip
        active = picture.active[:, tile[0], tile[1]].flatten(1).any(1)
        active = (torch.ones_like(active) if picture.whole else active).nonzero()[:, 0]
        owners = active % self._count
        window = picture.whole or level.window(active, rows, columns, picture.maps)
        noisy, log_prior = picture.noisy[:, rows, columns], picture.log_prior[owners]
        weights = posterior(noisy, window, log_prior, t=step.t, half=half, cut=cut)
        y, x = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
        for channel in range(3):
            averaged = weights.to(self._averaged) * window.sources[:, channel, y, x].to(self._averaged)
            picture.clean[channel, top:bottom, left:right] = averaged.sum(0, dtype=torch.float32)
        sums = weights.sum((1, 2), dtype=torch.float64)
        picture.share[number] = sums.new_zeros(self._count).index_add_(0, owners, sums)
        if step.t < _ALL_ABOVE:
            cells = (tile[0].stop - tile[0].start, tile[1].stop - tile[1].start)
            picture.peaks[active, tile[0], tile[1]] = fn.adaptive_max_pool2d(weights, cells)
        if last:
            picture.holder[top:bottom, left:right] = _holder(weights, owners)

    def _finish_step(self, step: Step, following: int, picture: _Picture) -> None:
        """Lowers the prior of dominant sources, drops absent ones, and adds the noise of the next step, which may be
        on a larger level."""
        if step.t >= 0.5:
            share = picture.share.sum(0) / step.size**2
            picture.log_prior -= _GAIN * (share / self._parameters.capacity).clamp(min=1).log().float()
        if self._dropping and step.t < _ALL_ABOVE:
            reach = _REACH if picture.peaks.shape[-1] > 1 else 0
            near = fn.max_pool2d(picture.peaks, 2 * reach + 1, stride=1, padding=reach)
            picture.active = near > DROPPED_BELOW
            picture.peaks = torch.zeros_like(picture.peaks)
        clean, t = picture.clean, max(step.t, NOISE_FLOOR)
        if following != step.size:
            clean = fn.interpolate(clean[None], size=(following, following), mode="bicubic")[0]
            noise = self._noise(picture.draw, following)
        else:
            noise = (picture.noisy - (1 - step.t) * clean) / t
        picture.noisy = (1 - step.t_next) * clean + step.t_next * noise


def _cells(size: int) -> int:
    return _CELLS if size >= COARSEST else 1


def _pixels_of(cells: slice, size: int) -> tuple[int, int]:
    """First pixel of these cells, and the first behind them."""
    count = _cells(size)
    return cells.start * size // count, cells.stop * size // count


def _holder(weights: Tensor, owners: Tensor) -> Tensor:
    """int16 [h, w], the source that holds most of each pixel, by weights [A, h, w] of sources and mirror images."""
    sources, position = torch.unique(owners, return_inverse=True)
    merged = weights.new_zeros((len(sources), *weights.shape[1:])).index_add_(0, position, weights)
    holder: Tensor = sources[merged.argmax(0)].to(torch.int16)
    return holder


def _sampled(picture: _Picture) -> Sampled:
    share = picture.share.sum(0)
    return Sampled(picture.noisy.clamp(-1, 1), (share / share.sum()).cpu(), picture.holder.cpu(), picture.lead)
