"""LoRAs trained on a song's covers, on tiny checkpoints of every class that can be trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from gatefold.errors import InvalidSettings
from gatefold.generator.interface import GenerationRequest, Pixels
from gatefold.generator.pretrained.checkpoints import open_pipeline
from gatefold.generator.pretrained.image_prompts import ImagePrompts
from gatefold.generator.pretrained.lora import LoraTrainer, check_trainable, encode_lora
from gatefold.generator.pretrained.pipeline import LORA_WEIGHTS, PictureJob, PretrainedGenerator
from gatefold.generator_settings import LoraSettings, PretrainedSettings
from tests.pretrained import CLASSES, SIZE, MeanOfSources, sources, write_image_prompt_adapter, write_pretrained

LORA = LoraSettings(rank=4, alpha=8.0, batch_size=4)
SETTINGS = PretrainedSettings(num_inference_steps=2, strength=0.5, size=SIZE, lora=LORA)
COVERS = sources(3, 4).pixels
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for name in CLASSES:
        write_pretrained(root / name, name)
    return root


def trainer(folder: Path) -> LoraTrainer:
    torch.manual_seed(0)
    return LoraTrainer(folder, SETTINGS, str(folder), COVERS, device=CPU)


def train(learner: LoraTrainer, steps: int, lr: float = 0.02) -> float:
    """The loss of the last step."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=lr)
    loss = torch.zeros(())
    for step in range(steps):
        loss = learner.loss(LORA.batch_size, torch.Generator().manual_seed(step))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def error(learner: LoraTrainer) -> float:
    """Over draws that are always the same."""
    with torch.no_grad():
        return float(learner.loss(16, torch.Generator().manual_seed(1000)))


@pytest.mark.parametrize("name", CLASSES)
def test_training_lowers_the_loss_and_leaves_the_checkpoints_weights_alone(checkpoints: Path, name: str) -> None:
    learner = trainer(checkpoints / name)
    frozen = {
        key: value.clone() for key, value in learner.denoiser.state_dict().items() if "lora" not in key
    }  # fmt: skip
    before = error(learner)
    train(learner, 8)
    assert error(learner) < before
    after = learner.denoiser.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in frozen.items())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noise_and_velocity_are_both_learned(tmp_path: Path, prediction_type: str) -> None:
    folder = write_pretrained(tmp_path / "model", "StableDiffusionPipeline", prediction_type=prediction_type)
    learner = trainer(folder)
    before = error(learner)
    train(learner, 8)
    assert error(learner) < before


@pytest.mark.parametrize("name", CLASSES)
def test_what_has_been_learned_is_given_back_exactly(checkpoints: Path, name: str) -> None:
    learner, fresh = trainer(checkpoints / name), trainer(checkpoints / name)
    train(learner, 2)
    fresh.load_state_dict(learner.state_dict())
    assert error(fresh) == error(learner)
    kept = learner.state_dict()
    train(learner, 1)
    assert any(not torch.equal(value, learner.state_dict()[key]) for key, value in kept.items())


def pictures(generator: PretrainedGenerator, adapter: str | None) -> Pixels:
    request = GenerationRequest(adapter=adapter)
    song = np.zeros(8, np.float32)
    made = generator.generate(song, sources(0), seeds=[1], request=request, on_step=lambda *_: None)
    return made[0].pixels


@pytest.mark.parametrize("name", CLASSES)
def test_a_lora_changes_pictures_where_a_request_names_it_and_only_there(
    checkpoints: Path, tmp_path: Path, name: str
) -> None:
    learner = trainer(checkpoints / name)
    train(learner, 5, lr=0.3)
    (tmp_path / "a1").mkdir()
    (tmp_path / "a1" / LORA_WEIGHTS).write_bytes(encode_lora(learner.state_dict(), LORA, name))
    opened = []

    @contextmanager
    def open_adapter(version: str) -> Iterator[Path]:
        opened.append(version)
        yield tmp_path / version

    pipeline = open_pipeline(checkpoints / name, SETTINGS, name, CPU)
    generator = PretrainedGenerator(pipeline, SETTINGS, MeanOfSources(), open_adapter=open_adapter)
    plain, adapted = pictures(generator, None), pictures(generator, "a1")
    assert not np.array_equal(plain, adapted)
    assert np.array_equal(pictures(generator, None), plain)
    assert np.array_equal(pictures(generator, "a1"), adapted)
    assert opened == ["a1"]


