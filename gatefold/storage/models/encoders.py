"""Encoder bundles to modules and back: a config, safetensors, and never a pickle."""

from collections.abc import Mapping

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, Section
from gatefold.encoder.backbones import (
    Backbone,
    BackboneSetting,
    Checkpoint,
    Network,
    build_cover_backbone,
    build_song_backbone,
    load_pretrained,
    rebuild,
)
from gatefold.encoder.towers import DualEncoder
from gatefold.errors import BundleCorrupt, InvalidSettings, WrongModel
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.storage.models.pretrained_towers import checkpoint_on_disk

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class _EncoderConfig(Section):
    """What rebuilds an encoder: its towers, and the audio and cover settings they were trained with."""

    encoder: EncoderSettings
    audio: AudioSettings
    cover: CoverSettings
    song_backbone: Checkpoint | None = None
    cover_backbone: Checkpoint | None = None


def build_encoder(settings: EncoderSettings, audio: AudioSettings, cover: CoverSettings) -> DualEncoder:
    """An encoder before its first step: our own towers at random, backbones with the weights of their checkpoints.

    Raises: InvalidSettings for a checkpoint of a network that is not allowed there, or that needs other audio settings.
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


def _pretrained(settings: EncoderSettings, setting: BackboneSetting) -> Network | None:
    location: str | None = getattr(settings, setting)
    if location is None:
        return None
    with checkpoint_on_disk(location, weights=True) as folder:
        return load_pretrained(folder, setting, location)


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
