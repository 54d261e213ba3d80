"""Text-to-image checkpoints as their authors publish them, but tiny and at random: the same classes, the same files.

They are written by `save_pretrained`, tokenizers included, and loaded the way that any other would be. Every class has
latents of half the picture's side. `write_image_prompt_adapter` writes an IP-Adapter that fits one of them.
"""

import json
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from gatefold.generator.interface import Attribution, Generated, GenerationRequest, OnStep, Share, Sources, Vectors

CLASSES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
)
SIZE = 32
"""pixels a side that they work at"""
WIDTH = 32
"""of text embeddings and image embeddings"""
_LETTERS = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
_VOCABULARY = {token: number for number, token in enumerate([*_LETTERS, "<|startoftext|>", "<|endoftext|>"])}


def write_pretrained(folder: Path, name: str, *, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """A checkpoint of this pipeline class; its folder.

    Args:
        name: of `CLASSES`.
        prediction_type: what the U-Net of the first two predicts; the other two predict a velocity.
    """
    torch.manual_seed(seed)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    make = {
        "StableDiffusionPipeline": _stable_diffusion,
        "StableDiffusionXLPipeline": _stable_diffusion_xl,
        "StableDiffusion3Pipeline": _stable_diffusion_3,
        "FluxPipeline": _flux,
    }
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as vocabulary:
        components = make[name](Path(vocabulary), scheduler)
    getattr(diffusers, name)(**components).save_pretrained(folder, safe_serialization=True)
    return folder


class MeanOfSources:
    """A first stage: the mean of all sources, with noise that depends on the seed."""

    kind, reads_pixels, accepts = "mean", True, frozenset({"size"})
    novelty: float | None = None
    num_sources = 5
    encoder_fingerprint = "e1"

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        del song_embedding
        self.requests.append(request)
        on_step(1, 1)
        size = request.size or sources.pixels.shape[-1]
        mean = sources.pixels.mean(axis=(0, 2, 3))[:, None, None]
        shares = tuple(Share(song_id, 1 / len(sources.song_ids), 0.0) for song_id in sources.song_ids)
        made = []
        for seed in seeds:
            noise = np.random.default_rng(seed).normal(0, 30, (3, size, size))
            holder = np.tile(np.arange(size, dtype=np.uint8) * 2 // size, (size, 1))
            pixels = (mean + noise).clip(0, 255).astype(np.uint8)
            made.append(Generated(seed, pixels, Attribution(shares, holder)))
        return made


def sources(seed: int, count: int = 3) -> Sources:
    """Covers of one colour each, all near the colour that the seed stands for."""
    draw = np.random.default_rng(seed)
    colours = draw.integers(0, 256, (count, 3, 1, 1))
    pixels = np.broadcast_to(colours, (count, 3, 16, 16)).astype(np.uint8)
    return Sources(tuple(f"s{seed}-{n}" for n in range(count)), np.ones(count, np.float32), pixels)


def _stable_diffusion(vocabulary: Path, scheduler: Any) -> dict[str, Any]:
    return {
        "unet": _unet(),
        "vae": _vae(4),
        "text_encoder": transformers.CLIPTextModel(_text_config()),
        "tokenizer": _tokenizer(vocabulary),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }


def _stable_diffusion_xl(vocabulary: Path, scheduler: Any) -> dict[str, Any]:
    unet = _unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
    )
    return {
        "unet": unet,
        "vae": _vae(4),
        "text_encoder": transformers.CLIPTextModel(_text_config()),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(_text_config()),
        "tokenizer": _tokenizer(vocabulary),
        "tokenizer_2": _tokenizer(vocabulary),
        "scheduler": scheduler,
    }


def _stable_diffusion_3(vocabulary: Path, _: Any) -> dict[str, Any]:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
    )
    return {
        "transformer": transformer,
        "vae": _vae(4, shift_factor=0.06, scaling_factor=1.5),
        "text_encoder": transformers.CLIPTextModelWithProjection(_text_config(hidden_size=WIDTH // 2)),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(_text_config(hidden_size=WIDTH // 2)),
        "text_encoder_3": _t5(),
        "tokenizer": _tokenizer(vocabulary),
        "tokenizer_2": _tokenizer(vocabulary),
        "tokenizer_3": _t5_tokenizer(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def _flux(vocabulary: Path, _: Any) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )
    return {
        "transformer": transformer,
        "vae": _vae(1, shift_factor=0.06, scaling_factor=1.5),
        "text_encoder": transformers.CLIPTextModel(_text_config()),
        "text_encoder_2": _t5(),
        "tokenizer": _tokenizer(vocabulary),
        "tokenizer_2": _t5_tokenizer(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    }


def write_image_prompt_adapter(folder: Path, name: str, *, detailed: bool = False, seed: int = 1) -> Path:
    """An IP-Adapter for the checkpoint that `write_pretrained` makes of this class, with its image encoder.

    Args:
        detailed: of the kind that reads all patches of an image ("Plus"), for a U-Net.
    """
    torch.manual_seed(seed)
    if name == "StableDiffusion3Pipeline":
        _write_encoder(folder, siglip=True)
        weights = _resampler_with_time() | _projections(1, 32, 32, norms=True)
    elif name == "FluxPipeline":
        _write_encoder(folder)
        weights = _image_projection(WIDTH) | _projections(1, 32, WIDTH, biases=True)
    else:
        _write_encoder(folder)
        width = 2 * WIDTH if name == "StableDiffusionXLPipeline" else WIDTH
        weights = (_resampler(width) if detailed else _image_projection(width)) | _unet_projections(width)
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / "ip-adapter.safetensors")
    return folder


def _write_encoder(folder: Path, *, siglip: bool = False) -> None:
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    encoder: Any
    if siglip:
        encoder = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**shape))
        inputs = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
        inputs.save_pretrained(folder / "image_encoder")
    else:
        config = transformers.CLIPVisionConfig(**shape, projection_dim=WIDTH)
        encoder = transformers.CLIPVisionModelWithProjection(config)
    encoder.save_pretrained(folder / "image_encoder")


def _image_projection(width: int, tokens: int = 4) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(tokens * width, WIDTH),
        "image_proj.proj.bias": torch.zeros(tokens * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }


def _resampler(width: int) -> dict[str, torch.Tensor]:
    """The names of IP-Adapter Plus: blocks of attention and feed-forward over the image's patches."""
    inner = 64
    weights = {
        "latents": torch.randn(1, 4, WIDTH),
        "proj_in.weight": torch.randn(WIDTH, WIDTH),
        "proj_in.bias": torch.zeros(WIDTH),
        "proj_out.weight": torch.randn(width, WIDTH),
        "proj_out.bias": torch.zeros(width),
        "norm_out.weight": torch.ones(width),
        "norm_out.bias": torch.zeros(width),
    }
    for layer in (f"layers.{number}" for number in range(4)):
        weights |= {
            f"{layer}.0.to_q.weight": torch.randn(inner, WIDTH),
            f"{layer}.0.to_kv.weight": torch.randn(2 * inner, WIDTH),
            f"{layer}.0.to_out.weight": torch.randn(WIDTH, inner),
            f"{layer}.1.1.weight": torch.randn(4 * WIDTH, WIDTH),
            f"{layer}.1.3.weight": torch.randn(WIDTH, 4 * WIDTH),
        }
        for norm in ("0.norm1", "0.norm2", "1.0"):
            weights |= {f"{layer}.{norm}.weight": torch.ones(WIDTH), f"{layer}.{norm}.bias": torch.zeros(WIDTH)}
    return {f"image_proj.{name}": tensor for name, tensor in weights.items()}


def _resampler_with_time() -> dict[str, torch.Tensor]:
    from diffusers.models.embeddings import IPAdapterTimeImageProjection

    network = IPAdapterTimeImageProjection(
        embed_dim=WIDTH, output_dim=WIDTH, hidden_dim=WIDTH, heads=1, num_queries=4, timestep_in_dim=32
    )
    return {f"image_proj.{name}": tensor for name, tensor in network.state_dict().items()}


def _projections(
    layers: int, hidden: int, width: int, *, biases: bool = False, norms: bool = False
) -> dict[str, torch.Tensor]:
    weights = {}
    for layer in range(layers):
        for side in ("k", "v"):
            weights[f"ip_adapter.{layer}.to_{side}_ip.weight"] = 3 * torch.randn(hidden, width)
            if biases:
                weights[f"ip_adapter.{layer}.to_{side}_ip.bias"] = torch.zeros(hidden)
        if norms:
            weights[f"ip_adapter.{layer}.norm_ip.linear.weight"] = torch.randn(2 * WIDTH, WIDTH) * 0.1
            weights[f"ip_adapter.{layer}.norm_ip.linear.bias"] = torch.zeros(2 * WIDTH)
            weights |= {f"ip_adapter.{layer}.norm_{one}.weight": torch.ones(8) for one in ("q", "k", "ip_k")}
    return weights


def _unet_projections(width: int) -> dict[str, torch.Tensor]:
    """For every cross attention, under the odd numbers that the authors of IP-Adapter gave them."""
    unet = _unet(cross_attention_dim=width)
    weights = {}
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(crossing):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for side in ("k", "v"):
            weights[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = torch.randn(hidden, width)
    return weights


def _unet(**config: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": SIZE // 2,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **config,
        }
    )


def _vae(channels: int, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=SIZE,
        **config,
    )


def _text_config(hidden_size: int = WIDTH) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        vocab_size=len(_VOCABULARY),
        bos_token_id=_VOCABULARY["<|startoftext|>"],
        eos_token_id=_VOCABULARY["<|endoftext|>"],
        pad_token_id=_VOCABULARY["<|endoftext|>"],
    )


def _tokenizer(folder: Path) -> Any:
    """Of single letters, read from the two files that CLIP's tokenizer is published in."""
    (folder / "vocab.json").write_text(json.dumps(_VOCABULARY))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def _t5() -> Any:
    config = transformers.T5Config(
        d_model=WIDTH, d_ff=32, d_kv=8, num_layers=1, num_heads=2, vocab_size=len(string.ascii_lowercase) + 4
    )
    return transformers.T5EncoderModel(config)


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return transformers.T5TokenizerFast(
        vocab=[*pieces, *((letter, -3.0) for letter in string.ascii_lowercase)], extra_ids=0
    )
