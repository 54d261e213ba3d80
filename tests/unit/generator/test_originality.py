from collections.abc import Sequence

import numpy as np
import pytest

from gatefold.config import OriginalitySettings
from gatefold.generator.interface import Attribution, Generated, GenerationRequest, OnStep, Share, Sources, Vectors
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, LocalScorePipeline, build_local_pipeline
from gatefold.generator.originality import (
    Likeness,
    NewCover,
    Refused,
    _largest,
    generate_original,
    same_pictures,
    seed_of,
)
from tests.drawn import drawn_covers

LIMITS = OriginalitySettings(max_share=0.3, max_region=0.25, max_likeness=0.9, attempts=3)
PIXELS = np.stack([np.zeros((3, 4, 4), np.uint8), np.full((3, 4, 4), 90, np.uint8)])
SOURCES = Sources(("a", "b"), np.ones(2, np.float32), PIXELS)
SONG = np.zeros(4, np.float32)


class Generator:
    """Gives the shares that were set, by attempt; the last ones again after that."""

    kind, num_sources, reads_pixels, encoder_fingerprint = "local-score", 2, True, "e"
    novelty: float | None = 0.4
    accepts = frozenset({"novelty"})

    def __init__(self, *shares: tuple[float, float]) -> None:
        self._shares = shares
        self.asked: list[tuple[list[int], float | None]] = []

    def generate(
        self,
        song_embedding: Vectors,  # noqa: ARG002
        sources: Sources,  # noqa: ARG002
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        share, region = self._shares[min(len(self.asked), len(self._shares) - 1)]
        self.asked.append((list(seeds), request.novelty))
        on_step(1, 1)
        others = [Share(f"x{number}", (1 - share) / 9, 0.0) for number in range(9)]
        attribution = Attribution((Share("a", share, region), *others), np.zeros((4, 4), np.uint8))
        return [Generated(seed, np.full((3, 4, 4), seed % 256, np.uint8), attribution) for seed in seeds]


def run(
    generator: Generator, likeness: float = 0.5, seeds: Sequence[int] = (7,), novelty: float | None = None
) -> list[NewCover | Refused]:
    return generate_original(
        generator,
        SONG,
        SOURCES,
        seeds=seeds,
        request=GenerationRequest(novelty=novelty),
        limits=LIMITS,
        measure_likeness=lambda generated: [Likeness(likeness, "c")] * len(generated),
        on_step=lambda _done, _steps: None,
    )


def test_a_cover_within_all_limits_is_handed_out_at_the_first_attempt() -> None:
    generator = Generator((0.3, 0.25))
    (cover,) = run(generator)
    assert isinstance(cover, NewCover)
    assert (cover.attempt, cover.generated.seed, cover.likeness) == (1, 7, Likeness(0.5, "c"))
    assert generator.asked == [([7], None)]


def test_one_over_a_limit_is_generated_again_from_the_next_seed_and_with_more_novelty() -> None:
    generator = Generator((0.5, 0.1), (0.2, 0.1))
    (cover,) = run(generator)
    assert isinstance(cover, NewCover)
    assert (cover.attempt, cover.generated.seed) == (2, 7)
    assert generator.asked == [([7], None), ([seed_of(7, 2)], pytest.approx(0.4 + 0.6 / 3))]


def test_novelty_that_was_asked_for_is_where_more_begins() -> None:
    generator = Generator((0.5, 0.1))
    run(generator, novelty=0.7)
    assert [novelty for _, novelty in generator.asked] == [0.7, pytest.approx(0.8), pytest.approx(0.9)]


@pytest.mark.parametrize(
    ("shares", "likeness", "code", "value", "limit", "song_id"),
    [
        ((0.31, 0.1), 0.5, "too_much_of_one_source", 0.31, 0.3, "a"),
        ((0.2, 0.26), 0.5, "region_too_large", 0.26, 0.25, "a"),
        ((0.2, 0.1), 0.91, "too_like_a_cover", 0.91, 0.9, "c"),
    ],
)
def test_after_a_bounded_number_of_attempts_it_is_refused_with_the_reason(
    shares: tuple[float, float], likeness: float, code: str, value: float, limit: float, song_id: str
) -> None:
    generator = Generator(shares)
    (refused,) = run(generator, likeness)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.value, refused.limit, refused.song_id) == (code, value, limit, song_id)
    assert (refused.seed, refused.attempt, len(generator.asked)) == (7, 3, 3)
    assert song_id in refused.detail
    assert f"{limit:g}" in refused.detail


