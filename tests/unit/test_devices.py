"""Embedding, searching and generating give on a GPU what they give on the CPU, up to rounding. Needs no Ray."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from gatefold.config import PretrainedSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.generator.interface import Generated, GenerationRequest, GeneratorModel, Sources
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, build_local_pipeline
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.images.likeness import IndependentFeatures
from gatefold.index.retrieval import CoverIndex
from gatefold.index.vectors import build, on_gpu
from gatefold.storage import objects
from gatefold.storage.models.encoders import load_encoder, publish_encoder
from gatefold.storage.models.generators import load_generator, publish_generator
from gatefold.storage.models.pretrained_generators import assemble
from tests.devices import on_each_device
from tests.drawn import drawn_covers
from tests.factories import COVER, ENCODER, GENERATOR, indexed_tracks, unit_vectors
from tests.pretrained import SIZE, MeanOfSources, sources, write_pretrained
from tests.sounds import AUDIO

WIDTH, COUNT = ENCODER.embed_dim, 12
SONG = unit_vectors(1, WIDTH)[0]


def generate(model: GeneratorModel, asked: Sources, **request: Any) -> list[Generated]:
    return model.generate(
        SONG, asked, seeds=[1, 2], request=GenerationRequest(**request), on_step=lambda _done, _steps: None
    )


def pixels_of(made: list[Generated]) -> np.ndarray[Any, Any]:
    pixels = np.stack([one.pixels for one in made]).astype(np.float32)
    assert pixels[0].std() > 1
    assert not np.array_equal(*pixels)
    return pixels


@on_each_device
def test_songs_and_covers_are_embedded_alike(device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    uri = objects.resolve(str(tmp_path / "e1"))
    here = DualEncoder(ENCODER, AUDIO, COVER).eval()
    publish_encoder(uri, here, version="e1", lineage={}, details={})
    there = load_encoder(uri, device)
    assert there.logit_scale.device.type == device
    draw = np.random.default_rng(0)
    songs = [draw.normal(-5, 3, (count, AUDIO.n_mels, AUDIO.frames)).astype(np.float16) for count in (3, 1, 2)]
    pixels = draw.integers(256, size=(5, 3, COVER.size, COVER.size), dtype=np.uint8)
    np.testing.assert_allclose(there.embed_songs(songs), here.embed_songs(songs), atol=5e-3)
    np.testing.assert_allclose(there.embed_covers(pixels), here.embed_covers(pixels), atol=5e-3)


@on_each_device
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_finds_the_same_covers_with_the_same_scores(device: str, kind: Any) -> None:
    covers, songs = unit_vectors(2_000, WIDTH, seed=1), unit_vectors(8, WIDTH, seed=2)
    vectors = build(covers, kind)
    if device != "cpu" and not faiss.get_num_gpus():
        pytest.skip("faiss is built without GPUs here; indexes are searched on the CPU")
    assert (on_gpu(vectors, device) is None) == (device == "cpu")
    here, there = (CoverIndex(indexed_tracks(covers), "e1", vectors, device=one) for one in ("cpu", device))
    scores, found = here.nearest(songs, 20)
    assert np.array_equal(there.nearest(songs, 20)[1], found)
    assert np.array_equal(there.nearest(songs, 20)[0], scores)
    allowed = np.arange(2_000) % 2 == 0
    assert np.array_equal(there.nearest(songs, 20, allowed)[1], here.nearest(songs, 20, allowed)[1])


@on_each_device
def test_the_analytic_generator_makes_covers_of_its_sources(device: str, tmp_path: Path) -> None:
    uri = objects.resolve(str(tmp_path / "generators" / "g1"))
    curve = [CurvePoint(Parameters(0.6, 11, 0.03, 0.2), 0.2, 0.02)]
    made = build_local_pipeline(curve, 0, num_sources=COUNT, size=64, encoder_fingerprint="e1")
    publish_generator(uri, made, version="g1", lineage={}, details={}, cover=COVER, sources={})
    ids = tuple(f"s{number}" for number in range(COUNT))
    asked = Sources(ids, np.linspace(0.7, 0.5, COUNT).astype(np.float32), drawn_covers(COUNT, 64))
    here, there = (generate(load_generator(uri, one).model, asked) for one in ("cpu", device))
    assert np.abs(pixels_of(there) - pixels_of(here)).mean() < 12  # of 255; half precision on a GPU
    for one in there:
        assert one.attribution is not None
        assert sum(share.share for share in one.attribution.shares) == pytest.approx(1, abs=1e-2)


@on_each_device
def test_the_transformer_makes_the_same_covers(device: str, tmp_path: Path) -> None:
    uri = objects.resolve(str(tmp_path / "generators" / "g1"))
    torch.manual_seed(0)
    made = build_pipeline(
        build_transformer(GENERATOR, COVER, WIDTH),
        neighbours=2,
        num_inference_steps=3,
        guidance_scale=2.0,
        encoder_fingerprint="e1",
    )
    publish_generator(uri, made, version="g1", lineage={}, details={}, cover=COVER, sources={})
    vectors = unit_vectors(2, WIDTH, seed=3)
    asked = Sources(("s0", "s1"), np.array([0.7, 0.6], np.float32), drawn_covers(2, COVER.size), vectors)
    here, there = (generate(load_generator(uri, one).model, asked) for one in ("cpu", device))
    assert np.abs(pixels_of(there) - pixels_of(here)).mean() < 4


@on_each_device
def test_a_pretrained_model_goes_over_pictures(device: str, tmp_path: Path) -> None:
    model = write_pretrained(tmp_path / "model", "StableDiffusionPipeline")
    settings = PretrainedSettings(model=str(model), size=SIZE, num_inference_steps=2)
    made = generate(assemble(settings, MeanOfSources(), device=device), sources(1))
    assert pixels_of(made).shape == (2, 3, SIZE, SIZE)


@on_each_device
def test_independent_features_are_alike(device: str) -> None:
    pixels = drawn_covers(3, 64)
    here, there = (IndependentFeatures(one).features(pixels) for one in ("cpu", device))
    np.testing.assert_allclose(there, here, atol=2e-2)
