"""Covers as image prompts of a pre-trained model, through an IP-Adapter: each picture of a batch has its own.

Diffusers takes the embeddings of one picture and repeats them for every picture of a batch; given those of several, it
mixes them (diffusers#9813). Here each row of the embeddings belongs to one picture, and what repeats them is replaced.

Shape legend: B = pictures, n = image prompts of a picture, P = patches of an image, E = width of an image's embedding.

Source: Ye et al. 2023, "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin, SD3IPAdapterMixin
from diffusers.models.embeddings import ImageProjection
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionModel,
)

from gatefold.errors import InvalidSettings
from gatefold.generator.pretrained.checkpoints import LOADING_ERRORS

ENCODER = "image_encoder"
"""The folder of an IP-Adapter in which its image encoder lies."""


@dataclass(frozen=True)
class Embedded:
    """The image prompts of one picture: float [n, E] or [n, P, E], or [n * P, E] for Stable Diffusion 3; and what
    represents none of them, of the same shape, for classifier-free guidance."""

    images: Tensor
    none: Tensor


class ImagePrompts:
    """The IP-Adapter of one pipeline."""

    def __init__(self, pipeline: Any, folder: Path, location: str, scale: float) -> None:
        """Loads the adapter into the pipeline.

        Args:
            folder: with one file of weights (`*.safetensors`) and `image_encoder/`.
            location: the folder as the user named it.
            scale: weight of the image prompts beside the text.

        Raises: InvalidSettings for a pipeline that takes none, and for a folder that does not fit it.
        """
        self._pipeline = pipeline
        named = f"generator.diffusers.ip_adapter '{location}'"
        kinds = (IPAdapterMixin, SD3IPAdapterMixin, FluxIPAdapterMixin)
        if not isinstance(pipeline, kinds) or not hasattr(pipeline, "prepare_ip_adapter_image_embeds"):
            raise InvalidSettings(
                f"{named}: a {type(pipeline).__name__} takes no image prompts; allowed: checkpoints of Stable "
                "Diffusion 1.5, XL and 3 and of Flux, or no generator.diffusers.ip_adapter"
            )
        weights = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(weights) != 1:
            raise InvalidSettings(
                f"{named} holds {len(weights)} files of weights {weights}; it must hold one *.safetensors, and its "
                f"image encoder in {ENCODER}/"
            )
        try:
            self._load(folder, weights[0])
            pipeline.set_ip_adapter_scale(scale)
        except LOADING_ERRORS as error:
            raise InvalidSettings(
                f"{named} does not fit a {type(pipeline).__name__} ({error}); it must hold the weights of an "
                f"IP-Adapter made for it, and its image encoder in {ENCODER}/ with weights in safetensors"
            ) from error
        pipeline.prepare_ip_adapter_image_embeds = _as_given

    def _load(self, folder: Path, weights: str) -> None:
        pipeline = self._pipeline
        where: dict[str, Any] = {"local_files_only": True}
        siglip = isinstance(pipeline, SD3IPAdapterMixin)
        encoder = (SiglipVisionModel if siglip else CLIPVisionModelWithProjection).from_pretrained(
            folder / ENCODER, use_safetensors=True, dtype=pipeline.dtype, **where
        )
        encoder.eval().requires_grad_(False).to(pipeline.device)
        pipeline.register_modules(image_encoder=encoder)
        if pipeline.feature_extractor is None:
            if siglip:
                inputs = SiglipImageProcessor.from_pretrained(folder / ENCODER, **where)
            else:
                side = encoder.config.image_size
                inputs = CLIPImageProcessor(size=side, crop_size=side)
            pipeline.register_modules(feature_extractor=inputs)
        if isinstance(pipeline, FluxIPAdapterMixin):
            where["image_encoder_pretrained_model_name_or_path"] = None
        else:
            where["image_encoder_folder"] = None
        pipeline.load_ip_adapter(str(folder), subfolder="", weight_name=weights, **where)

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image]) -> Embedded:
        """The image prompts of one picture, at least one."""
        pipeline = self._pipeline
        device = pipeline._execution_device
        if isinstance(pipeline, SD3IPAdapterMixin):
            patches = pipeline.encode_image(list(images), device).flatten(0, 1)
            return Embedded(patches, torch.zeros_like(patches))
        if isinstance(pipeline, FluxIPAdapterMixin):
            embeddings = pipeline.encode_image(list(images), device, 1)
            black = pipeline.encode_image([Image.new("RGB", images[0].size)], device, 1)
            return Embedded(embeddings, black.expand_as(embeddings))
        projection = pipeline.unet.encoder_hid_proj.image_projection_layers[0]
        return Embedded(*pipeline.encode_image(list(images), device, 1, not isinstance(projection, ImageProjection)))

    def arguments(self, pictures: Sequence[Embedded]) -> dict[str, Any]:
        """What the pipeline is called with for a batch of these pictures, all with equally many image prompts."""
        images, none = (torch.stack(side) for side in zip(*((one.images, one.none) for one in pictures), strict=True))
        if isinstance(self._pipeline, SD3IPAdapterMixin):
            return {"ip_adapter_image_embeds": torch.cat([none, images])}
        if isinstance(self._pipeline, FluxIPAdapterMixin):
            return {"ip_adapter_image_embeds": [images], "negative_ip_adapter_image_embeds": [none]}
        return {"ip_adapter_image_embeds": [torch.cat([none, images])]}


def _as_given(
    _image: None, embeddings: Any, device: torch.device, _repeats: int, guided: bool | None = None
) -> list[Tensor] | Tensor:
    """In the place of diffusers' `prepare_ip_adapter_image_embeds`: one row for each picture already, not repeated.

    Args:
        guided: whether the rows of "no image prompt", which come first, are wanted too; None where they come apart.
    """
    if isinstance(embeddings, Tensor):
        return (embeddings if guided else embeddings.chunk(2)[1]).to(device)
    return [(rows if guided is not False else rows.chunk(2)[1]).to(device) for rows in embeddings]
