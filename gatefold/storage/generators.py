"""Generator bundles to pipelines and back: what diffusers saves, safetensors, and never a pickle.

Apart from the encoders, for diffusers takes longer to import than an encoder's worker takes for all the rest.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError

from gatefold.errors import BundleCorrupt
from gatefold.generator.transformer import CoverPipeline
from gatefold.storage.bundles import Bundle, open_bundle, publish


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