@pytest.mark.parametrize("name", CLASSES)
def test_requests_with_and_without_a_lora_and_with_image_prompts_share_a_job(
    checkpoints: Path, tmp_path: Path, name: str
) -> None:
    learner = trainer(checkpoints / name)
    train(learner, 5, lr=0.3)
    (tmp_path / LORA_WEIGHTS).write_bytes(encode_lora(learner.state_dict(), LORA, name))
    prompts = write_image_prompt_adapter(tmp_path / "prompts", name)

    @contextmanager
    def open_adapter(_version: str) -> Iterator[Path]:
        yield tmp_path

    pipeline = open_pipeline(checkpoints / name, SETTINGS, name, CPU)
    generator = PretrainedGenerator(
        pipeline,
        SETTINGS,
        MeanOfSources(),
        image_prompts=ImagePrompts(pipeline, prompts, "here", 1.0),
        open_adapter=open_adapter,
    )
    asked = ("a1", None, "a1")
    jobs = [
        PictureJob(np.zeros(8, np.float32), sources(0), [1], GenerationRequest(adapter=adapter)) for adapter in asked
    ]
    together = [made[0].pixels for made in generator.generate_jobs(jobs, lambda *_: None)]
    for made, adapter in zip(together, asked, strict=True):
        assert np.array_equal(made, pictures(generator, adapter))
    assert not np.array_equal(together[0], together[1])


def test_alpha_is_published_with_the_weights(checkpoints: Path, tmp_path: Path) -> None:
    """Or diffusers would take it to be the rank, and what was learned would count half."""
    name = "StableDiffusionPipeline"
    learner = trainer(checkpoints / name)
    (tmp_path / LORA_WEIGHTS).write_bytes(encode_lora(learner.state_dict(), LORA, name))
    pipeline = open_pipeline(checkpoints / name, SETTINGS, name, CPU)
    pipeline.load_lora_weights(str(tmp_path), weight_name=LORA_WEIGHTS, adapter_name="a1")
    assert pipeline.unet.peft_config["a1"].lora_alpha == LORA.alpha
    assert pipeline.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q").scaling["a1"] == 2.0


def test_the_same_weights_are_published_in_the_same_bytes(checkpoints: Path) -> None:
    state = trainer(checkpoints / "FluxPipeline").state_dict()
    assert encode_lora(state, LORA, "FluxPipeline") == encode_lora(state, LORA, "FluxPipeline")


def test_only_a_few_loras_stay_in_memory(checkpoints: Path, tmp_path: Path) -> None:
    name = "StableDiffusionPipeline"
    learner = trainer(checkpoints / name)

    @contextmanager
    def open_adapter(version: str) -> Iterator[Path]:
        (tmp_path / version).mkdir(exist_ok=True)
        (tmp_path / version / LORA_WEIGHTS).write_bytes(encode_lora(learner.state_dict(), LORA, name))
        yield tmp_path / version

    pipeline = open_pipeline(checkpoints / name, SETTINGS, name, CPU)
    generator = PretrainedGenerator(pipeline, SETTINGS, MeanOfSources(), open_adapter=open_adapter)
    for number in range(6):
        pictures(generator, f"a{number}")
    assert list(pipeline.unet.peft_config) == ["a2", "a3", "a4", "a5"]


@pytest.mark.parametrize("other", ["StableDiffusionXLPipeline", "FluxPipeline"])
def test_a_lora_of_another_class_is_refused(checkpoints: Path, tmp_path: Path, other: str) -> None:
    """Its weights are of other shapes, or for another network."""
    state = trainer(checkpoints / other).state_dict()
    (tmp_path / LORA_WEIGHTS).write_bytes(encode_lora(state, LORA, other))

    @contextmanager
    def open_adapter(_version: str) -> Iterator[Path]:
        yield tmp_path

    pipeline = open_pipeline(checkpoints / "StableDiffusionPipeline", SETTINGS, "here", CPU)
    generator = PretrainedGenerator(pipeline, SETTINGS, MeanOfSources(), open_adapter=open_adapter)
    plain = pictures(generator, None)
    with pytest.raises(InvalidSettings, match="adapter 'a1' does not fit a StableDiffusionImg2ImgPipeline"):
        pictures(generator, "a1")
    assert np.array_equal(pictures(generator, None), plain)


def test_a_class_that_cannot_be_trained_is_named_with_those_that_can(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyV22CombinedPipeline"}')
    with pytest.raises(InvalidSettings, match=r"of class KandinskyV22CombinedPipeline.* allowed: StableDiffusionPipe"):
        check_trainable(tmp_path, "/models/k")


def test_a_scheduler_that_cannot_be_trained_for_is_named(tmp_path: Path) -> None:
    folder = write_pretrained(tmp_path / "model", "StableDiffusionPipeline", prediction_type="sample")
    with pytest.raises(InvalidSettings, match="prediction_type 'sample' of its scheduler cannot be trained; allowed"):
        check_trainable(folder, "/models/s")
