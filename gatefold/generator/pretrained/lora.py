"""A LoRA for a pre-trained text-to-image model, trained on the covers nearest to a song.

What is added to the attention projections of the U-Net or transformer learns; all else stays as it is. Covers are
encoded once, with their mirror images, as is the prompt. Knows diffusers and peft; not where checkpoints
and covers are kept, nor how a run is spread over workers.

Shape legend: N = covers, B = batch, S = pixels a side of a cover, R = pixels a side that the model is trained at,
C = channels of its latents, h = their side.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn import functional as fn

from gatefold.errors import InvalidSettings
from gatefold.generator.interface import Pixels
from gatefold.generator.pretrained.checkpoints import check_class, denoiser_of, open_pipeline, working_size
from gatefold.generator.pretrained.pipeline import LORA_WEIGHTS
from gatefold.generator_settings import LoraSettings, PretrainedSettings

Denoise = Callable[[Module, Tensor, Tensor], Tensor]
"""the model's prediction for noisy latents [B, C, h, h] at noise levels [B]"""
_PARTS = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
}
"""The network that learns, by class."""
_PROJECTIONS = r".*transformer_blocks\..*\.(to_k|to_q|to_v|to_out\.0)"
"""Of the network's own attentions, by their whole names; an IP-Adapter may bring others, which nothing is added to."""


def check_trainable(folder: Path, location: str) -> str:
    """The class of a checkpoint that a LoRA can be trained for. Raises: InvalidSettings, naming those that can."""
    name = check_class(folder, location).replace("Img2Img", "")
    named = f"generator.diffusers.model '{location}'"
    if name not in _PARTS:
        raise InvalidSettings(f"{named} is of class {name}, for which no LoRA can be trained; allowed: "
                              + ", ".join(_PARTS))  # fmt: skip
    if _PARTS[name] == "unet":
        predicts = json.loads((folder / "scheduler" / "scheduler_config.json").read_text()).get("prediction_type")
        if predicts not in (None, "epsilon", "v_prediction"):
            raise InvalidSettings(f"{named}: prediction_type '{predicts}' of its scheduler cannot be trained; allowed: "
                                  "epsilon, v_prediction")  # fmt: skip
    return name


