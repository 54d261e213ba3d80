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

from gatefold.backbones import (
    Backbone,
    Checkpoint,
    Knob,
    Network,
    build_cover_backbone,
    build_song_backbone,
    load_pretrained,
    rebuild,
)
from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, Section
from gatefold.errors import BundleCorrupt, InvalidSettings, WrongModel
from gatefold.generator import CoverPipeline
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.storage.checkpoints import checkpoint_on_disk
from gatefold.towers import DualEncoder

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class _EncoderConfig(Section):
    """What rebuilds an encoder: its towers, and the ears and eyes they were trained with."""

    encoder: EncoderSettings
    audio: AudioSettings
    cover: CoverSettings
    song_backbone: Checkpoint | None = None
    cover_backbone: Checkpoint | None = None


def build_encoder(settings: EncoderSettings, audio: AudioSettings, cover: CoverSettings) -> DualEncoder:
    """An encoder before its first step: our own towers at random, backbones with the weights of their checkpoints.

    Raises: InvalidSettings for a checkpoint that cannot stand where it should, or that wants other ears.
    """
    song, picture = _pretrained(settings, "song_backbone"), _pretrained(settings, "cover_backbone")
    return _assembled(settings, audio, cover, song, picture)


def publish_encoder(
    uri: str, model: DualEncoder, *, version: str, lineage: Mapping[str, str], details: Mapping[str, object]
) -> Bundle:
    """A bundle of kind "encoder", whole by itself: its backbones, frozen or not, are in it."""
    song, picture = (tower.checkpoint if isinstance(tower, Backbone) else None
                     for tower in (model.song_tower, model.cover_tower))
    config = _EncoderConfig(
        encoder=model.settings, audio=model.audio, cover=model.cover, song_backbone=song, cover_backbone=picture
    )
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
        song = None if config.song_backbone is None else rebuild(config.song_backbone, "song_backbone")
        picture = None if config.cover_backbone is None else rebuild(config.cover_backbone, "cover_backbone")
        model = _assembled(config.encoder, config.audio, config.cover, song, picture)
        model.load_state_dict(load(bundle.read(_WEIGHTS)))
    except (ValidationError, InvalidSettings, WrongModel, SafetensorError, RuntimeError) as error:
        raise BundleCorrupt(f"encoder '{uri}' does not fit this gatefold ({error}); train it again") from error
    model.fingerprint = bundle.fingerprint
    return model.eval().requires_grad_(False).to(device)


def _pretrained(settings: EncoderSettings, knob: Knob) -> Network | None:
    location: str | None = getattr(settings, knob)
    if location is None:
        return None
    with checkpoint_on_disk(location, weights=True) as folder:
        return load_pretrained(folder, knob, location)


def _assembled(
    settings: EncoderSettings,
    audio: AudioSettings,
    cover: CoverSettings,
    song: Network | None,
    picture: Network | None,
) -> DualEncoder:
    return DualEncoder(
        settings,
        audio,
        cover,
        song_backbone=None if song is None else build_song_backbone(*song, settings, audio),
        cover_backbone=None if picture is None else build_cover_backbone(*picture, settings, cover),
    )


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
