"""Pre-trained text-to-image models and the LoRAs trained on them, in storage: digests, files on disk, and bundles.

A checkpoint has gigabytes, so a generator bundle names it by place and by a digest of what it reads of it, and is
refused where the place holds something else. A LoRA is a bundle of its own.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError

from gatefold.config import PretrainedSettings
from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, InvalidSettings
from gatefold.generator.interface import GeneratorModel
from gatefold.generator.pretrained.checkpoints import INDEX, check_class, finish_placement, is_variant, open_pipeline
from gatefold.generator.pretrained.image_prompts import ImagePrompts
from gatefold.generator.pretrained.pipeline import LORA_WEIGHTS, OpenAdapter, PretrainedGenerator
from gatefold.section import Section
from gatefold.storage import objects
from gatefold.storage.bundles import Bundle, open_bundle, publish

Place = Literal["model", "ip_adapter"]
"""Settings that name a folder."""
CONFIG = "pretrained.json"
"""File of a generator bundle of kind "diffusers", beside those of its first stage."""
ADAPTER = "adapter"
"""kind of a LoRA's bundle"""
_VERSION = re.compile(r"[0-9a-f]{12}")
_PIECE = 1 << 26  # bytes read at a time: a file may be larger than memory


class _Config(Section):
    """What a generator bundle says of its pre-trained model."""

    settings: PretrainedSettings
    digests: dict[Place, str]
    """of the folders that the settings name"""


def by_content(settings: PretrainedSettings) -> PretrainedSettings:
    """The same settings, model and IP-Adapter named by a digest of their files in the place of where they lie.

    Those of training a LoRA are left out: they change no generator.

    Raises: InvalidSettings when there are none.
    """
    named = {str(place): digest for place, digest in _digests(settings).items()}
    return settings.model_copy(update={**named, "lora": PretrainedSettings().lora})


