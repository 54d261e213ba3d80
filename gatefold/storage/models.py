"""Model bundles to modules and back: a config, safetensors, and never a pickle."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.utils import logging as diffusers_logging
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, Section
from gatefold.errors import BundleCorrupt
from gatefold.generator import CoverPipeline
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.towers import DualEncoder

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class _EncoderConfig(Section):
    """What rebuilds an encoder: its towers, and the ears and eyes they were trained with."""

    encoder: EncoderSettings
    audio: AudioSettings
    cover: CoverSettings


def publish_encoder(
    uri: str, model: DualEncoder, *, version: str, lineage: Mapping[str, str], details: Mapping[str, object]
) -> Bundle:
    """A bundle of kind "encoder"."""
    config = _EncoderConfig(encoder=model.settings, audio=model.audio, cover=model.cover)
    files = {
        _CONFIG: config.model_dump_json(indent=2).encode(),
        _WEIGHTS: save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}),
    }
    return publish(uri, files, kind="encoder", version=version, lineage=lineage, details=details)


def load_encoder(uri: str, device: str = "cpu") -> DualEncoder:
    """The encoder of a bundle, ready to embed. Raises: BundleNotFound, BundleCorrupt."""
    bundle = open_bundle(uri, "encoder")
    try:
        config = _EncoderConfig.model_validate_json(bundle.read(_CONFIG))
        model = DualEncoder(config.encoder, config.audio, config.cover)
        model.load_state_dict(load(bundle.read(_WEIGHTS)))
    except (ValidationError, SafetensorError, RuntimeError) as error:
        raise BundleCorrupt(f"encoder '{uri}' does not fit this gatefold ({error}); train it again") from error
    model.fingerprint = bundle.fingerprint
    return model.eval().requires_grad_(False).to(device)


def publish_generator(
    uri: str, pipeline: CoverPipeline, *, version: str, lineage: Mapping[str, str], details: Mapping[str, object]
) -> Bundle:
    """A bundle of kind "generator": the folder that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return publish(uri, files, kind="generator", version=version, lineage=lineage, details=details)


def load_generator(uri: str, device: str = "cpu") -> CoverPipeline:
    """The pipeline of a bundle, ready to paint. Raises: BundleNotFound, BundleCorrupt."""
    bundle = open_bundle(uri, "generator")
    diffusers_logging.disable_progress_bar()  # its bar over two files; how progress is shown is not for it to say
    with tempfile.TemporaryDirectory() as folder:
        bundle.fetch(Path(folder))
        try:
            pipeline: CoverPipeline = CoverPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise BundleCorrupt(f"generator '{uri}' does not fit this gatefold ({error}); train it again") from error
    pipeline.transformer.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.device(device))
    return pipeline


def build_pipeline(
    transformer: SD3Transformer2DModel,
    *,
    neighbours: int,
    num_inference_steps: int,
    guidance_scale: float,
    encoder_fingerprint: str,
) -> CoverPipeline:
    """A pipeline round a trained denoiser."""
    return CoverPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        neighbours=neighbours,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        encoder_fingerprint=encoder_fingerprint,
    )
