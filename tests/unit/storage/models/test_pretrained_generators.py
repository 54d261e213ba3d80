"""Checkpoints by content, generator bundles that name one, and bundles of LoRAs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gatefold.config import PretrainedSettings, load
from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, InvalidSettings
from gatefold.generator.interface import GenerationRequest, Pixels
from gatefold.generator.pretrained.lora import LoraTrainer, encode_lora
from gatefold.generator.pretrained.pipeline import PretrainedGenerator
from gatefold.generator_settings import LoraSettings
from gatefold.storage.bundles import Bundle, publish
from gatefold.storage.models.pretrained_generators import (
    by_content,
    digest_of,
    load_pretrained,
    on_disk,
    open_adapter,
    pretrained_files,
    publish_adapter,
)
from tests.pretrained import SIZE, MeanOfSources, sources, write_image_prompt_adapter, write_pretrained

NAME = "StableDiffusionPipeline"
VERSION = "0123456789ab"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_pretrained(root / "model", NAME)
    write_image_prompt_adapter(root / "prompts", NAME)
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy that a test may alter: `model/` and `prompts/`."""
    return Path(shutil.copytree(published, tmp_path / "copy"))


def settings_for(folder: Path, **values: object) -> PretrainedSettings:
    return PretrainedSettings.model_validate(
        {
            "model": str(folder / "model"),
            "ip_adapter": str(folder / "prompts"),
            "size": SIZE,
            "num_inference_steps": 2,
            **values,
        }
    )


def bundle_in(folder: Path, settings: PretrainedSettings) -> Bundle:
    files = pretrained_files(settings)
    return publish((folder / "g1").as_uri(), files, kind="generator", version="g1", lineage={}, details={})


def load_from(folder: Path, bundle: Bundle) -> PretrainedGenerator:
    return load_pretrained(bundle, MeanOfSources(), adapters=(folder / "adapters").as_uri())


def picture(generator: PretrainedGenerator, adapter: str | None = None) -> Pixels:
    song = np.zeros(8, np.float32)
    request = GenerationRequest(adapter=adapter)
    made = generator.generate(song, sources(0), seeds=[3], request=request, on_step=lambda *_: None)
    return made[0].pixels


def publish_lora(folder: Path, settings: PretrainedSettings, model_digest: str | None = None) -> None:
    torch.manual_seed(0)
    trainer = LoraTrainer(folder / "model", settings, "here", sources(1).pixels, device=torch.device("cpu"))
    for name, parameter in trainer.denoiser.named_parameters():
        if "lora_B" in name:  # which is nothing before it learns
            torch.nn.init.normal_(parameter)
    publish_adapter(
        (folder / "adapters" / VERSION).as_uri(),
        encode_lora(trainer.state_dict(), settings.lora, NAME),
        version=VERSION,
        model_digest=model_digest or digest_of(str(folder / "model"), "model"),
        lineage={},
        details={},
    )


def test_a_generator_comes_back_from_its_bundle_as_it_was(folder: Path) -> None:
    bundle = bundle_in(folder, settings_for(folder))
    assert sum(entry.size_bytes for entry in bundle.files.values()) < 5_000  # the checkpoint is not in it
    first, second = load_from(folder, bundle), load_from(folder, bundle)
    assert np.array_equal(picture(first), picture(second))


def test_a_checkpoint_with_other_weights_in_its_place_is_refused(folder: Path) -> None:
    bundle = bundle_in(folder, settings_for(folder))
    shutil.rmtree(folder / "model")
    write_pretrained(folder / "model", NAME, seed=1)
    with pytest.raises(BundleCorrupt, match=r"published with another content of generator\.diffusers\.model"):
        load_from(folder, bundle)


@pytest.mark.parametrize("place", ["model", "prompts"])
def test_a_folder_that_is_gone_is_named(folder: Path, place: str) -> None:
    bundle = bundle_in(folder, settings_for(folder))
    shutil.rmtree(folder / place)
    with pytest.raises(BundleNotFound, match=f"needs what is not here: generator.diffusers.*{folder / place}"):
        load_from(folder, bundle)


def test_a_damaged_description_is_corrupt(folder: Path) -> None:
    files = {"pretrained.json": b'{"settings": {"prompt": 3}}'}
    bundle = publish((folder / "g2").as_uri(), files, kind="generator", version="g2", lineage={}, details={})
    with pytest.raises(BundleCorrupt, match="does not fit this gatefold"):
        load_from(folder, bundle)


def test_a_checkpoint_is_known_by_what_is_read_of_it_wherever_it_lies(folder: Path, published: Path) -> None:
    here = str(folder / "model")
    before = digest_of(here, "model")
    assert before == digest_of(str(published / "model"), "model")
    for ignored in ("README.md", "all-in-one.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
                    "unet/diffusion_pytorch_model.bin", "unet/old/config.json"):  # fmt: skip
        (folder / "model" / ignored).parent.mkdir(exist_ok=True)
        (folder / "model" / ignored).write_bytes(b"other")
    assert digest_of(here, "model") == before
    (folder / "model" / "scheduler" / "scheduler_config.json").write_text("{}")
    assert digest_of(here, "model") != before


def test_settings_by_content_do_not_depend_on_places_or_on_how_loras_are_trained(folder: Path, published: Path) -> None:
    one = by_content(settings_for(folder))
    other = by_content(settings_for(published, lora={"steps": 7}))
    assert one == other
    assert one != by_content(settings_for(folder, strength=0.9))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"generator\.diffusers\.ip_adapter '.*' holds no weights in safetensors"):
        digest_of(str(tmp_path), "ip_adapter")


def test_a_model_that_is_not_set_is_asked_for() -> None:
    with pytest.raises(InvalidSettings, match=r"generator\.diffusers\.model is not set"):
        pretrained_files(PretrainedSettings())
    with pytest.raises(InvalidSettings, match=r"generator\.kind diffusers needs generator\.diffusers\.model"):
        load(overrides=["generator.kind=diffusers"])


def test_a_checkpoint_that_cannot_be_used_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(InvalidSettings, match="DDPMPipeline, for which diffusers has no image-to-image pipeline"):
        pretrained_files(PretrainedSettings(model=str(tmp_path)))


def test_a_local_checkpoint_is_read_where_it_lies(folder: Path) -> None:
    with on_disk(str(folder / "model"), "model") as place:
        assert place == folder / "model"


def test_a_request_names_an_adapter_by_version(folder: Path) -> None:
    settings = settings_for(folder, lora=LoraSettings(rank=2))
    publish_lora(folder, settings)
    generator = load_from(folder, bundle_in(folder, settings))
    plain = picture(generator)
    assert not np.array_equal(picture(generator, VERSION), plain)
    assert np.array_equal(picture(generator), plain)


def test_an_adapter_of_another_checkpoint_is_refused(folder: Path) -> None:
    settings = settings_for(folder)
    publish_lora(folder, settings, model_digest="f" * 64)
    generator = load_from(folder, bundle_in(folder, settings))
    with pytest.raises(InputError, match=f"adapter '{VERSION}' was trained on the checkpoint ffffffffffff, this gene"):
        picture(generator, VERSION)


@pytest.mark.parametrize("version", ["../../etc", "ABCDEF012345", "", "0123456789ab/../x", "ba9876543210"])
def test_an_adapter_that_is_not_there_is_not_found(folder: Path, version: str) -> None:
    """Whatever a request calls it."""
    with (
        pytest.raises(BundleNotFound, match="there is no adapter"),
        open_adapter((folder / "adapters").as_uri(), version, model_digest=""),
    ):
        pass
