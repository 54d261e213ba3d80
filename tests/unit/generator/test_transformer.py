"""The transformer: it learns, generates the same cover twice, and refuses embeddings of another encoder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gatefold.errors import InputError, Overloaded, WrongModel
from gatefold.generator.interface import GenerationRequest, GeneratorModel, Pixels, Sources, Vectors
from gatefold.generator.transformer import CoverPipeline, build_pipeline, build_transformer, denoise, flow_loss
from tests.factories import COVER, ENCODER, GENERATOR, unit_vectors

WIDTH, SIZE = ENCODER.embed_dim, COVER.size
SONG, NEIGHBOURS = unit_vectors(1, WIDTH)[0], unit_vectors(2, WIDTH, seed=1)


def sources_of(embeddings: Vectors) -> Sources:
    count = len(embeddings)
    ids = tuple(f"s{number}" for number in range(count))
    return Sources(ids, np.ones(count, np.float32), np.zeros((0, 3, 0, 0), np.uint8), embeddings)


def ignore(_done: int, _steps: int) -> None:
    pass


def generate(
    pipeline: CoverPipeline,
    song: Vectors = SONG,
    neighbours: Vectors = NEIGHBOURS,
    *,
    seeds: Sequence[int],
    on_step: Callable[[int, int], None] = ignore,
    **request: Any,
) -> Pixels:
    """The covers' pixels uint8 [n, 3, G, G]."""
    asked = GenerationRequest(**request)
    covers = pipeline.generate(song, sources_of(neighbours), seeds=seeds, request=asked, on_step=on_step)
    return np.stack([cover.pixels for cover in covers])


