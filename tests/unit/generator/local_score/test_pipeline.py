from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.errors import InputError
from gatefold.generator.interface import Generated, GenerationRequest, Sources
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, LocalScorePipeline, build_local_pipeline
from gatefold.images.pixels import resized
from tests.drawn import drawn_covers

COUNT = 12
COVERS = drawn_covers(COUNT, 64)
IDS = tuple(f"s{number}" for number in range(COUNT))
COSINES = np.linspace(0.7, 0.5, COUNT).astype(np.float32)
CURVE = [
    CurvePoint(Parameters(0.8, 13, 0.03, 0.3), 0.3, 0.01),
    CurvePoint(Parameters(0.6, 11, 0.03, 0.2), 0.2, 0.02),
    CurvePoint(Parameters(0.4, 9, 0.05, 0.1), 0.1, 0.05),
]
SONG = np.zeros(8, np.float32)


def pipeline(size: int = 64) -> LocalScorePipeline:
    return build_local_pipeline(CURVE, 1, num_sources=COUNT, size=size, encoder_fingerprint="e1")


def original(number: int, size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Originals of 256 pixels a side, but for the first, which has 64."""
    side = 64 if number == 0 else 256
    return resized(drawn_covers(COUNT, side)[number], size), side


def sources(count: int = COUNT, *, originals: bool = False) -> Sources:
    return Sources(IDS[:count], COSINES[:count], COVERS[:count], open_original=original if originals else None)


def generate(made: LocalScorePipeline, asked: Sources, seeds: list[int], **request: Any) -> list[Generated]:
    return made.generate(
        SONG, asked, seeds=seeds, request=GenerationRequest(**request), on_step=lambda _done, _steps: None
    )


def test_a_saved_pipeline_generates_the_same_bytes(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path)
    again = LocalScorePipeline.from_pretrained(tmp_path, local_files_only=True)
    assert (again.curve, again.novelty, again.num_sources, again.size) == (CURVE, 0.5, COUNT, 64)
    assert again.encoder_fingerprint == "e1"
    first, second = (generate(one, sources(), [3])[0] for one in (pipeline(), again))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.attribution is not None
    assert second.attribution is not None
    assert first.attribution.shares == second.attribution.shares


def test_novelty_moves_along_the_curve_and_mixes_between_its_points() -> None:
    made = pipeline()
    assert [made.parameters(novelty) for novelty in (0.0, 0.5, 1.0)] == [point.parameters for point in CURVE]
    assert made.parameters(None) == CURVE[1].parameters
    between = made.parameters(0.75)
    assert between.narrowest == 10
    assert [between.widest, between.temperature, between.capacity] == pytest.approx([0.5, 0.04, 0.15])


def test_more_novelty_gives_smaller_shares() -> None:
    def largest(novelty: float) -> float:
        made = generate(pipeline(), sources(), list(range(6)), novelty=novelty)
        return float(np.median([one.attribution.shares[0].share for one in made if one.attribution]))

    assert largest(1.0) < largest(0.0)


def test_a_cover_may_be_larger_than_the_stored_sources_and_says_which_originals_were_enlarged() -> None:
    small, large = (generate(pipeline(), sources(originals=True), [4], size=size)[0] for size in (64, 256))
    assert large.pixels.shape == (3, 256, 256)
    assert small.enlarged == ()
    assert set(large.enlarged) <= {"s0"}
    reduced = resized(large.pixels, 64).astype(int)
    assert np.abs(reduced - small.pixels).mean() < 60  # the same kind of picture, composed from the same seed


def test_sources_that_are_smaller_than_asked_for_are_named() -> None:
    one = generate(pipeline(), sources(1, originals=True), [4], size=128)[0]
    assert one.enlarged == ("s0",)


def test_the_colours_of_a_source_lead_where_asked() -> None:
    made = generate(pipeline(), sources(), [1, 2], palette_from="s5")
    assert [one.palette_from for one in made] == ["s5", "s5"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"size": 8}, "size 8: a new cover may have 16 to 3,000 pixels a side"),
        ({"size": 3001}, "size 3001"),
        ({"size": 128}, "size 128: sources have 64 pixels and no original files"),
        ({"palette_from": "nobody"}, "palette_from 'nobody' is not among the 12 sources"),
        ({"guidance_scale": 2.0}, "guidance_scale = 2.0: a generator of kind 'local-score' has no guidance_scale"),
        ({"adapter": "v1"}, "has no adapter"),
    ],
)
def test_a_request_that_cannot_be_fulfilled_says_why(request_: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        generate(pipeline(), sources(), [1], **request_)


def test_progress_covers_all_pictures_and_ends_with_all_steps() -> None:
    calls: list[tuple[int, int]] = []
    note = lambda done, steps: calls.append((done, steps))  # noqa: E731
    pipeline().generate(SONG, sources(), seeds=[1, 2], request=GenerationRequest(), on_step=note)
    assert calls[0][0] == 0
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
