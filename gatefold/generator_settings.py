"""Settings of every kind of generator, of how close a new cover may come to an existing one, and of its export."""

from typing import Literal

from pydantic import Field, model_validator

from gatefold.section import ABSOLUTE, Section


class LoraSettings(Section):
    """How `gatefold adapt` trains a LoRA on the covers nearest to a song."""

    covers: int = Field(100, ge=1)
    """nearest covers it is trained on"""
    rank: int = Field(8, ge=1)
    """of the two matrices added to each projection of an attention"""
    alpha: float = Field(8.0, gt=0)
    """what they add is scaled by alpha / rank"""
    steps: int = Field(500, ge=1)
    """optimizer steps"""
    batch_size: int = Field(4, ge=1)
    """covers a step, over all workers"""
    lr: float = Field(1e-4, gt=0)
    """peak learning rate"""
    weight_decay: float = Field(0.01, ge=0)
    """of AdamW"""
    warmup: float = Field(0.05, ge=0, lt=1)
    """share of all steps"""
    resolution: int | None = Field(None, ge=16, le=2048)
    """pixels a side that covers are resized to; by default `generator.diffusers.size`"""


class PretrainedSettings(Section):
    """A checkpoint that diffusers loads (Stable Diffusion 1.5, SDXL, SD3, Flux and their like), and how it is used."""

    model: str | None = Field(None, pattern=ABSOLUTE)
    """folder as `save_pretrained` writes it, weights in safetensors: an absolute path, `file:///…` or `s3://…`, that
    every worker can read"""
    ip_adapter: str | None = Field(None, pattern=ABSOLUTE)
    """likewise a folder with the weights of one IP-Adapter (`*.safetensors`) and its `image_encoder/`: the nearest
    covers become image prompts"""
    image_prompts: int = Field(4, ge=1, le=64)
    """nearest covers that are image prompts, where there is an IP-Adapter"""
    ip_adapter_scale: float = Field(0.6, ge=0, le=2)
    """weight of the image prompts beside the text"""
    prompt: str = "album cover"
    negative_prompt: str = ""
    """what pictures should not show; only of classes that take one"""
    strength: float = Field(0.5, gt=0, le=1)
    """share of the noise levels that the starting picture is taken through: 1 keeps nothing of it"""
    num_inference_steps: int = Field(30, ge=1, le=1000)
    """denoising steps of one picture, of which only the share `strength` is made"""
    guidance_scale: float = Field(5.0, ge=0, le=30)
    """weight of the prompt; 1 is none"""
    size: int | None = Field(None, ge=16, le=2048)
    """pixels a side that the model works at; by default what the checkpoint was trained at"""
    batch_size: int = Field(4, ge=1)
    """pictures that a GPU computes together. A CPU computes one at a time: there a picture has the same bytes whatever
    is generated with it, on a GPU it may differ in the last bits"""
    gpu_share: float = Field(0.7, gt=0, le=1)
    """share of a GPU's free memory that the weights may fill; of more, each network waits in the machine's memory until
    it computes"""
    lora: LoraSettings = LoraSettings()


class TransformerSettings(Section):
    """`generator.kind: transformer`: a conditional diffusion model on the catalogue's covers, and how it is trained."""

    patch_size: int = Field(8, ge=1)
    """pixels a side of a token"""
    hidden: int = Field(128, ge=32)
    """width of the transformer"""
    layers: int = Field(4, ge=1)
    """transformer blocks"""
    heads: int = Field(4, ge=1)
    """attention heads"""
    neighbours: int = Field(8, ge=1)
    """nearest covers the picture is conditioned on, beside the song"""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """probability that training drops the condition, for classifier-free guidance"""
    steps: int = Field(700, ge=1)
    """optimizer steps"""
    batch_size: int = Field(32, ge=1)
    """covers a step, over all workers"""
    lr: float = Field(3e-3, gt=0)
    """peak learning rate"""
    weight_decay: float = Field(0.01, ge=0)
    """of Muon and AdamW"""
    warmup: float = Field(0.05, ge=0, lt=1)
    """share of all steps"""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """of the weights that are published"""
    num_inference_steps: int = Field(25, ge=1, le=1000)
    """denoising steps of one picture"""
    guidance_scale: float = Field(3.0, ge=0, le=20)
    """classifier-free guidance; 1 is none"""

    @model_validator(mode="after")
    def _heads_fit(self) -> "TransformerSettings":
        if self.hidden % self.heads or self.hidden % 4:
            raise ValueError(f"hidden {self.hidden} must be a multiple of 4 and of heads, {self.heads}")
        return self


