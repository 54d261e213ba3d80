"""Conditional flow-matching model on pixel patches, and its diffusers pipeline (`generator.kind: transformer`).

A transformer of diffusers' own blocks, conditioned on embeddings of the song and of the covers nearest to it: the song
enters through adaptive layer norm, song and neighbours together as a sequence that every patch attends to.
Classifier-free guidance makes the condition count. Knows embeddings and pixels; not where they come from.

Shape legend: B = batch, K = neighbours, D = width of the joint space, S = pixels a side, n = pictures of one song.
"""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor

from gatefold.config import CoverSettings, TransformerSettings
from gatefold.errors import WrongModel
from gatefold.generator.interface import Generated, GenerationRequest, OnStep, Sources, Vectors, check_request
from gatefold.images.pixels import resized, to_pixels

_SIGMA_FLOOR = 0.05  # below this noise level the division by sigma would only amplify rounding


def build_transformer(settings: TransformerSettings, cover: CoverSettings, embed_dim: int) -> SD3Transformer2DModel:
    """An untrained denoiser. It predicts the clean picture, which lies on far fewer dimensions than a patch has pixels.

    Source: Esser et al. 2024 (the blocks); Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise".
    """
    return SD3Transformer2DModel(
        sample_size=cover.size,
        patch_size=settings.patch_size,
        in_channels=3,
        out_channels=3,
        num_layers=settings.layers,
        attention_head_dim=settings.hidden // settings.heads,
        num_attention_heads=settings.heads,
        joint_attention_dim=embed_dim,
        caption_projection_dim=settings.hidden,
        pooled_projection_dim=embed_dim,
        pos_embed_max_size=cover.size // settings.patch_size,
        qk_norm="rms_norm",
    )


def denoise(
    transformer: SD3Transformer2DModel, noisy: Tensor, sigma: Tensor, song: Tensor, neighbours: Tensor
) -> Tensor:
    """The clean picture [B, 3, S, S] expected behind a noisy one.

    Args:
        noisy: (1 - sigma) * picture + sigma * noise, [B, 3, S, S].
        sigma: noise level [B], in (0, 1].
        song: embeddings [B, D], unit length, or zeros for "no condition".
        neighbours: embeddings [B, K, D], likewise.
    """
    scale = math.sqrt(song.shape[-1])  # entries of about unit size, as the projections expect
    tokens = torch.cat([song[:, None], neighbours], dim=1) * scale
    clean: Tensor = transformer(
        hidden_states=noisy,
        encoder_hidden_states=tokens,
        pooled_projections=song * scale,
        timestep=sigma * 1000,
        return_dict=False,
    )[0]
    return clean


