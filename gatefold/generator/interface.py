"""Interface of every kind of generator: request, sources, generated covers.

Shape legend: N = source covers, n = generated covers, S = pixels a side of a source, G = pixels a side of a generated
cover, D = width of the joint space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gatefold.errors import InputError

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
OnStep = Callable[[int, int], None]
"""called with (steps done, steps in all); raises to stop"""


@dataclass(frozen=True)
class Sources:
    """The covers that new covers of a song may be made from, nearest first.

    Args:
        song_ids: [N].
        cosines: float32 [N], of song and cover in the joint space.
        pixels: uint8 [N, 3, S, S], RGB; empty for a generator that does not read pixels.
        embeddings: float32 [N, D] of the covers; empty for a generator that does not read embeddings.
        open_original: the pixels uint8 [3, G, G] of source number i at G pixels a side, read from its original file,
            and the side of that file in pixels (a smaller one is enlarged); None where originals cannot be read.
    """

    song_ids: tuple[str, ...]
    cosines: Vectors
    pixels: Pixels
    embeddings: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    open_original: Callable[[int, int], tuple[Pixels, int]] | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """A request to a generator beside sources and seeds; None is the generator's own default."""

    size: int | None = None
    """pixels a side"""
    novelty: float | None = None
    """0 (close to single sources) to 1 (small parts of many sources)"""
    palette_from: str | None = None
    """song_id of the source whose colours lead"""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    """0 to 1: how far a pre-trained model may depart from the picture it starts from"""
    adapter: str | None = None
    """version of a LoRA bundle, published by `gatefold adapt`, for a pre-trained model"""


@dataclass(frozen=True)
class Share:
    """What one source contributed to a generated cover."""

    song_id: str
    share: float
    """0 to 1; those of a cover sum to 1"""
    largest_region: float
    """share of the cover's pixels in the largest connected region that this source holds"""


@dataclass(frozen=True)
class Attribution:
    """Which source each pixel of a generated cover comes from.

    Args:
        shares: of every source that contributed, the largest share first.
        holder: uint8 [G, G], for each pixel the number in `shares` of the source that holds most of it.
    """

    shares: tuple[Share, ...]
    holder: Pixels


@dataclass(frozen=True)
class Generated:
    """One new cover: pixels uint8 [3, G, G], and where its pixels come from (None where the model cannot say)."""

    seed: int
    pixels: Pixels
    attribution: Attribution | None = None
    palette_from: str | None = None
    """song_id of the source whose colours lead, where one does"""
    enlarged: tuple[str, ...] = ()
    """song_ids of the sources whose original is smaller than the cover"""


def check_request(kind: str, accepts: frozenset[str], request: GenerationRequest) -> None:
    """Raises: InputError naming a field that this kind of generator does not know."""
    for name, value in vars(request).items():
        if value is not None and name not in accepts:
            known = ", ".join(sorted(accepts))
            raise InputError(f"{name} = {value!r}: a generator of kind '{kind}' has no {name}; it takes {known}")


class GeneratorModel(Protocol):
    """A loaded generator bundle."""

    kind: str
    """as in `generator.kind`"""
    num_sources: int
    """nearest covers it is made for"""
    reads_pixels: bool
    """whether sources need pixels; else they need embeddings"""
    accepts: frozenset[str]
    """fields of a request that this kind knows"""
    encoder_fingerprint: str
    """of the encoder whose embeddings it understands"""
    novelty: float | None
    """0 to 1 where none is asked for; None for a kind without novelty"""

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        """One cover for each seed. The same arguments give the same bytes, whatever other seeds are generated with it.

        Args:
            song_embedding: float32 [D], unit length.
            on_step: progress over all covers; what it raises ends the generation.

        Raises: InputError for a request that this kind cannot fulfil; WrongModel for embeddings of another width.
        """
