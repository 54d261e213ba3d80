import pytest

from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint
from pipelines.training.calibration import CANDIDATES, curve_of, default_of


def point(largest_share: float, kid: float) -> CurvePoint:
    return CurvePoint(Parameters(0.6, 13, 0.03, largest_share), largest_share, kid)


def test_the_curve_keeps_what_no_other_beats_from_the_largest_share_down() -> None:
    measured = [point(0.3, 0.01), point(0.2, 0.05), point(0.25, 0.06), point(0.1, 0.2), point(0.3, 0.09)]
    assert [(p.largest_share, p.kid) for p in curve_of(measured)] == [(0.3, 0.01), (0.2, 0.05), (0.1, 0.2)]


@pytest.mark.parametrize(
    ("max_share", "chosen"), [(1.0, 0.3), (0.3, 0.3), (0.29, 0.2), (0.15, 0.1), (0.05, 0.1)]
)
def test_the_default_is_the_nearest_to_real_covers_that_keeps_within_the_largest_share(
    max_share: float, chosen: float
) -> None:
    curve = [point(0.3, 0.01), point(0.2, 0.05), point(0.1, 0.2)]
    assert curve[default_of(curve, max_share)].largest_share == chosen


def test_of_those_as_good_as_each_other_the_default_takes_least_of_one_source() -> None:
    curve = [point(0.3, 0.01), point(0.2, 0.025), point(0.15, 0.03), point(0.1, 0.04)]
    assert curve[default_of(curve, 0.5)].largest_share == 0.15


def test_candidates_differ_in_all_that_is_calibrated() -> None:
    assert len({c.widest for c in CANDIDATES}) > 2
    assert len({c.temperature for c in CANDIDATES}) > 1
    assert len({c.capacity for c in CANDIDATES}) > 3