def digest_of(location: str, place: Place) -> str:
    """Sixty-four hex digits that change when any file that is read of this folder does.

    Raises: InvalidSettings when there is nothing to be read.
    """
    uri = objects.resolve(location)
    files = _files(uri, place)
    if not any(name.endswith(".safetensors") for name in files):
        raise InvalidSettings(
            f"generator.diffusers.{place} '{location}' holds no weights in safetensors; name a folder that does, and "
            "that every worker can read"
        )
    lines = [f"{name} {_digest_of_file(file.uri, file.etag)}" for name, file in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def on_disk(location: str, place: Place, *, weights: bool = True) -> Iterator[Path]:
    """A local folder with the files that are read of it; one in a store is fetched, and gone afterwards.

    Args:
        weights: whether those are fetched too.

    Raises: storage errors.
    """
    uri = objects.resolve(location)
    path = objects.local_path(uri)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, file in _files(uri, place).items():
            if weights or not name.endswith(".safetensors"):
                target = Path(folder) / name
                target.parent.mkdir(exist_ok=True)
                with target.open("wb") as sink:
                    sink.writelines(_pieces(file.uri))
        yield Path(folder)


def pretrained_files(settings: PretrainedSettings) -> dict[str, bytes]:
    """What a generator bundle of kind "diffusers" holds beside the files of its first stage.

    Raises: InvalidSettings for a checkpoint that cannot be used or is not there.
    """
    location = model_of(settings)
    with on_disk(location, "model", weights=False) as folder:
        check_class(folder, location)
    config = _Config(settings=settings, digests=_digests(settings))
    return {CONFIG: config.model_dump_json(indent=2).encode()}


def load_pretrained(bundle: Bundle, base: GeneratorModel, *, adapters: str, device: str = "cpu") -> PretrainedGenerator:
    """The generator of a bundle, ready to generate.

    Args:
        bundle: with `pretrained_files`.
        base: its first stage, from the same bundle.
        adapters: folder uri of the LoRA bundles that requests may name (`Workspace.adapters`).
        device: that Ray granted.

    Raises: BundleNotFound where the checkpoint is not; BundleCorrupt where another one lies in its place.
    """
    try:
        config = _Config.model_validate_json(bundle.read(CONFIG))
    except ValidationError as error:
        raise BundleCorrupt(
            f"generator '{bundle.uri}' does not fit this gatefold ({error}); run `gatefold train-generator`"
        ) from error
    for place, digest in config.digests.items():
        _check_digest(bundle, config.settings, place, digest)
    opener = partial(open_adapter, adapters, model_digest=config.digests["model"])
    return assemble(config.settings, base, open_adapter=opener, device=device)


def assemble(
    settings: PretrainedSettings, base: GeneratorModel, *, open_adapter: OpenAdapter | None = None, device: str = "cpu"
) -> PretrainedGenerator:
    """A generator of the checkpoint, and the IP-Adapter, that the settings name.

    Args:
        base: its first stage.
        device: that Ray granted.

    Raises: InvalidSettings.
    """
    target, location = torch.device(device), model_of(settings)
    with on_disk(location, "model") as folder:
        pipeline = open_pipeline(folder, settings, location, target)
    prompts = None
    if settings.ip_adapter is not None:
        with on_disk(settings.ip_adapter, "ip_adapter") as folder:
            prompts = ImagePrompts(pipeline, folder, settings.ip_adapter, settings.ip_adapter_scale)
    finish_placement(pipeline, target)
    batch_size = 1 if target.type == "cpu" else settings.batch_size
    return PretrainedGenerator(
        pipeline, settings, base, image_prompts=prompts, open_adapter=open_adapter, batch_size=batch_size
    )


def publish_adapter(
    uri: str,
    weights: bytes,
    *,
    version: str,
    model_digest: str,
    lineage: Mapping[str, str],
    details: Mapping[str, object],
) -> Bundle:
    """A bundle of kind "adapter": one file of `encode_lora`.

    Args:
        model_digest: of the checkpoint that it was trained on, as `digest_of` gives it.
    """
    made_of = {**lineage, "model": model_digest}
    return publish(uri, {LORA_WEIGHTS: weights}, kind=ADAPTER, version=version, lineage=made_of, details=details)


@contextmanager
def open_adapter(adapters: str, version: str, *, model_digest: str) -> Iterator[Path]:
    """A local folder with the weights of a LoRA, for as long as they are read.

    Raises: BundleNotFound; InputError for one that was trained on another checkpoint; BundleCorrupt.
    """
    if not _VERSION.fullmatch(version):
        raise BundleNotFound(f"there is no adapter {version!r}: a version has twelve hex digits")
    bundle = open_bundle(objects.join(adapters, version), ADAPTER)
    trained_on = bundle.lineage.get("model")
    if trained_on != model_digest:
        raise InputError(
            f"adapter '{version}' was trained on the checkpoint {str(trained_on)[:12]}, this generator runs "
            f"{model_digest[:12]}; train one on this checkpoint with `gatefold adapt`"
        )
    with tempfile.TemporaryDirectory() as folder:
        yield bundle.fetch(Path(folder))


def model_of(settings: PretrainedSettings) -> str:
    """Where the checkpoint lies. Raises: InvalidSettings when that is not set."""
    if settings.model is None:
        raise InvalidSettings("generator.diffusers.model is not set; name the folder of a checkpoint, as in "
                              "--set generator.diffusers.model=/models/stable-diffusion-v1-5")  # fmt: skip
    return settings.model


def _digests(settings: PretrainedSettings) -> dict[Place, str]:
    found: dict[Place, str] = {"model": digest_of(model_of(settings), "model")}
    if settings.ip_adapter is not None:
        found["ip_adapter"] = digest_of(settings.ip_adapter, "ip_adapter")
    return found


def _check_digest(bundle: Bundle, settings: PretrainedSettings, place: Place, wanted: str) -> None:
    location = str(getattr(settings, place))
    try:
        found = digest_of(location, place)
    except InvalidSettings as error:
        raise BundleNotFound(f"generator '{bundle.uri}' needs what is not here: {error.message}") from error
    if found != wanted:
        raise BundleCorrupt(
            f"generator '{bundle.uri}' was published with another content of generator.diffusers.{place} "
            f"'{location}' ({wanted[:12]}, now {found[:12]}); put that back, or run `gatefold train-generator`"
        )


def _files(uri: str, place: Place) -> dict[str, objects.ObjectInfo]:
    """Those that are read, by their path in the folder."""
    found = ((objects.relative(info.uri, uri), info) for info in objects.list_objects(uri))
    return {path: info for path, info in found if _is_read(path, place)}


def _is_read(path: str, place: Place) -> bool:
    """Configurations, tokenizers, and weights in safetensors; no other precisions of these, and nothing deeper.

    At its top a checkpoint may hold the same weights once more, in one file.
    """
    *folders, name = path.split("/")
    if len(folders) > 1:
        return False
    if name.endswith(".safetensors"):
        return not is_variant(name) if folders else place == "ip_adapter"
    return name.endswith((".json", ".txt", ".model")) if folders else place == "model" and name == INDEX


@lru_cache(maxsize=256)
def _digest_of_file(uri: str, etag: str | None) -> str:  # noqa: ARG001 - a new tag is new content
    digest = hashlib.sha256()
    for piece in _pieces(uri):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(uri: str) -> Iterator[bytes]:
    source = objects.open_source(uri)
    for start in range(0, source.size, _PIECE):
        yield source.read_at(start, _PIECE)
