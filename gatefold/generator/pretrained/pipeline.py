"""`generator.kind: diffusers`: a pre-trained text-to-image model over the pictures of another generator.

The analytic generator's picture is brought to some noise level and denoised by the model (image-to-image), which sees
the prompt of the settings, the nearest covers as image prompts where there is an IP-Adapter, and a LoRA where a request
names one. Knows diffusers' pipelines; not where checkpoints and adapters are kept.

Shape legend: N = source covers, S = pixels a side of a source, G = pixels a side of a generated cover.

Source: Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations".
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gatefold.errors import InputError, InvalidSettings
from gatefold.generator.interface import (
    Attribution,
    Generated,
    GenerationRequest,
    GeneratorModel,
    OnStep,
    Pixels,
    Sources,
    Vectors,
)
from gatefold.generator.pretrained.checkpoints import LOADING_ERRORS, working_size
from gatefold.generator.pretrained.image_prompts import Embedded, ImagePrompts
from gatefold.generator_settings import PretrainedSettings

OpenAdapter = Callable[[str], AbstractContextManager[Path]]
"""the folder of a LoRA by its version, for as long as it is read; raises NotFound, and InputError for one that was
trained on another checkpoint"""
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
"""file of a LoRA, as diffusers names it"""
_ADAPTERS_KEPT = 4  # LoRAs in memory beside the model; each takes a few megabytes


@dataclass(frozen=True)
class PictureJob:
    """One request to a generator, as the arguments of `GeneratorModel.generate`."""

    song_embedding: Vectors
    sources: Sources
    seeds: Sequence[int]
    request: GenerationRequest


@dataclass(frozen=True)
class _Call:
    """What the pictures of one batch have in common."""

    num_inference_steps: int
    guidance_scale: float
    strength: float
    adapter: str | None
    image_prompts: int

    @property
    def steps(self) -> int:
        """that are made, of a scheduler that evaluates the model once a step."""
        return min(self.num_inference_steps, int(self.num_inference_steps * self.strength))


@dataclass(frozen=True)
class _Picture:
    """One that is to be gone over: number of its job, what the first stage made, and the pixels a side it ends with."""

    job: int
    begun: Generated
    size: int
    prompts: Embedded | None


class PretrainedGenerator:
    """A `GeneratorModel` whose first stage is another one.

    The attribution of a picture is that of the picture it started from: it says where the composition comes from, and
    not what the model has added. On a CPU pictures are computed one at a time, since the size of a batch changes the
    last bits of what is computed; on a GPU `settings.batch_size` at a time, so there they may differ by rounding.
    """

    kind = "diffusers"
    reads_pixels = True
    accepts = frozenset(
        {"size", "novelty", "palette_from", "num_inference_steps", "guidance_scale", "strength", "adapter"}
    )

    def __init__(
        self,
        pipeline: Any,
        settings: PretrainedSettings,
        base: GeneratorModel,
        *,
        image_prompts: ImagePrompts | None = None,
        open_adapter: OpenAdapter | None = None,
        batch_size: int = 1,
    ) -> None:
        """Args:
        pipeline: of `open_pipeline`.
        base: makes the pictures to start from, at the size that the model works at.
        image_prompts: of the same pipeline.
        open_adapter: None where there are no LoRAs.
        batch_size: pictures computed together.
        """
        self.num_sources, self.encoder_fingerprint = base.num_sources, base.encoder_fingerprint
        self.novelty = base.novelty
        self.size = working_size(pipeline, settings.size)
        """pixels a side that the model works at, and that a cover has by default"""
        self._pipeline, self._settings, self._base = pipeline, settings, base
        self._image_prompts, self._batch_size = image_prompts, batch_size
        self._loras = _Loras(pipeline, open_adapter)
        self._takes = set(inspect.signature(pipeline.__call__).parameters)
        self._lock = threading.Lock()  # a pipeline has state: its scheduler, its LoRA

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        """As `GeneratorModel.generate`.

        Args:
            song_embedding: float32 [D], unit length, for the first stage; D = width of the joint space.

        Raises: InputError for a request that leaves no denoising step, for a LoRA of another checkpoint, and for a
        picture that the checkpoint's safety checker refuses; NotFound for an unknown LoRA; what the first stage raises.
        """
        return self.generate_jobs([PictureJob(song_embedding, sources, seeds, request)], on_step)[0]

    def generate_jobs(self, jobs: Sequence[PictureJob], on_step: OnStep) -> list[list[Generated]]:
        """The covers of several requests, computed together where they ask for the same steps; each picture has the
        image prompts of its own request.

        Raises: as `generate`.
        """
        calls = [self._call(job) for job in jobs]
        total = sum(call.steps * len(job.seeds) for call, job in zip(calls, jobs, strict=True))
        with self._lock:
            for adapter in dict.fromkeys(call.adapter for call in calls):
                self._loras.use(adapter)  # one that is not there is known before anything is computed
        batches: dict[_Call, list[_Picture]] = {}
        for number, (job, call) in enumerate(zip(jobs, calls, strict=True)):
            batches.setdefault(call, []).extend(self._begin(number, job, lambda *_: on_step(0, total)))
        done: list[list[Generated]] = [[] for _ in jobs]
        made = 0
        with self._lock:
            for call, pictures in batches.items():
                self._loras.use(call.adapter)
                for batch in _cut(pictures, self._batch_size):
                    step = _Steps(on_step, made, call.steps * len(batch), total)
                    for picture, pixels in zip(batch, self._refine(batch, call, step), strict=True):
                        done[picture.job].append(_finished(picture, pixels))
                    made += call.steps * len(batch)
        return done

    def _call(self, job: PictureJob) -> _Call:
        ours, asked = self._settings, job.request
        call = _Call(
            num_inference_steps=ours.num_inference_steps if (n := asked.num_inference_steps) is None else n,
            guidance_scale=ours.guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
            strength=ours.strength if asked.strength is None else asked.strength,
            adapter=asked.adapter,
            image_prompts=0 if self._image_prompts is None else min(ours.image_prompts, len(job.sources.pixels)),
        )
        if not 0 < call.strength <= 1 or call.steps < 1:
            raise InputError(
                f"strength {call.strength} of {call.num_inference_steps} num_inference_steps leaves no step; allowed: "
                f"a strength from {1 / max(1, call.num_inference_steps):.2g} to 1"
            )
        return call

    def _begin(self, number: int, job: PictureJob, on_step: OnStep) -> Iterator[_Picture]:
        """The pictures of a job as the first stage makes them. What is asked of the model is no concern of that."""
        request = replace(
            job.request, size=self.size, num_inference_steps=None, guidance_scale=None, strength=None, adapter=None
        )
        prompts = None
        if self._image_prompts is not None and len(job.sources.pixels):
            nearest = job.sources.pixels[: self._settings.image_prompts]
            with self._lock:
                prompts = self._image_prompts.embed([_to_image(pixels) for pixels in nearest])
        made = self._base.generate(job.song_embedding, job.sources, seeds=job.seeds, request=request, on_step=on_step)
        for begun in made:
            yield _Picture(number, begun, job.request.size or self.size, prompts)

    def _refine(self, batch: Sequence[_Picture], call: _Call, on_step: "_Steps") -> list[Pixels]:
        """uint8 [3, size, size] of each picture."""
        ours = self._settings
        prompts = [picture.prompts for picture in batch if picture.prompts is not None]
        given = {
            "prompt": [ours.prompt] * len(batch),
            "negative_prompt": [ours.negative_prompt] * len(batch) if ours.negative_prompt else None,
            "image": [_to_image(picture.begun.pixels, self.size) for picture in batch],
            "height": self.size,
            "width": self.size,
            "strength": call.strength,
            "num_inference_steps": call.num_inference_steps,
            "guidance_scale": call.guidance_scale,
            "generator": [torch.Generator().manual_seed(picture.begun.seed) for picture in batch],
            "callback_on_step_end": on_step,
            "output_type": "np",
        }
        given = {name: value for name, value in given.items() if name in self._takes}
        if self._image_prompts is not None and prompts:
            given |= self._image_prompts.arguments(prompts)
        try:
            made = self._pipeline(**given)
        finally:
            self._pipeline.maybe_free_model_hooks()  # which a run that was stopped has not done
        for picture, refused in zip(batch, getattr(made, "nsfw_content_detected", None) or (), strict=False):
            if refused:
                raise InputError(
                    f"the safety checker of the checkpoint refused the picture of seed {picture.begun.seed}; ask for "
                    "another seed"
                )
        pictures = (made.images * 255).round().astype(np.uint8).transpose(0, 3, 1, 2)
        return [_resized(pixels, picture.size) for pixels, picture in zip(pictures, batch, strict=True)]


class _Loras:
    """The LoRAs of a pipeline, loaded when they are first asked for; a few stay."""

    def __init__(self, pipeline: Any, open_adapter: OpenAdapter | None) -> None:
        self._pipeline, self._open = pipeline, open_adapter
        self._loaded: list[str] = []  # the last used at the end

    def use(self, version: str | None) -> None:
        """The LoRA that the next pictures are made with, or none. Raises: InputError, NotFound."""
        if version is None:
            if self._loaded:
                self._pipeline.disable_lora()
            return
        if version in self._loaded:
            self._loaded.remove(version)
        else:
            self._load(version)
        self._loaded.append(version)
        self._pipeline.enable_lora()
        self._pipeline.set_adapters([version])
        if len(self._loaded) > _ADAPTERS_KEPT:
            self._pipeline.delete_adapters([self._loaded.pop(0)])

    def _load(self, version: str) -> None:
        if self._open is None:
            raise InputError(f"adapter '{version}': this generator has no adapters; leave `adapter` out")
        with self._open(version) as folder:
            try:
                self._pipeline.load_lora_weights(
                    str(folder),
                    weight_name=LORA_WEIGHTS,
                    adapter_name=version,
                    use_safetensors=True,
                    local_files_only=True,
                )
                if not any(version in names for names in self._pipeline.get_list_adapters().values()):
                    raise ValueError("it has no weights for any of its networks")  # which diffusers does not mind
            except LOADING_ERRORS as error:
                raise InvalidSettings(
                    f"adapter '{version}' does not fit a {type(self._pipeline).__name__} ({error}); train one on this "
                    "checkpoint with `gatefold adapt`"
                ) from error


class _Steps:
    """The callback of diffusers: progress over a whole request, also where a step has several evaluations."""

    def __init__(self, on_step: OnStep, before: int, share: int, total: int) -> None:
        self._on_step, self._before, self._share, self._total = on_step, before, share, total

    def __call__(self, pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        self._on_step(self._before + self._share * (step + 1) // pipeline.num_timesteps, self._total)
        return tensors


def _cut(pictures: Iterable[_Picture], size: int) -> Iterator[list[_Picture]]:
    pictures = list(pictures)
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _finished(picture: _Picture, pixels: Pixels) -> Generated:
    attribution = picture.begun.attribution
    if attribution is not None and attribution.holder.shape != pixels.shape[1:]:
        holder = Image.fromarray(attribution.holder).resize(pixels.shape[:0:-1], Image.Resampling.NEAREST)
        attribution = Attribution(attribution.shares, np.asarray(holder))
    return replace(picture.begun, pixels=pixels, attribution=attribution)


def _to_image(pixels: Pixels, size: int | None = None) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return image if size in (None, image.width) else image.resize((size, size), Image.Resampling.LANCZOS)


def _resized(pixels: Pixels, size: int) -> Pixels:
    return np.ascontiguousarray(np.asarray(_to_image(pixels, size)).transpose(2, 0, 1))
