"""Settings of `generator.kind: diffusers`: a pre-trained text-to-image model over the pictures of the analytic one."""

from pydantic import Field

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
