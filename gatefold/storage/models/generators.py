"""Generator bundles to generators and back: what diffusers saves, safetensors, and never a pickle.

A bundle says of which kind it is, and which covers may be its sources. Apart from the encoders, for diffusers takes
longer to import than an encoder's worker takes for all the rest.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError

from gatefold.config import CoverSettings, PretrainedSettings
from gatefold.errors import BundleCorrupt
from gatefold.generator.interface import GeneratorModel
from gatefold.generator.local_score.pipeline import LocalScorePipeline
from gatefold.generator.transformer import CoverPipeline
from gatefold.storage import objects
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.workspace import Workspace

_PRETRAINED = "diffusers"
"""kind of a generator whose first stage is the local-score pipeline"""
_PIPELINES: dict[str, type[DiffusionPipeline]] = {
    LocalScorePipeline.kind: LocalScorePipeline,
    CoverPipeline.kind: CoverPipeline,
}


def publish_generator(
    uri: str,
    pipeline: DiffusionPipeline,
    *,
    version: str,
    lineage: Mapping[str, str],
    details: Mapping[str, object],
    cover: CoverSettings,
    sources: Mapping[str, Sequence[str]],
    pretrained: PretrainedSettings | None = None,
) -> Bundle:
    """A bundle of kind "generator": the folder that `save_pretrained` writes.

    Args:
        cover: how the covers of the workspace are stored.
        sources: `generator.sources`, which covers it may be given.
        pretrained: of a model that goes over the pipeline's pictures; then the generator is of kind diffusers.

    Raises: InvalidSettings for a pre-trained model that cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    kind = pipeline.kind
    if pretrained is not None:
        from gatefold.storage.models.pretrained_generators import pretrained_files

        kind = _PRETRAINED
        files |= pretrained_files(pretrained)
    rule = {column: list(values) for column, values in sources.items()}
    known = {**details, "kind": kind, "cover": cover.model_dump(mode="json"), "sources": rule}
    return publish(uri, files, kind="generator", version=version, lineage=lineage, details=known)


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator, and what its bundle says of the covers it is given.

    Args:
        sources: `generator.sources`.
        cover: how the covers of the workspace were stored.
    """

    model: GeneratorModel
    sources: dict[str, list[str]]
    cover: CoverSettings


def load_generator(uri: str, device: str = "cpu") -> LoadedGenerator:
    """The generator of a bundle, ready to use on this device. Raises: BundleNotFound, BundleCorrupt."""
    bundle = open_bundle(uri, "generator")
    kind = kind_of(bundle)
    diffusers_logging.disable_progress_bar()  # its bar over two files; how progress is shown is not for it to say
    with tempfile.TemporaryDirectory() as folder:
        bundle.fetch(Path(folder))
        try:
            first = _PIPELINES.get(kind, LocalScorePipeline)
            pipeline = first.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise BundleCorrupt(f"generator '{uri}' does not fit this gatefold ({error}); train it again") from error
    pipeline.set_progress_bar_config(disable=True)
    if isinstance(pipeline, LocalScorePipeline):
        pipeline.compute_on(torch.device(device), half_precision=device != "cpu")
    else:
        pipeline.transformer.eval().requires_grad_(False)
        pipeline.to(torch.device(device))
    model: GeneratorModel = pipeline
    if kind == _PRETRAINED:
        from gatefold.storage.models.pretrained_generators import load_pretrained

        adapters = Workspace(objects.parent(objects.parent(uri))).adapters
        model = load_pretrained(bundle, pipeline, adapters=adapters, device=device)
    return LoadedGenerator(model, _rule(bundle), _cover(bundle))


def kind_of(bundle: Bundle) -> str:
    """`generator.kind` of a generator bundle. Raises: BundleCorrupt for a kind that this gatefold does not know."""
    kind = str(bundle.details.get("kind"))
    known = sorted([*_PIPELINES, _PRETRAINED])
    if kind not in known:
        raise BundleCorrupt(f"generator '{bundle.uri}' is of kind '{kind}'; this gatefold knows {known}")
    return kind


def _rule(bundle: Bundle) -> dict[str, list[str]]:
    rule = bundle.details.get("sources")
    if not isinstance(rule, dict) or not all(isinstance(values, list) for values in rule.values()):
        raise BundleCorrupt(f"generator '{bundle.uri}' does not say which covers may be its sources; train it again")
    return {str(column): [str(value) for value in values] for column, values in rule.items()}


def _cover(bundle: Bundle) -> CoverSettings:
    try:
        return CoverSettings.model_validate(bundle.details.get("cover"))
    except ValueError as error:
        raise BundleCorrupt(
            f"generator '{bundle.uri}' does not say how covers are stored, as those of this gatefold do; make it anew: "
            "`gatefold train-generator`"
        ) from error