class LocalScoreSettings(Section):
    """`generator.kind: local-score`: exact diffusion on the pixels of a song's nearest covers."""

    num_sources: int = Field(100, ge=1, le=1000)
    """nearest covers that a new cover is composed of"""
    calibration_songs: int = Field(48, ge=1)
    """validation songs, at most, on which the parameters are chosen"""


class GeneratorSettings(Section):
    """What makes new covers from a song's nearest covers."""

    kind: Literal["local-score", "transformer", "diffusers"] = "local-score"
    """local-score needs no training: exact diffusion on the pixels of the nearest covers, which says which source each
    pixel comes from; transformer is trained on the catalogue; diffusers goes over the pictures of local-score with a
    pre-trained model"""
    size: int = Field(256, ge=16, le=1024)
    """pixels a side of new covers, and of the covers that they are composed of"""
    sources: dict[str, list[str]] = Field({})
    """columns of the manifest and the values that a cover must have there to be a source of new covers, as in
    {licence: [CC0, CC-BY]}; any when empty. Covers without them can still be searched for"""
    cache_bytes: int = Field(500_000_000, ge=0)
    """bytes of source pixels that a process keeps in memory"""
    local_score: LocalScoreSettings = LocalScoreSettings()
    transformer: TransformerSettings = TransformerSettings()
    diffusers: PretrainedSettings = PretrainedSettings()
    seed: int = 0

    @model_validator(mode="after")
    def _has_model(self) -> "GeneratorSettings":
        if self.kind == "diffusers" and self.diffusers.model is None:
            raise ValueError("generator.kind diffusers needs generator.diffusers.model, the folder of a checkpoint")
        return self


class OriginalitySettings(Section):
    """How close a new cover may come to a single existing one before it is generated again, and at last refused."""

    max_share: float = Field(0.25, gt=0, le=1)
    """largest share of a new cover that may come from one source"""
    max_region: float = Field(0.25, gt=0, le=1)
    """largest connected region, as a share of a new cover, that may come from one source"""
    max_likeness: float = Field(0.95, gt=0, le=1)
    """cosine to the most similar of all catalogue covers, by features that nothing here is trained on; measured where
    the extra `eval` is installed"""
    attempts: int = Field(4, ge=1, le=16)
    """times that a picture is generated, each time with the next seed and more novelty"""


class ExportSettings(Section):
    """What every exported cover says of its origin. The certificate and its key are read by the command that exports or
    starts the endpoint."""

    credit: str = Field("Generated by gatefold", min_length=1, max_length=200)
    """`photoshop:Credit` of every exported cover"""
    certificate_chain: str | None = None
    """PEM of the certificate that covers are signed with and of those that vouch for it, its own first: a path, or
    `env:NAME` for an environment variable that holds the PEM itself; covers are not signed when unset"""
    private_key: str | None = None
    """PEM of the certificate's private key (PKCS #8): a path or `env:NAME`"""
    signing_algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    """as the private key is of a kind"""
    time_stamp_url: str | None = Field(None, pattern=r"^https?://")
    """of a time-stamping service (RFC 3161), called for each signature; none when unset"""

    @model_validator(mode="after")
    def _both_or_neither(self) -> "ExportSettings":
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("certificate_chain and private_key go together")
        return self