class LoraTrainer:
    """A LoRA while it is trained.

    What it draws comes from the generator that each step is given, so that a run which was interrupted goes on as it
    would have.
    """

    def __init__(
        self,
        folder: Path,
        settings: PretrainedSettings,
        location: str,
        pixels: Pixels,
        *,
        device: torch.device,
        prepare: Callable[[Module], Module] = lambda module: module,
    ) -> None:
        """Args:
            folder: of the checkpoint, which the user named `location`.
            pixels: uint8 [N, 3, S, S] of the covers.
            prepare: what spreads the model over workers.

        Raises: InvalidSettings.
        """
        name = check_trainable(folder, location)
        pipeline = open_pipeline(folder, settings, location, device, for_training=True)
        size = working_size(pipeline, settings.lora.resolution or settings.size)
        self._device = device
        self._mean, self._std = _encode(pipeline, pixels, size, device)
        self._denoise = _DENOISERS[name](pipeline, settings, size, device)
        self._scheduler = (
            None if _PARTS[name] == "transformer" else DDPMScheduler.from_config(pipeline.scheduler.config)
        )
        self._shift = _shift(pipeline.scheduler.config)
        self.denoiser = denoiser_of(pipeline)
        self.denoiser.add_adapter(_config(settings.lora))  # type: ignore[operator]
        for parameter in self.parameters():
            parameter.data = parameter.data.float()
        if device.type == "cuda":
            self.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        self.denoiser.train().to(device)
        self._model = prepare(self.denoiser)

    def parameters(self) -> list[Parameter]:
        """Those that learn."""
        return [parameter for parameter in self.denoiser.parameters() if parameter.requires_grad]

    def loss(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Mean squared error [] of the model's prediction for covers, mirror images and noise drawn at random.

        Args:
            batch_size: covers drawn, with replacement.
            generator: on the CPU; the same state gives the same loss.
        """
        rows = torch.randint(len(self._mean), (batch_size,), generator=generator)
        drawn = torch.randn(self._mean[rows].shape, generator=generator)
        latents = (self._mean[rows] + self._std[rows] * drawn).to(self._device)
        noise = torch.randn(latents.shape, generator=generator).to(self._device)
        if self._scheduler is None:
            return self._flow_loss(latents, noise, generator)
        return self._noise_loss(latents, noise, generator)

    def _noise_loss(self, latents: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Source: Ho et al. 2020, equation 14; Salimans & Ho 2022, appendix D (v-prediction)."""
        scheduler: Any = self._scheduler
        levels = int(scheduler.config.num_train_timesteps)
        timesteps = torch.randint(levels, (len(latents),), generator=generator).to(self._device)
        predicted = self._denoise(self._model, scheduler.add_noise(latents, noise, timesteps), timesteps)
        velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
        return fn.mse_loss(predicted.float(), target.float())

    def _flow_loss(self, latents: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Source: Esser et al. 2024, equations 14 and 19, and section 5.3.2 (the shift)."""
        sigma = torch.sigmoid(torch.randn(len(latents), generator=generator)).to(self._device)
        sigma = self._shift * sigma / (1 + (self._shift - 1) * sigma)
        level = sigma[:, None, None, None]
        predicted = self._denoise(self._model, (1 - level) * latents + level * noise, sigma)
        return fn.mse_loss(predicted.float(), noise - latents)

    def state_dict(self) -> dict[str, Tensor]:
        """The learned factors of each attention projection by name, float32 [rank, inputs] and [outputs, rank], on the
        CPU.
        """
        state: dict[str, Tensor] = get_peft_model_state_dict(self.denoiser)
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave.

        Args:
            state: by name, [rank, inputs] or [outputs, rank] each.
        """
        set_peft_model_state_dict(self.denoiser, state)


def encode_lora(state: dict[str, Tensor], settings: LoraSettings, name: str) -> bytes:
    """A file as diffusers' `load_lora_weights` reads it.

    Args:
        state: of `LoraTrainer.state_dict`, [rank, inputs] or [outputs, rank] each.
        name: class of the checkpoint, as `check_trainable` gives it.
    """
    config = _config(settings).to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    part = _PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        getattr(diffusers, name).save_lora_weights(
            folder, **{f"{part}_lora_layers": state, f"{part}_lora_adapter_metadata": plain}
        )
        return _ordered((Path(folder) / LORA_WEIGHTS).read_bytes())


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header in one order: it is written in any, and bundles go by their bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # what follows is aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def _config(settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, init_lora_weights="gaussian", target_modules=_PROJECTIONS
    )


def _shift(config: Any) -> float:
    """The shift of the noise levels of a flow-matching scheduler towards noise; 1 where that depends on the size."""
    return 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))


