"""The existing cover that a new one is most similar to, with the real network."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.config import OriginalitySettings
from gatefold.generator.interface import Attribution, Generated, GenerationRequest, Share, Sources
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, build_local_pipeline
from gatefold.generator.nearest_cover import NearestCover
from gatefold.generator.originality import NewCover, Refused, generate_original
from gatefold.images.likeness import IndependentFeatures
from gatefold.images.pixels import resized
from tests.drawn import drawn_covers

Pixels = npt.NDArray[np.uint8]
COVERS = drawn_covers(12, 64)
IDS = [f"s{number}" for number in range(12)]


class Catalogue:
    """Covers by song_id; every one is a candidate, but for those in `far`."""

    def __init__(self, covers: Mapping[str, Pixels], far: Sequence[str] = ()) -> None:
        self.covers, self.far = covers, far
        self.read_ids: list[str] = []

    def read(self, song_ids: Sequence[str]) -> dict[str, Pixels]:
        self.read_ids += song_ids
        return {song_id: self.covers[song_id] for song_id in song_ids if song_id in self.covers}

    def nearest(self, pixels: Pixels, k: int) -> list[list[str]]:
        return [[song_id for song_id in self.covers if song_id not in self.far][:k]] * len(pixels)


@pytest.fixture(scope="module")
def network() -> IndependentFeatures:
    return IndependentFeatures()


def as_generated(pixels: Pixels, *sources: str) -> Generated:
    shares = tuple(Share(song_id, 1 / len(sources), 0.1) for song_id in sources)
    return Generated(1, pixels, Attribution(shares, np.zeros((4, 4), np.uint8)) if sources else None)


def test_a_copy_is_most_similar_to_its_original_at_any_size(network: IndependentFeatures) -> None:
    catalogue = Catalogue(dict(zip(IDS, COVERS, strict=True)))
    measure = NearestCover(network, catalogue.nearest, catalogue.read, 64)
    copies = [as_generated(COVERS[3]), as_generated(resized(COVERS[5], 128))]
    first, second = measure(copies)
    assert first is not None
    assert second is not None
    assert first.song_id == "s3"
    assert first.value == pytest.approx(1.0, abs=1e-5)
    assert (second.song_id, second.value > 0.95) == ("s5", True)


def test_sources_are_candidates_wherever_they_lie_in_the_tower_s_space(network: IndependentFeatures) -> None:
    catalogue = Catalogue(dict(zip(IDS, COVERS, strict=True)), far=["s7"])
    measure = NearestCover(network, catalogue.nearest, catalogue.read, 64)
    (found,) = measure([as_generated(COVERS[7], "s7")])
    assert found is not None
    assert found.song_id == "s7"


def test_each_cover_is_read_once(network: IndependentFeatures) -> None:
    catalogue = Catalogue(dict(zip(IDS, COVERS, strict=True)))
    measure = NearestCover(network, catalogue.nearest, catalogue.read, 64)
    for _ in range(2):
        measure([as_generated(COVERS[0]), as_generated(COVERS[1])])
    assert sorted(catalogue.read_ids) == sorted(IDS)


def test_without_the_network_or_any_cover_likeness_is_not_known(network: IndependentFeatures) -> None:
    catalogue = Catalogue({})
    assert NearestCover(None, catalogue.nearest, catalogue.read, 64)([as_generated(COVERS[0])]) == [None]
    assert NearestCover(network, catalogue.nearest, catalogue.read, 64)([as_generated(COVERS[0], "gone")]) == [None]


def test_a_catalogue_of_one_cover_in_small_variations_gets_refusals_and_no_copies(network: IndependentFeatures) -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(-6, 7, (40, 3, 64, 64))
    variations = (COVERS[2].astype(int) + noise).clip(0, 255).astype(np.uint8)
    catalogue = Catalogue({f"v{number}": pixels for number, pixels in enumerate(variations)})
    point = CurvePoint(Parameters(0.6, 13, 0.03, 0.13), 0.2, 0.0)
    covers = generate_original(
        build_local_pipeline([point], 0, num_sources=40, size=64, encoder_fingerprint="e"),
        np.zeros(8, np.float32),
        Sources(tuple(catalogue.covers), np.full(40, 0.8, np.float32), variations),
        seeds=[1, 2],
        request=GenerationRequest(),
        limits=OriginalitySettings(),
        measure_likeness=NearestCover(network, catalogue.nearest, catalogue.read, 64),
        on_step=lambda _done, _steps: None,
    )
    assert [isinstance(cover, NewCover) for cover in covers] == [False, False]
    for cover in covers:
        assert isinstance(cover, Refused)
        assert (cover.code, cover.song_id) == ("too_much_of_one_source", "v0")
        assert cover.value == pytest.approx(1.0)
