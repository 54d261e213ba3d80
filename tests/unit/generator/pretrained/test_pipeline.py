"""A pre-trained model over another generator's pictures, on tiny checkpoints of every class that is meant to work."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler

from gatefold.errors import InputError, InvalidSettings, NotFound
from gatefold.generator.interface import Generated, GenerationRequest, Pixels, Sources
from gatefold.generator.pretrained.checkpoints import check_class, finish_placement, fits, open_pipeline, working_size
from gatefold.generator.pretrained.image_prompts import ImagePrompts
from gatefold.generator.pretrained.pipeline import PictureJob, PretrainedGenerator
from gatefold.generator_settings import PretrainedSettings
from tests.pretrained import CLASSES, SIZE, MeanOfSources, sources, write_image_prompt_adapter, write_pretrained

SETTINGS = PretrainedSettings(
    num_inference_steps=4, strength=0.5, guidance_scale=3.0, size=SIZE, image_prompts=2, ip_adapter_scale=2.0
)
SONG = np.zeros(8, np.float32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each class, and under `prompts` an IP-Adapter for each."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name in CLASSES:
        write_pretrained(root / name, name)
        write_image_prompt_adapter(root / "prompts" / name, name)
    write_image_prompt_adapter(root / "prompts" / "detailed", "StableDiffusionPipeline", detailed=True)
    return root


def load(
    checkpoints: Path,
    name: str,
    *,
    settings: PretrainedSettings = SETTINGS,
    prompts: str | None = None,
    batch_size: int = 1,
    base: MeanOfSources | None = None,
) -> PretrainedGenerator:
    folder = checkpoints / name
    pipeline = open_pipeline(folder, settings, str(folder), CPU)
    adapter = checkpoints / "prompts" / str(prompts)
    image_prompts = ImagePrompts(pipeline, adapter, str(adapter), settings.ip_adapter_scale) if prompts else None
    return PretrainedGenerator(
        pipeline, settings, base or MeanOfSources(), image_prompts=image_prompts, batch_size=batch_size
    )


def silent(_done: int, _total: int) -> None:
    pass


def generate(
    generator: PretrainedGenerator,
    seeds: Sequence[int],
    given: Sources | None = None,
    request: GenerationRequest | None = None,
) -> list[Generated]:
    asked = request or GenerationRequest()
    return generator.generate(SONG, given or sources(0), seeds=seeds, request=asked, on_step=silent)


def pixels(made: Sequence[Generated]) -> Pixels:
    return np.stack([one.pixels for one in made])


def largest_distance(one: Pixels, other: Pixels) -> int:
    """Of any two values, of 255."""
    return int(np.abs(one.astype(int) - other).max())


def reversed_order(given: Sources) -> Sources:
    """With other covers as image prompts; the mean of all, which the first stage starts from, is the same."""
    return replace(given, pixels=given.pixels[::-1])


@pytest.mark.parametrize("name", CLASSES)
def test_a_checkpoint_of_each_class_goes_over_the_first_stages_picture(checkpoints: Path, name: str) -> None:
    base = MeanOfSources()
    generator = load(checkpoints, name, base=base)
    first, second = generate(generator, [7, 8])
    assert first.pixels.shape == (3, SIZE, SIZE)
    assert first.pixels.dtype == np.uint8
    assert (first.seed, second.seed) == (7, 8)
    assert not np.array_equal(first.pixels, second.pixels)
    assert (generator.kind, generator.num_sources, generator.encoder_fingerprint) == ("diffusers", 5, "e1")
    assert base.requests == [GenerationRequest(size=SIZE)]


@pytest.mark.parametrize("name", CLASSES)
def test_a_picture_has_the_same_bytes_alone_and_among_others(checkpoints: Path, name: str) -> None:
    generator = load(checkpoints, name, prompts=name)
    together = pixels(generate(generator, [1, 2, 3]))
    assert np.array_equal(together[1:2], pixels(generate(generator, [2])))
    assert np.array_equal(together, pixels(generate(load(checkpoints, name, prompts=name), [1, 2, 3])))


@pytest.mark.parametrize("name", CLASSES)
def test_a_batch_over_requests_gives_each_its_own_image_prompts(checkpoints: Path, name: str) -> None:
    """Within 1 of 255 for every pixel: a larger batch only rounds otherwise."""
    generator = load(checkpoints, name, prompts=name, batch_size=4)
    jobs = [PictureJob(SONG, given, [5, 6], GenerationRequest()) for given in (sources(0), reversed_order(sources(0)))]
    together = [pixels(made) for made in generator.generate_jobs(jobs, silent)]
    alone = [pixels(generator.generate_jobs([job], silent)[0]) for job in jobs]
    assert [largest_distance(*pair) <= 1 for pair in zip(together, alone, strict=True)] == [True, True]
    assert largest_distance(*alone) > 1  # only the image prompts differ, and mixed they would show


@pytest.mark.parametrize("prompts", [*CLASSES, "detailed"])
def test_the_nearest_covers_count_as_image_prompts(checkpoints: Path, prompts: str) -> None:
    name = "StableDiffusionPipeline" if prompts == "detailed" else prompts
    generator = load(checkpoints, name, prompts=prompts)
    given = sources(1)
    made = pixels(generate(generator, [4], given))
    assert not np.array_equal(made, pixels(generate(generator, [4], reversed_order(given))))
    first_two = replace(
        given, pixels=given.pixels[[1, 0, 2]]
    )  # the two that are image prompts, and attention has no order
    assert largest_distance(made, pixels(generate(generator, [4], first_two))) <= 1


@pytest.mark.parametrize("name", CLASSES)
def test_image_prompts_count_without_guidance_too(checkpoints: Path, name: str) -> None:
    generator = load(checkpoints, name, prompts=name, batch_size=2)
    plain = GenerationRequest(guidance_scale=1.0)
    made = pixels(generate(generator, [4, 5], sources(1), plain))
    assert largest_distance(made[1:], pixels(generate(generator, [5], sources(1), plain))) <= 1
    assert not np.array_equal(made, pixels(generate(generator, [4, 5], reversed_order(sources(1)), plain)))


def test_a_song_with_fewer_covers_than_image_prompts_shares_a_job_with_others(checkpoints: Path) -> None:
    name = "StableDiffusionPipeline"
    generator = load(checkpoints, name, prompts=name, batch_size=4)
    jobs = [PictureJob(SONG, sources(number, count), [5], GenerationRequest()) for number, count in enumerate((3, 1))]
    together = generator.generate_jobs(jobs, silent)
    assert np.array_equal(pixels(together[1]), pixels(generate(generator, [5], sources(1, 1))))


def test_a_stop_comes_within_a_step_and_the_next_request_is_answered(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    steps: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate(SONG, sources(0), seeds=[1, 2, 3], request=GenerationRequest(), on_step=stop)
    assert steps == [(0, 6), (1, 6), (2, 6), (3, 6)]
    assert np.array_equal(pixels(generate(generator, [1])), pixels(generate(generator, [1])))


def test_a_scheduler_that_evaluates_the_model_more_often_counts_no_more_steps(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    generator._pipeline.scheduler = HeunDiscreteScheduler.from_config(generator._pipeline.scheduler.config)
    steps: list[tuple[int, int]] = []
    request = GenerationRequest(strength=1.0)
    generator.generate(SONG, sources(0), seeds=[1], request=request, on_step=lambda *step: steps.append(step))
    assert steps == sorted(steps)
    assert len(steps) > 5
    assert steps[-1] == (4, 4)


def test_a_request_may_ask_for_size_steps_guidance_and_strength(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    plain = generate(generator, [1])[0]
    assert generate(generator, [1], request=GenerationRequest(size=48))[0].pixels.shape == (3, 48, 48)
    for asked in ({"num_inference_steps": 8}, {"guidance_scale": 9.0}, {"strength": 1.0}):
        request = GenerationRequest(**asked)
        assert not np.array_equal(generate(generator, [1], request=request)[0].pixels, plain.pixels)


def test_the_less_strength_the_nearer_the_picture_stays_to_its_beginning(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    asked = GenerationRequest(size=SIZE)
    begun = pixels(MeanOfSources().generate(SONG, sources(0), seeds=[1], request=asked, on_step=silent))
    requests = [GenerationRequest(strength=strength) for strength in (0.25, 1.0)]
    through_vae = [pixels(generate(generator, [1], request=request)) for request in requests]
    assert begun.shape == through_vae[0].shape
    assert not np.array_equal(through_vae[0], through_vae[1])


def test_the_attribution_is_that_of_the_beginning_at_the_size_of_the_cover(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    attribution = generate(generator, [1], request=GenerationRequest(size=48))[0].attribution
    assert attribution is not None
    assert [share.song_id for share in attribution.shares] == ["s0-0", "s0-1", "s0-2"]
    assert attribution.holder.shape == (48, 48)
    assert np.array_equal(attribution.holder[0], [0] * 24 + [1] * 24)


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 4), (0.1, 4), (1.5, 4)])
def test_a_request_that_leaves_no_step_is_refused(checkpoints: Path, strength: float, steps: int) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    with pytest.raises(InputError, match=rf"strength {strength} of {steps} num_inference_steps leaves no step"):
        generate(generator, [1], request=GenerationRequest(strength=strength, num_inference_steps=steps))


def test_a_picture_that_the_safety_checker_refuses_is_not_handed_out_black(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")

    def refuse(image: Pixels, _device: object, _dtype: object) -> tuple[Pixels, list[bool]]:
        return image, [True]

    generator._pipeline.run_safety_checker = refuse
    with pytest.raises(InputError, match="the safety checker of the checkpoint refused the picture of seed 3"):
        generate(generator, [3])


def test_an_adapter_is_refused_where_there_are_none(checkpoints: Path) -> None:
    generator = load(checkpoints, "StableDiffusionPipeline")
    with pytest.raises(InputError, match="adapter 'abc': this generator has no adapters"):
        generate(generator, [1], request=GenerationRequest(adapter="abc"))


def test_an_unknown_adapter_is_refused_before_anything_is_computed(checkpoints: Path) -> None:
    @contextmanager
    def unknown(version: str) -> Iterator[Path]:
        if version:
            raise NotFound(f"no adapter '{version}'")
        yield Path()

    pipeline = open_pipeline(checkpoints / "FluxPipeline", SETTINGS, "here", CPU)
    base = MeanOfSources()
    generator = PretrainedGenerator(pipeline, SETTINGS, base, open_adapter=unknown)
    with pytest.raises(NotFound, match="no adapter 'abc'"):
        generate(generator, [1], request=GenerationRequest(adapter="abc"))
    assert base.requests == []


def altered(folder: Path, **values: object) -> Path:
    """A checkpoint whose index says these things."""
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **values}))
    return folder


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"_class_name": "Flux2Pipeline"}, "of class Flux2Pipeline, for which diffusers has one without strength"),
        ({"_class_name": "DDPMPipeline"}, "of class DDPMPipeline, for which diffusers has no image-to-image pipeline"),
        ({"_class_name": "StableDiffusionControlNetPipeline"}, "which needs a control image"),
        ({"unet": ["os", "system"]}, "its 'unet' is of library 'os'; allowed: diffusers, transformers"),
    ],
)
def test_a_class_that_cannot_be_used_is_named_with_what_is_allowed(
    tmp_path: Path, values: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidSettings, match=says) as refused:
        check_class(altered(tmp_path / "odd", **values), "file:///models/odd")
    assert "generator.diffusers.model 'file:///models/odd'" in str(refused.value)
    assert "allowed: " in str(refused.value)


def test_a_folder_without_an_index_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"its model_index.json cannot be read"):
        check_class(tmp_path, "/models/none")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_are_pickled_are_not_read(tmp_path: Path, part: str) -> None:
    folder = write_pretrained(tmp_path / "pickled", "StableDiffusionPipeline")
    weights = next((folder / part).glob("*.safetensors"))
    name = "diffusion_pytorch_model.bin" if part == "unet" else "pytorch_model.bin"
    weights.rename(folder / part / name)
    with pytest.raises(InvalidSettings, match="all weights in safetensors"):
        open_pipeline(folder, SETTINGS, str(folder), CPU)


def test_image_prompts_that_do_not_fit_the_checkpoint_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="does not fit a StableDiffusionXLImg2ImgPipeline"):
        load(checkpoints, "StableDiffusionXLPipeline", prompts="FluxPipeline")
    pipeline = open_pipeline(checkpoints / "FluxPipeline", SETTINGS, "here", CPU)
    with pytest.raises(InvalidSettings, match=r"ip_adapter '/prompts' holds 0 files of weights"):
        ImagePrompts(pipeline, tmp_path, "/prompts", 1.0)


def test_whether_a_checkpoint_fits_is_counted_in_half_precision(checkpoints: Path) -> None:
    folder = checkpoints / "StableDiffusionPipeline"
    stored = sum(path.stat().st_size for path in folder.glob("*/*.safetensors"))  # float32
    assert fits(folder, SETTINGS.model_copy(update={"gpu_share": 1.0}), stored // 2)
    assert not fits(folder, SETTINGS.model_copy(update={"gpu_share": 0.5}), stored // 2)


def test_the_size_is_the_checkpoints_own_or_what_its_latents_allow(checkpoints: Path) -> None:
    pipeline = open_pipeline(checkpoints / "StableDiffusion3Pipeline", SETTINGS, "here", CPU)
    assert [working_size(pipeline, wanted) for wanted in (None, 18, 2, 50)] == [SIZE, 16, 4, 48]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [1.0, 1e-9])
@pytest.mark.parametrize("name", CLASSES)
def test_a_gpu_holds_all_networks_or_each_while_it_computes(checkpoints: Path, name: str, share: float) -> None:
    """In half precision, a batch at a time; a picture then differs from the one alone by rounding."""
    settings = SETTINGS.model_copy(update={"gpu_share": share})
    folder, device = checkpoints / name, torch.device("cuda")
    pipeline = open_pipeline(folder, settings, str(folder), device)
    prompts = ImagePrompts(pipeline, checkpoints / "prompts" / name, "here", 1.0)
    finish_placement(pipeline, device)
    generator = PretrainedGenerator(pipeline, settings, MeanOfSources(), image_prompts=prompts, batch_size=4)
    together = pixels(generate(generator, [1, 2, 3]))
    assert together.shape == (3, 3, SIZE, SIZE)
    assert largest_distance(together[:1], pixels(generate(generator, [1]))) <= 8
    assert (pipeline.hf_device_map is None) == (share < 1)