def flow_loss(
    transformer: SD3Transformer2DModel,
    pixels: Tensor,
    song: Tensor,
    neighbours: Tensor,
    *,
    dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the velocity, a scalar.

    Noise levels are drawn from a logit-normal that is shifted towards noise.

    Args:
        pixels: float [B, 3, S, S] in [-1, 1].
        song: embeddings [B, D], unit length.
        neighbours: embeddings [B, K, D], likewise.
        dropout: probability that a picture's condition is dropped, which is what guidance needs.
        generator: on the CPU; the same state gives the same loss.

    Source: Lipman et al. 2023, equation 23 (flow matching); Ho & Salimans 2022, algorithm 1 (dropping the condition).
    """
    size = len(pixels)
    pixels = pixels.roll(_random_shift(transformer, generator), dims=(2, 3))
    sigma = torch.sigmoid(torch.randn(size, generator=generator) * 0.8 + 0.6).to(pixels)
    noise = torch.randn(pixels.shape, generator=generator).to(pixels)
    keep = (torch.rand(size, generator=generator) >= dropout).to(pixels)
    level = sigma[:, None, None, None]
    noisy = (1 - level) * pixels + level * noise
    clean = denoise(transformer, noisy, sigma, song * keep[:, None], neighbours * keep[:, None, None])
    return ((clean - pixels).square() / level.clamp(min=_SIGMA_FLOOR)).mean()


def _random_shift(transformer: torch.nn.Module, generator: torch.Generator) -> tuple[int, int]:
    """Pixels down and right, at most half a patch: the grid of patches lies elsewhere every time, and leaves no seams.

    Source: Coifman & Donoho 1995, "Translation-Invariant De-Noising" (cycle spinning).
    """
    unwrapped: SD3Transformer2DModel = getattr(transformer, "module", transformer)  # where Ray or accelerate wrapped it
    reach = int(unwrapped.config.patch_size) // 2
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    return down, right


class CoverPipeline(DiffusionPipeline):
    """What a generator bundle holds: transformer, scheduler and the defaults it was published with.

    `save_pretrained` and `from_pretrained` carry it whole. The same arguments and seeds give the same picture. It is an
    `interface.GeneratorModel`.
    """

    kind: str = "transformer"
    num_sources: int
    reads_pixels = False
    accepts = frozenset({"size", "num_inference_steps", "guidance_scale"})
    novelty = None
    encoder_fingerprint: str
    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        # diffusers takes a parameter without a default for a module; these values are read from the bundle
        neighbours: int = 0,
        num_inference_steps: int = 0,
        guidance_scale: float = 0.0,
        encoder_fingerprint: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(
            neighbours=neighbours,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            encoder_fingerprint=encoder_fingerprint,
        )
        self.num_sources, self.encoder_fingerprint = neighbours, encoder_fingerprint

    @property
    def size(self) -> int:
        """pixels a side."""
        return int(self.transformer.config.sample_size)

    @property
    def neighbours(self) -> int:
        """covers it was trained to take its style from."""
        return self.num_sources

    @property
    def num_inference_steps(self) -> int:
        """denoising steps where none are asked for."""
        return int(self.config["num_inference_steps"])

    @property
    def guidance_scale(self) -> float:
        """where none is asked for; 1 is no guidance."""
        return float(self.config["guidance_scale"])

    @torch.inference_mode()
    def __call__(
        self,
        song_embedding: Tensor,
        neighbour_embeddings: Tensor,
        *,
        seeds: Sequence[int],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Pictures [B, 3, S, S] in [-1, 1], one for each row of the conditions.

        Args:
            song_embedding: float32 [B, D], unit length.
            neighbour_embeddings: float32 [B, K, D], nearest first.
            seeds: one for each picture; its noise is drawn on the CPU, so it depends on no device and no batch.
            num_inference_steps: the pipeline's own when None.
            guidance_scale: the pipeline's own when None; 1 is no guidance and costs half.
            on_step: called with (steps done, steps in all); raises to stop.
        """
        steps = num_inference_steps or self.num_inference_steps
        guidance = self.guidance_scale if guidance_scale is None else guidance_scale
        # a scheduler of its own: it has state, and requests run side by side
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        song, neighbours = song_embedding.to(self.device), neighbour_embeddings.to(self.device)
        pictures = torch.stack([self._noise(seed) for seed in seeds]).to(self.device)
        turns = torch.Generator().manual_seed(0)  # the same at every call, so a picture depends on its own seed alone
        for done, timestep in enumerate(scheduler.timesteps, start=1):
            sigma = (timestep / 1000).expand(len(pictures))
            down, right = _random_shift(self.transformer, turns)
            turned = pictures.roll((down, right), dims=(2, 3))
            clean = self._guided(turned, sigma, song, neighbours, guidance).roll((-down, -right), dims=(2, 3))
            clean = clean.clamp(-1, 1)
            velocity = (pictures - clean) / sigma[:, None, None, None]
            pictures = scheduler.step(velocity, timestep, pictures, return_dict=False)[0]
            if on_step is not None:
                on_step(done, steps)
        return pictures.clamp(-1, 1)

    def _noise(self, seed: int) -> Tensor:
        return torch.randn((3, self.size, self.size), generator=torch.Generator().manual_seed(seed))

    def _guided(self, noisy: Tensor, sigma: Tensor, song: Tensor, neighbours: Tensor, guidance: float) -> Tensor:
        """Source: Ho & Salimans 2022, equation 6, with guidance = w + 1."""
        if guidance == 1:
            return denoise(self.transformer, noisy, sigma, song, neighbours)
        both = [torch.cat([x, x]) for x in (noisy, sigma)]
        songs, contexts = (torch.cat([x, torch.zeros_like(x)]) for x in (song, neighbours))
        conditional, unconditional = denoise(self.transformer, both[0], both[1], songs, contexts).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def generate(
        self,
        song_embedding: Vectors,
        sources: Sources,
        *,
        seeds: Sequence[int],
        request: GenerationRequest,
        on_step: OnStep,
    ) -> list[Generated]:
        """One cover for each seed, conditioned on the embeddings of all sources; attribution is None.

        One after the other: in a batch, a matrix product may round otherwise, and the bytes would differ.

        Args:
            song_embedding: float32 [D], unit length.
            sources: its `embeddings`, float32 [K, D], nearest first; their pixels are not read.
            request: with `size`, the cover is resized from the size it was trained at.
            on_step: called with (steps done, steps in all) over all covers; raises to stop.

        Raises: InputError for a request with another field that this kind cannot fulfil; WrongModel for embeddings of
            another width.
        """
        check_request(self.kind, self.accepts, request)
        self._check_width(song_embedding, sources.embeddings)
        # copied: a view of an Arrow column cannot be written to
        song, neighbours = torch.tensor(song_embedding)[None], torch.tensor(sources.embeddings)[None]
        each = request.num_inference_steps or self.num_inference_steps
        covers = []
        for number, seed in enumerate(seeds):

            def on_step_of_all(done: int, steps: int, number: int = number) -> None:
                on_step(number * steps + done, len(seeds) * steps)

            picture = self(
                song,
                neighbours,
                seeds=[seed],
                num_inference_steps=each,
                guidance_scale=request.guidance_scale,
                on_step=on_step_of_all,
            )
            covers.append(Generated(seed, resized(to_pixels(picture[0]).cpu().numpy(), request.size or self.size)))
        return covers

    def _check_width(self, song_embedding: Vectors, neighbours: Vectors) -> None:
        width = int(self.transformer.config.joint_attention_dim)
        if song_embedding.shape != (width,) or neighbours.ndim != 2 or neighbours.shape[1] != width:
            raise WrongModel(
                f"song {song_embedding.shape} and neighbours {neighbours.shape}: "
                f"this generator takes [{width}] and [K, {width}]"
            )


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