def untrained(seed: int = 0) -> CoverPipeline:
    """A pipeline whose last layers are not the zeros that training starts from, so that it sees its conditions."""
    torch.manual_seed(seed)
    transformer = build_transformer(GENERATOR, COVER, WIDTH).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pipeline = build_pipeline(
        transformer, neighbours=2, num_inference_steps=3, guidance_scale=2.5, encoder_fingerprint="encoder-1"
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> CoverPipeline:
    return untrained()


@pytest.fixture
def batches(pipeline: CoverPipeline) -> Iterator[list[int]]:
    """Pictures in each pass through the transformer."""
    seen: list[int] = []

    def note(_: torch.nn.Module, __: tuple[Any, ...], given: dict[str, Any]) -> None:
        seen.append(len(given["hidden_states"]))

    hook = pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


def test_a_denoiser_answers_in_the_shape_it_was_asked() -> None:
    transformer = build_transformer(GENERATOR, COVER, WIDTH)
    noisy, sigma = torch.randn(3, 3, SIZE, SIZE), torch.rand(3)
    clean = denoise(transformer, noisy, sigma, torch.randn(3, WIDTH), torch.randn(3, 2, WIDTH))
    assert clean.shape == (3, 3, SIZE, SIZE)


def test_the_loss_is_finite_falls_in_training_and_is_repeatable() -> None:
    torch.manual_seed(0)
    transformer = build_transformer(GENERATOR, COVER, WIDTH)
    pixels = torch.randn(4, 3, 1, 1).clamp(-1, 1).expand(4, 3, SIZE, SIZE)
    song = torch.from_numpy(unit_vectors(4, WIDTH))
    neighbours = torch.from_numpy(unit_vectors(8, WIDTH)).view(4, 2, WIDTH)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)

    def loss(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return flow_loss(transformer, pixels, song, neighbours, dropout=0.1, generator=draw)

    before = torch.stack([loss(seed) for seed in range(8)]).mean().item()
    assert loss(0).item() == loss(0).item()
    for seed in range(100, 160):
        optimizer.zero_grad()
        loss(seed).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = torch.stack([loss(seed) for seed in range(8)]).mean().item()
    assert np.isfinite(before)
    assert after < before / 2


def test_dropping_every_condition_leaves_a_loss_that_knows_no_song() -> None:
    transformer = untrained().transformer

    def loss(song: Tensor, dropout: float) -> float:
        pixels, draw = torch.zeros(1, 3, SIZE, SIZE), torch.Generator().manual_seed(0)
        neighbours = torch.from_numpy(NEIGHBOURS)[None]
        with torch.no_grad():
            return flow_loss(transformer, pixels, song, neighbours, dropout=dropout, generator=draw).item()

    one, other = torch.split(torch.from_numpy(unit_vectors(2, WIDTH)), 1)
    assert loss(one, dropout=1.0) == loss(other, dropout=1.0)
    assert loss(one, dropout=0.0) != loss(other, dropout=0.0)


def test_pictures_are_bytes_of_the_size_it_was_trained_on(pipeline: CoverPipeline) -> None:
    pictures = generate(pipeline, seeds=[1, 2, 3])
    assert (pictures.shape, pictures.dtype) == ((3, 3, SIZE, SIZE), np.dtype(np.uint8))
    assert pipeline.size == SIZE


def test_a_seed_always_gives_the_same_picture_and_another_seed_another(pipeline: CoverPipeline) -> None:
    first, again, other = (generate(pipeline, seeds=[seed]) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_global_seed_neither_matters_nor_changes(pipeline: CoverPipeline) -> None:
    torch.manual_seed(1)
    first = generate(pipeline, seeds=[7])
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    torch.manual_seed(2)
    assert np.array_equal(generate(pipeline, seeds=[7]), first)


def test_a_picture_is_the_same_alone_and_among_others(pipeline: CoverPipeline) -> None:
    together = generate(pipeline, seeds=[7, 8, 9])
    alone = np.concatenate([generate(pipeline, seeds=[seed]) for seed in (7, 8, 9)])
    assert np.array_equal(together, alone)


def test_both_the_song_and_its_neighbours_count(pipeline: CoverPipeline) -> None:
    picture = generate(pipeline, seeds=[7])
    assert not np.array_equal(generate(pipeline, -SONG, NEIGHBOURS, seeds=[7]), picture)
    assert not np.array_equal(generate(pipeline, SONG, -NEIGHBOURS, seeds=[7]), picture)


def test_guidance_of_one_is_none_and_costs_half(pipeline: CoverPipeline, batches: list[int]) -> None:
    generate(pipeline, seeds=[7, 8], guidance_scale=1)
    generate(pipeline, seeds=[7, 8], guidance_scale=2)
    assert batches == [1] * 6 + [2] * 6


def test_guidance_of_nought_forgets_the_song(pipeline: CoverPipeline) -> None:
    pictures = [generate(pipeline, song, NEIGHBOURS, seeds=[7], guidance_scale=0) for song in (SONG, -SONG)]
    assert np.array_equal(pictures[0], pictures[1])


def test_guidance_goes_from_the_unconditional_through_the_conditional_and_beyond(pipeline: CoverPipeline) -> None:
    song, neighbours = torch.from_numpy(SONG)[None], torch.from_numpy(NEIGHBOURS)[None]
    noisy, sigma = torch.randn(1, 3, SIZE, SIZE), torch.full((1,), 0.5)
    with torch.no_grad():
        bare, full, far = (pipeline._guided(noisy, sigma, song, neighbours, scale) for scale in (0, 1, 3))
    assert torch.allclose(far, bare + 3 * (full - bare), atol=1e-4)


def test_without_a_wish_its_own_defaults_hold(pipeline: CoverPipeline) -> None:
    wished = generate(pipeline, seeds=[7], num_inference_steps=3, guidance_scale=2.5)
    assert np.array_equal(generate(pipeline, seeds=[7]), wished)


def test_every_step_of_every_cover_is_reported_and_may_be_the_last(pipeline: CoverPipeline, batches: list[int]) -> None:
    reported: list[tuple[int, int]] = []
    generate(pipeline, seeds=[7, 8], num_inference_steps=2, on_step=lambda *step: reported.append(step))
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]
    batches.clear()

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Overloaded("enough", 1)

    with pytest.raises(Overloaded):
        generate(pipeline, seeds=[7], num_inference_steps=50, on_step=stop)
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("song", "neighbours"),
    [
        (unit_vectors(1, WIDTH + 1)[0], unit_vectors(2, WIDTH + 1)),
        (SONG, unit_vectors(2, WIDTH + 1)),
        (SONG, NEIGHBOURS[0]),
        (SONG[None], NEIGHBOURS),
    ],
)
def test_embeddings_of_another_width_are_refused(pipeline: CoverPipeline, song: Any, neighbours: Any) -> None:
    with pytest.raises(WrongModel, match=r"this generator takes \[8\] and \[K, 8\]"):
        generate(pipeline, song, neighbours, seeds=[1])


