"""Text-to-image checkpoints as diffusers publishes them: which classes can be used, and loading one onto a device.

It reads a folder on this machine's disk, safetensors only, and refuses to download, to run code that comes with a
checkpoint, or to know of other storage.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoPipelineForImage2Image
from diffusers import pipelines as diffusers_pipelines
from diffusers.pipelines.auto_pipeline import AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, _get_task_class
from diffusers.utils import logging as diffusers_logging
from packaging.version import Version
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from gatefold.errors import InvalidSettings
from gatefold.generator_settings import PretrainedSettings

INDEX = "model_index.json"
"""The file in which a checkpoint names its class and the classes of its parts."""
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""All that diffusers, transformers and safetensors raise on files that are not what they should be."""
_NEEDED = {"prompt", "image", "strength", "num_inference_steps", "guidance_scale", "generator", "callback_on_step_end"}
_TESTED = "StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline"
_DTYPE = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"


def check_class(folder: Path, location: str) -> str:
    """The name of a checkpoint's pipeline class; its weights are not read.

    Args:
        location: the folder as the user named it.

    Raises: InvalidSettings when it is no checkpoint, when its class cannot start from a picture, or when one of its
    parts is of another library than diffusers and transformers.
    """
    named = f"generator.diffusers.model '{location}'"
    try:
        index = json.loads((folder / INDEX).read_text())
        name, parts = index["_class_name"], {key: value for key, value in index.items() if isinstance(value, list)}
        libraries = {key: value[0] for key, value in parts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidSettings(
            f"{named}: its {INDEX} cannot be read ({error!r}); name a folder as save_pretrained of a diffusers "
            "pipeline writes it"
        ) from error
    for part, library in libraries.items():
        if library not in (None, "diffusers", "transformers") and not hasattr(diffusers_pipelines, str(library)):
            raise InvalidSettings(f"{named}: its '{part}' is of library {library!r}; allowed: diffusers, transformers")
    target = _get_task_class(AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, str(name), throw_error_if_not_exist=False)
    takes = set(inspect.signature(target.__call__).parameters) if target is not None else set()
    if missing := _NEEDED - takes:
        lacks = "no image-to-image pipeline" if target is None else f"one without {', '.join(sorted(missing))}"
        raise InvalidSettings(f"{named} is of class {name}, for which diffusers has {lacks}; allowed: {_TESTED}, and "
                              "others with an image-to-image pipeline that takes `strength`")  # fmt: skip
    if "control_image" in takes:
        raise InvalidSettings(f"{named} is of class {name}, which needs a control image; allowed: {_TESTED}")
    return str(name)


def open_pipeline(
    folder: Path, settings: PretrainedSettings, location: str, device: torch.device, *, for_training: bool = False
) -> Any:
    """The image-to-image pipeline of a checkpoint, in evaluation mode: for a GPU in half precision, else in float32.

    Where a GPU has too little free memory for all networks, `finish_placement` brings each to it when it computes.

    Args:
        device: that Ray granted.
        for_training: leaves all networks in the machine's memory, and takes float32 for a GPU without bfloat16, as
            gradients in float16 would have to be scaled.

    Raises: InvalidSettings, also for weights that are not in safetensors.
    """
    name = check_class(folder, location)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    on_gpu = device.type == "cuda" and not for_training and fits(folder, settings, free_bytes(device))
    try:
        pipeline = AutoPipelineForImage2Image.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            device_map="cuda" if on_gpu else None,
            **{_DTYPE: _precision(device, for_training=for_training)},
        )
    except LOADING_ERRORS as error:
        raise InvalidSettings(
            f"generator.diffusers.model '{location}': the {name} cannot be loaded ({error}); it must be a folder as "
            "save_pretrained writes it, with all weights in safetensors"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline


def finish_placement(pipeline: Any, device: torch.device) -> None:
    """Lets the networks of a pipeline that were left in the machine's memory use the GPU, one after the other.

    Nothing on a CPU, or where they are all on the GPU.
    """
    if device.type == "cuda" and pipeline.hf_device_map is None:
        pipeline.enable_model_cpu_offload(device=device)


def _precision(device: torch.device, *, for_training: bool) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    if torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32 if for_training else torch.float16


def free_bytes(device: torch.device) -> int:
    """Of a GPU's memory."""
    return int(torch.cuda.mem_get_info(device)[0])


def fits(folder: Path, settings: PretrainedSettings, free: int) -> bool:
    """Whether a checkpoint's weights, in half precision, take no more than `settings.gpu_share` of `free` bytes."""
    weights = 0
    for path in folder.glob("*/*.safetensors"):
        if is_variant(path.name):
            continue
        with safe_open(path, framework="pt") as file:
            weights += sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118
    return 2 * weights <= settings.gpu_share * free


def is_variant(name: str) -> bool:
    """Whether weights of this file name are another precision's of weights that lie beside them (`model.fp16.…`)."""
    return "." in name.removesuffix(".index.json").removesuffix(".safetensors")


def denoiser_of(pipeline: Any) -> torch.nn.Module:
    """Its U-Net or transformer."""
    denoiser: torch.nn.Module = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    return denoiser


def working_size(pipeline: Any, wanted: int | None) -> int:
    """Pixels a side that the pipeline works at: `wanted`, or what it was trained at, cut to what its latents allow."""
    factor = int(pipeline.vae_scale_factor)
    if wanted is None:
        config: Any = denoiser_of(pipeline).config
        trained = getattr(pipeline, "default_sample_size", None) or config.sample_size
        wanted = int(trained) * factor
    return max(2 * factor, wanted - wanted % (2 * factor))
