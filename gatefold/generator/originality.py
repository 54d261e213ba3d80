"""Originality limits: how close a new cover may come to a single existing one, and its retries when it is closer.

Measured before it is returned, each with a limit: the largest share of one source, the largest connected region of
one source, and the likeness to the most similar of all catalogue covers by features that the generator does not know.
Sources that are nearly the same picture, as reissues are, count as one. Over a limit the picture is generated again,
from the next seed of its own sequence and with more novelty; at last it is refused.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gatefold.config import OriginalitySettings
from gatefold.generator.attribution import largest_region
from gatefold.generator.interface import (
    Attribution,
    Generated,
    GenerationRequest,
    GeneratorModel,
    OnStep,
    Sources,
    Vectors,
)
from gatefold.images.pixels import resized

_COMPARED_AT = 32  # pixels a side at which sources are compared with each other
_SAME_BELOW = 8.0  # mean absolute difference, of 255, under which two are the same picture
Code = Literal["too_much_of_one_source", "region_too_large", "too_like_a_cover"]


@dataclass(frozen=True)
class Likeness:
    """The existing cover that a new one is most similar to: the cosine of their features, and its song_id."""

    value: float
    song_id: str


MeasureLikeness = Callable[[Sequence[Generated]], Sequence[Likeness | None]]
"""of each new cover to all existing ones; None where it cannot be measured"""


@dataclass(frozen=True)
class NewCover:
    """A picture that keeps within all limits. `attempt` counts from 1; `generated.seed` is the seed asked for."""

    generated: Generated
    attempt: int
    likeness: Likeness | None


@dataclass(frozen=True)
class Refused:
    """A picture that came too close to an existing cover in every attempt."""

    seed: int
    code: Code
    value: float
    """what was measured in the last attempt"""
    limit: float
    song_id: str
    """of the cover that it came too close to"""
    attempt: int
    generated: Generated
    """the last attempt, for reports; it is not returned"""

    @property
    def detail(self) -> str:
        """What was measured, the limit and what to do, for a person."""
        what = {
            "too_much_of_one_source": f"{self.value:.0%} of it come from one source",
            "region_too_large": f"a connected region of {self.value:.0%} comes from one source",
            "too_like_a_cover": f"its likeness to an existing cover is {self.value:.3f}",
        }[self.code]
        return f"{what} ('{self.song_id}'), the limit is {self.limit:g}; allow more sources, or ask for more novelty"


def generate_original(
    generator: GeneratorModel,
    song_embedding: Vectors,
    sources: Sources,
    *,
    seeds: Sequence[int],
    request: GenerationRequest,
    limits: OriginalitySettings,
    measure_likeness: MeasureLikeness,
    on_step: OnStep,
) -> list[NewCover | Refused]:
    """A new cover for each seed, or why there is none; a picture does not depend on those it is generated with.

    Args:
        song_embedding: float32 [D], unit length; D = width of the joint space.
        seeds: of the first attempts; later ones derive theirs.
        measure_likeness: of each new cover to all existing ones.
        on_step: progress over the first attempt; later ones only call it so that it can stop them.

    Raises: what `generator.generate` raises.
    """
    same = same_pictures(sources)
    found: dict[int, NewCover | Refused] = {}
    for attempt in range(1, limits.attempts + 1):
        open_places = [place for place in range(len(seeds)) if not isinstance(found.get(place), NewCover)]
        if not open_places:
            break
        report = on_step if attempt == 1 else lambda _, steps: on_step(steps, steps)
        generated = generator.generate(
            song_embedding,
            sources,
            seeds=[seed_of(seeds[place], attempt) for place in open_places],
            request=_more_novel(generator, request, (attempt - 1) / limits.attempts),
            on_step=report,
        )
        for place, one, likeness in zip(open_places, generated, measure_likeness(generated), strict=True):
            known = replace(one, seed=seeds[place])
            found[place] = _check_originality(known, likeness, attempt, limits, same)
    return [found[place] for place in range(len(seeds))]


def seed_of(seed: int, attempt: int) -> int:
    """The seed of an attempt from 1: the first is the seed itself, the later ones depend on nothing else."""
    if attempt == 1:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}:{attempt}".encode()).digest()[:8], "big") >> 1


def _more_novel(generator: GeneratorModel, request: GenerationRequest, part: float) -> GenerationRequest:
    """The request, this part of the way from its novelty to 1; as it is for a generator without novelty."""
    novelty = request.novelty if request.novelty is not None else generator.novelty
    if novelty is None or part == 0:
        return request
    return replace(request, novelty=novelty + part * (1 - novelty))


def same_pictures(sources: Sources) -> dict[str, str]:
    """For each source that is nearly the same picture as one before it, mirrored or not, the song_id of the first."""
    if sources.pixels.shape[-1] == 0:
        return {}
    small = resized(sources.pixels, min(_COMPARED_AT, sources.pixels.shape[-1])).astype(np.float32)
    flat, mirrored = (pixels.reshape(len(pixels), -1) for pixels in (small, small[..., ::-1]))
    found: dict[str, str] = {}
    for number in range(1, len(flat)):
        apart = np.minimum(*(np.abs(flat[:number] - one[number]).mean(1) for one in (flat, mirrored)))
        if apart.min() < _SAME_BELOW:
            first = sources.song_ids[int(apart.argmin())]
            found[sources.song_ids[number]] = found.get(first, first)
    return found


def _largest(attribution: Attribution, same: Mapping[str, str]) -> tuple[tuple[float, str], tuple[float, str]]:
    """The largest share and the largest connected region of one picture among the sources, each with its song_id."""
    members: dict[str, list[int]] = {}
    for number, source in enumerate(attribution.shares):
        members.setdefault(same.get(source.song_id, source.song_id), []).append(number)
    shares, regions = [], []
    for song_id, numbers in members.items():
        of_picture = [attribution.shares[number] for number in numbers]
        together = largest_region(np.isin(attribution.holder, numbers)) if len(numbers) > 1 else 0.0
        shares.append((sum(source.share for source in of_picture), song_id))
        regions.append((max(together, *(source.largest_region for source in of_picture), 0.0), song_id))
    return max(shares), max(regions)


def _check_originality(
    generated: Generated,
    likeness: Likeness | None,
    attempt: int,
    limits: OriginalitySettings,
    same: Mapping[str, str],
) -> NewCover | Refused:
    measured: list[tuple[Code, float, float, str]] = []
    if generated.attribution is not None:
        share, region = _largest(generated.attribution, same)
        measured.append(("too_much_of_one_source", share[0], limits.max_share, share[1]))
        measured.append(("region_too_large", region[0], limits.max_region, region[1]))
    if likeness is not None:
        measured.append(("too_like_a_cover", likeness.value, limits.max_likeness, likeness.song_id))
    for code, value, limit, song_id in measured:
        if value > limit:
            return Refused(generated.seed, code, value, limit, song_id, attempt, generated)
    return NewCover(generated, attempt, likeness)