def test_only_those_over_a_limit_are_generated_again() -> None:
    class Mixed(Generator):
        def generate(self, *arguments: object, seeds: Sequence[int], **rest: object) -> list[Generated]:
            made = super().generate(*arguments, seeds=seeds, **rest)  # type: ignore[arg-type]
            return [one if one.seed != 1 else Generated(1, one.pixels, _much("a")) for one in made]

    generator = Mixed((0.2, 0.1))
    covers = run(generator, seeds=(0, 1, 2))
    assert [cover.attempt for cover in covers] == [1, 2, 1]
    assert [seeds for seeds, _ in generator.asked] == [[0, 1, 2], [seed_of(1, 2)]]


def _much(song_id: str) -> Attribution:
    return Attribution((Share(song_id, 0.9, 0.9),), np.zeros((4, 4), np.uint8))


def test_a_song_with_a_single_source_gets_no_copy() -> None:
    covers = drawn_covers(1, 64)
    pipeline = _pipeline(64)
    sources = Sources(("only",), np.array([0.7], np.float32), covers)
    made = generate_original(
        pipeline,
        SONG,
        sources,
        seeds=[1, 2],
        request=GenerationRequest(),
        limits=OriginalitySettings(),
        measure_likeness=lambda generated: [None] * len(generated),
        on_step=lambda _done, _steps: None,
    )
    assert [one.code for one in made if isinstance(one, Refused)] == ["too_much_of_one_source"] * 2
    assert all(isinstance(one, Refused) and one.value == 1.0 for one in made)


def _pipeline(size: int) -> LocalScorePipeline:
    point = CurvePoint(Parameters(0.6, 9, 0.03, 0.18), 0.2, 0.0)
    return build_local_pipeline([point], 0, num_sources=100, size=size, encoder_fingerprint="e")


def test_seeds_of_later_attempts_depend_on_the_seed_and_the_attempt_alone() -> None:
    assert seed_of(7, 1) == 7
    assert len({seed_of(seed, attempt) for seed in range(50) for attempt in (1, 2, 3, 4)}) == 200
    assert all(0 <= seed_of(2**63 - 1, attempt) < 2**63 for attempt in (1, 2, 3))


def test_sources_that_are_nearly_the_same_picture_count_as_one_mirrored_ones_too() -> None:
    covers = drawn_covers(4, 64)
    noisy = (covers[0].astype(int) + np.random.default_rng(0).integers(-8, 9, covers[0].shape)).clip(0, 255)
    pixels = np.stack([*covers, noisy.astype(np.uint8), covers[1][..., ::-1]])
    sources = Sources(("a", "b", "c", "d", "a2", "b2"), np.ones(6, np.float32), pixels)
    assert same_pictures(sources) == {"a2": "a", "b2": "b"}
    assert same_pictures(SOURCES) == {}
    assert same_pictures(Sources(("a",), np.ones(1, np.float32), np.zeros((0, 3, 0, 0), np.uint8))) == {}


def test_a_picture_in_two_sources_is_measured_as_one_region() -> None:
    holder = np.zeros((4, 4), np.uint8)
    holder[:, 2:] = 1
    holder[0] = 2
    attribution = Attribution((Share("a", 0.4, 0.375), Share("b", 0.35, 0.375), Share("c", 0.25, 0.25)), holder)
    assert _largest(attribution, {}) == ((0.4, "a"), (0.375, "b"))
    share, region = _largest(attribution, {"b": "a"})
    assert share[0] == pytest.approx(0.75)
    assert (share[1], region) == ("a", (0.75, "a"))