def test_a_saved_pipeline_comes_back_whole(pipeline: CoverPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    copy = CoverPipeline.from_pretrained(tmp_path, local_files_only=True)
    copy.set_progress_bar_config(disable=True)
    assert (copy.neighbours, copy.num_inference_steps, copy.guidance_scale, copy.size) == (2, 3, 2.5, SIZE)
    assert copy.encoder_fingerprint == "encoder-1"
    assert np.array_equal(generate(copy, seeds=[7]), generate(pipeline, seeds=[7]))


def test_it_is_a_generator_of_its_kind_that_cannot_say_where_pixels_come_from(pipeline: CoverPipeline) -> None:
    generator: GeneratorModel = pipeline
    assert (generator.kind, generator.num_sources, generator.encoder_fingerprint) == ("transformer", 2, "encoder-1")
    covers = generator.generate(SONG, sources_of(NEIGHBOURS), seeds=[7, 9], request=GenerationRequest(), on_step=ignore)
    assert [(cover.seed, cover.attribution, cover.enlarged) for cover in covers] == [(7, None, ()), (9, None, ())]


@pytest.mark.parametrize("size", [SIZE // 2, SIZE, 3 * SIZE])
def test_a_cover_is_resized_to_the_size_that_is_asked_for(pipeline: CoverPipeline, size: int) -> None:
    own, resized = generate(pipeline, seeds=[7]), generate(pipeline, seeds=[7], size=size)
    assert (resized.shape, resized.dtype) == ((1, 3, size, size), np.dtype(np.uint8))
    assert np.allclose(resized.mean(axis=(2, 3)), own.mean(axis=(2, 3)), atol=3)
    assert np.array_equal(resized, own) is (size == SIZE)


@pytest.mark.parametrize(
    ("field", "value"), [("novelty", 0.5), ("palette_from", "s1"), ("strength", 0.0), ("adapter", "v1")]
)
def test_what_this_kind_has_not_is_refused_by_name(pipeline: CoverPipeline, field: str, value: Any) -> None:
    said = rf"^{field} = {value!r}: a generator of kind 'transformer' has no {field}; it takes "
    with pytest.raises(InputError, match=said):
        generate(pipeline, seeds=[7], **{field: value})


def test_without_embeddings_of_sources_nothing_is_generated(pipeline: CoverPipeline) -> None:
    pixels = np.zeros((2, 3, SIZE, SIZE), np.uint8)
    sources = Sources(("a", "b"), np.ones(2, np.float32), pixels)
    with pytest.raises(WrongModel, match=r"neighbours \(0, 0\)"):
        pipeline.generate(SONG, sources, seeds=[7], request=GenerationRequest(), on_step=ignore)


def test_embeddings_that_cannot_be_written_to_are_taken_without_a_warning(pipeline: CoverPipeline) -> None:
    """As views of Arrow columns are; torch would warn."""
    song, neighbours = SONG.copy(), NEIGHBOURS.copy()
    song.flags.writeable = neighbours.flags.writeable = False
    assert len(generate(pipeline, song, neighbours, seeds=[1])) == 1