@torch.no_grad()
def _encode(pipeline: Any, pixels: Pixels, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents, both float32 [2 N, C, h, h]: of each cover and of its mirror image.

    Computed in float32, as half of it is too little for the encoder of Stable Diffusion XL.
    """
    vae = pipeline.vae.to(device=device, dtype=torch.float32)
    shift, scale = vae.config.get("shift_factor") or 0.0, float(vae.config.scaling_factor)
    means, deviations = [], []
    for cover in torch.tensor(pixels):
        square = cover[None].float() / 127.5 - 1.0
        square = fn.interpolate(square, size=(size, size), mode="bicubic", antialias=True).clamp(-1, 1).to(device)
        for picture in (square, square.flip(3)):
            latents = vae.encode(picture).latent_dist
            means.append((latents.mean - shift) * scale)
            deviations.append(latents.std * scale)
    vae.to("cpu")
    return torch.cat(means).cpu(), torch.cat(deviations).cpu()


@dataclass(frozen=True)
class _Prompt:
    """The prompt as text encoders give it: [1, tokens, width], and pooled [1, width] where the class needs it."""

    tokens: Tensor
    pooled: Tensor | None

    def of(self, batch: int) -> tuple[Tensor, Tensor | None]:
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return self.tokens.expand(batch, -1, -1), pooled


@torch.no_grad()
def _encode_prompt(pipeline: Any, device: torch.device, **arguments: Any) -> tuple[Any, ...]:
    encoders = [part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part]
    for encoder in encoders:
        encoder.to(device)
    encoded: tuple[Any, ...] = pipeline.encode_prompt(**arguments, device=device, num_images_per_prompt=1)
    for encoder in encoders:
        encoder.to("cpu")
    return encoded


def _stable_diffusion(pipeline: Any, settings: PretrainedSettings, _size: int, device: torch.device) -> Denoise:
    given = {"prompt": settings.prompt, "do_classifier_free_guidance": False}
    prompt = _Prompt(_encode_prompt(pipeline, device, **given)[0], None)

    def denoise(model: Module, noisy: Tensor, timesteps: Tensor) -> Tensor:
        tokens, _ = prompt.of(len(noisy))
        predicted: Tensor = model(noisy, timesteps, encoder_hidden_states=tokens, return_dict=False)[0]
        return predicted

    return denoise


def _stable_diffusion_xl(pipeline: Any, settings: PretrainedSettings, size: int, device: torch.device) -> Denoise:
    tokens, _, pooled, _ = _encode_prompt(pipeline, device, prompt=settings.prompt, do_classifier_free_guidance=False)
    prompt = _Prompt(tokens, pooled)
    sizes = torch.tensor([[size, size, 0, 0, size, size]], device=device)  # of original, crop and target

    def denoise(model: Module, noisy: Tensor, timesteps: Tensor) -> Tensor:
        tokens, pooled = prompt.of(len(noisy))
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1)}
        predicted: Tensor = model(
            noisy, timesteps, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False
        )[0]
        return predicted

    return denoise


def _stable_diffusion_3(pipeline: Any, settings: PretrainedSettings, _size: int, device: torch.device) -> Denoise:
    given = {"prompt": settings.prompt, "prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
    tokens, _, pooled, _ = _encode_prompt(pipeline, device, **given)
    prompt = _Prompt(tokens, pooled)

    def denoise(model: Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        tokens, pooled = prompt.of(len(noisy))
        predicted: Tensor = model(
            hidden_states=noisy,
            timestep=sigma * 1000,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return predicted

    return denoise


def _flux(pipeline: Any, settings: PretrainedSettings, size: int, device: torch.device) -> Denoise:
    """Latents go in as patches of 2 x 2, in a row; the guidance is that of the settings, which it will be used with."""
    tokens, pooled, places_of_text = _encode_prompt(pipeline, device, prompt=settings.prompt, prompt_2=None)
    prompt = _Prompt(tokens, pooled)
    side = size // int(pipeline.vae_scale_factor)
    places = pipeline._prepare_latent_image_ids(1, side // 2, side // 2, device, tokens.dtype)
    guided = bool(pipeline.transformer.config.guidance_embeds)
    factor, kind = int(pipeline.vae_scale_factor), type(pipeline)  # not the pipeline, whose encoders may be forgotten

    def denoise(model: Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        tokens, pooled = prompt.of(len(noisy))
        predicted = model(
            hidden_states=kind._pack_latents(noisy, *noisy.shape),
            timestep=sigma,
            guidance=torch.full_like(sigma, settings.guidance_scale) if guided else None,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=places_of_text,
            img_ids=places,
            return_dict=False,
        )[0]
        unpacked: Tensor = kind._unpack_latents(predicted, size, size, factor)
        return unpacked

    return denoise


_DENOISERS = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}
