"""The analytic generator as a diffusers pipeline: exact diffusion on the pixels of a song's nearest covers, untrained.

What `save_pretrained` and `from_pretrained` carry is the calibrated curve of parameters from the closest to the most
novel pictures. Source pixels, cosines and seeds go in; pictures and attribution come out.

Shape legend: N = sources, S = pixels a side of a source, G = pixels a side of a generated cover.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from gatefold.errors import InputError
from gatefold.generator.attribution import attribute
from gatefold.generator.interface import Generated, GenerationRequest, OnStep, Pixels, Sources, Vectors, check_request
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.sampler import Sampled, Sampler
from gatefold.images.pixels import resized, to_pixels

SIZES = (16, 3000)
"""pixels a side that a cover may have"""
_WORKING_BYTES = 512 << 20  # of the pictures that are sampled together
_BYTES_PER_PIXEL = 64  # of a picture while it is sampled: a few copies in float32, channels and holder


@dataclass(frozen=True)
class CurvePoint:
    """Parameters, and what was measured of the pictures they give on validation songs."""

    parameters: Parameters
    largest_share: float
    """median over pictures of the largest share of one source"""
    kid: float
    """kernel distance to real covers, in the cover tower's space"""


class LocalScorePipeline(DiffusionPipeline):
    """`generator.kind: local-score`.

    Args:
        curve: JSON, a list of points in descending order of their largest share; see `build_local_pipeline`.
        default: number of the point that is used where no novelty is asked for.
        num_sources: nearest covers that pictures are composed of.
        size: pixels a side of pictures where none is asked for.
    """

    kind = "local-score"
    reads_pixels = True
    accepts = frozenset({"size", "novelty", "palette_from"})

    def __init__(
        self, curve: str = "[]", default: int = 0, num_sources: int = 0, size: int = 0, encoder_fingerprint: str = ""
    ) -> None:
        super().__init__()
        self.register_to_config(
            curve=curve, default=default, num_sources=num_sources, size=size, encoder_fingerprint=encoder_fingerprint
        )
        self.compute_on(torch.device("cpu"))

    def compute_on(self, device: torch.device, *, half_precision: bool = False) -> None:
        """Where pictures are computed: a pipeline without weights has no device of its own. On a CPU, tiles and
        pictures are computed side by side on as many threads as torch has where `generate` is called."""
        self._compute_device, self._half_precision = device, half_precision

    @property
    def curve(self) -> list[CurvePoint]:
        """Calibrated points, from the closest to the most novel pictures."""
        points = json.loads(self.config["curve"])
        return [CurvePoint(Parameters(**point.pop("parameters")), **point) for point in points]

    @property
    def num_sources(self) -> int:
        """nearest covers that pictures are made from."""
        return int(self.config["num_sources"])

    @property
    def size(self) -> int:
        """pixels a side where none is asked for."""
        return int(self.config["size"])

    @property
    def encoder_fingerprint(self) -> str:
        """of the encoder whose cosines it is given."""
        return str(self.config["encoder_fingerprint"])

    @property
    def novelty(self) -> float:
        """Of the default point, 0 to 1."""
        last = len(self.curve) - 1
        return self.config["default"] / last if last else 0.0

    def parameters(self, novelty: float | None) -> Parameters:
        """Those at a place on the curve; between points they are mixed.

        Args:
            novelty: 0, the closest pictures, to 1, the most novel; the default point's where it is None.
        """
        points = [point.parameters for point in self.curve]
        place = (self.novelty if novelty is None else novelty) * (len(points) - 1)
        below = min(int(place), max(0, len(points) - 2))
        low, high, part = points[below], points[min(below + 1, len(points) - 1)], place - below
        mixed = {name: (1 - part) * value + part * getattr(high, name) for name, value in asdict(low).items()}
        return Parameters(**{**mixed, "narrowest": round(mixed["narrowest"])})

    def generate(
        self,
        song_embedding: Vectors,  # noqa: ARG002 - the cosines say all that is used of it
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        """See `GeneratorModel.generate`; sources need cosines and pixels.

        Args:
            song_embedding: [D], not used: the cosines of the sources say all of it.

        Raises: InputError for a request of another kind of generator, a size out of range, a larger size than the
            sources' where originals cannot be read, and `palette_from` that is no source.
        """
        size = request.size or self.size
        lead = self._checked(sources, request, size)
        reader = _Reader(sources, self._compute_device)
        cosines = torch.from_numpy(np.array(sources.cosines, np.float32))
        sampler = Sampler(
            reader.read,
            cosines,
            self.parameters(request.novelty),
            device=self._compute_device,
            half_precision=self._half_precision,
            threads=torch.get_num_threads(),
        )
        together = max(1, _WORKING_BYTES // (_BYTES_PER_PIXEL * size**2))
        groups = [seeds[start : start + together] for start in range(0, len(seeds), together)]
        sampled: list[Sampled] = []
        for number, group in enumerate(groups):
            def report(done: int, steps: int, number: int = number) -> None:
                on_step(number * steps + done, len(groups) * steps)

            sampled += sampler.sample(group, size, lead=lead, on_step=report)
        return [_generated(seed, one, sources, reader) for seed, one in zip(seeds, sampled, strict=True)]

    def _checked(self, sources: Sources, request: GenerationRequest, size: int) -> int | None:
        """Number of the source whose colours lead, where one is asked for."""
        check_request(self.kind, self.accepts, request)
        if not SIZES[0] <= size <= SIZES[1]:
            raise InputError(f"size {size}: a new cover may have {SIZES[0]} to {SIZES[1]:,} pixels a side")
        if size > sources.pixels.shape[-1] and sources.open_original is None:
            raise InputError(f"size {size}: sources have {sources.pixels.shape[-1]} pixels and no original files")
        if request.palette_from is None:
            return None
        if request.palette_from not in sources.song_ids:
            named = request.palette_from[:80]
            raise InputError(f"palette_from '{named}' is not among the {len(sources.song_ids)} sources")
        return sources.song_ids.index(request.palette_from)


def build_local_pipeline(
    curve: Sequence[CurvePoint], default: int, *, num_sources: int, size: int, encoder_fingerprint: str
) -> LocalScorePipeline:
    """A pipeline by its curve: points in descending order of their largest share; that at `default` is the default."""
    points = json.dumps([asdict(point) for point in curve])
    return LocalScorePipeline(points, default, num_sources, size, encoder_fingerprint)


class _Reader:
    """Sources at a level's size: smaller by averaging, larger from the original files."""

    def __init__(self, sources: Sources, device: torch.device) -> None:
        self._sources, self._device = sources, device
        self.enlarged: set[int] = set()

    def read(self, size: int, numbers: Sequence[int]) -> Tensor:
        held = self._sources.pixels.shape[-1]
        if size <= held:
            pixels: Pixels = resized(self._sources.pixels[list(numbers)], size)
        else:
            pixels = np.empty((len(numbers), 3, size, size), np.uint8)
            for row, number in enumerate(numbers):
                assert self._sources.open_original is not None
                pixels[row], side = self._sources.open_original(number, size)
                if side < size:
                    self.enlarged.add(number)
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)


def _generated(seed: int, sampled: Sampled, sources: Sources, reader: _Reader) -> Generated:
    attribution = attribute(sources.song_ids, sampled.share.numpy(), sampled.holder.numpy())
    contributing = {share.song_id for share in attribution.shares}
    enlarged = (sources.song_ids[number] for number in sorted(reader.enlarged))
    return Generated(
        seed,
        to_pixels(sampled.picture).cpu().numpy(),
        attribution,
        palette_from=sources.song_ids[sampled.lead],
        enlarged=tuple(song_id for song_id in enlarged if song_id in contributing),
    )
