"""Every setting, once, with its default and its unit.

Order of precedence: the defaults here < a YAML file that holds only what differs < `--set audio.n_mels=96`. Loaded
once, by the CLI; each function receives the part it needs. Credentials are not here: they belong to the storage SDK's
own environment.
"""

from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from gatefold.errors import InvalidSettings
from gatefold.generator_settings import ExportSettings as ExportSettings
from gatefold.generator_settings import GeneratorSettings as GeneratorSettings
from gatefold.generator_settings import OriginalitySettings as OriginalitySettings
from gatefold.generator_settings import PretrainedSettings as PretrainedSettings
from gatefold.generator_settings import TransformerSettings as TransformerSettings
from gatefold.renamed_settings import refuse_renamed
from gatefold.section import ABSOLUTE
from gatefold.section import Section as Section
from gatefold.serve_settings import ServeSettings as ServeSettings


class AudioSettings(Section):
    """From bytes of a song to log-mel windows. A model bundle carries these, so training and serving use the same."""

    sample_rate: int = Field(16_000, ge=8_000, le=192_000)
    """hertz, after resampling to mono"""
    n_fft: int = Field(1024, ge=64)
    """samples"""
    win_length: int = Field(1024, ge=64)
    """samples"""
    hop_length: int = Field(320, ge=16)
    """samples; 20 ms at 16 kHz"""
    n_mels: int = Field(80, ge=8, le=512)
    """mel bands"""
    f_min: float = Field(30.0, ge=0)
    """hertz"""
    f_max: float = Field(8_000.0, gt=0)
    """hertz"""
    window_s: float = Field(5.12, gt=0)
    """seconds a window lasts"""
    windows: int = Field(3, ge=1)
    """windows spread over a song; a song shorter than one window has one, padded with silence"""
    min_duration_s: float = Field(1.0, gt=0)
    """seconds; anything shorter says too little"""
    max_duration_s: float = Field(43_200.0, gt=0)
    """seconds; anything longer is refused"""
    max_bytes: int = Field(200_000_000, gt=0)
    """bytes read of a file: little more than its windows, but all of one that does not say how long it lasts"""
    silence_dbfs: float = Field(-60.0, lt=0)
    """decibels below full scale; a song whose loudest sample stays under this is silent"""

    duration_setting: ClassVar[str] = "audio.max_duration_s"
    """what a message calls the setting that decides `max_duration_s`"""
    bytes_setting: ClassVar[str] = "audio.max_bytes"
    """likewise for `max_bytes`"""

    @property
    def window_length(self) -> int:
        """samples."""
        return round(self.window_s * self.sample_rate)

    @property
    def frames(self) -> int:
        """spectrogram columns in a window."""
        return self.window_length // self.hop_length

    @model_validator(mode="after")
    def _consistent(self) -> "AudioSettings":
        if self.f_max > self.sample_rate / 2:
            raise ValueError(f"f_max {self.f_max} Hz lies above half the sample rate, {self.sample_rate / 2} Hz")
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min} Hz must lie below f_max {self.f_max} Hz")
        lengths = [(name, getattr(self, name)) for name in ("hop_length", "win_length", "n_fft", "window_length")]
        for (name, length), (limit_name, limit) in pairwise(lengths):
            if length > limit:
                raise ValueError(f"{name} {length} must not exceed {limit_name} {limit}, in samples")
        return self


class UploadAudioSettings(AudioSettings):
    """Those of an encoder, with the endpoint's limits of an uploaded song in the place of the catalogue's."""

    duration_setting: ClassVar[str] = "serve.upload_max_duration_s"
    bytes_setting: ClassVar[str] = "serve.upload_max_bytes"

    @classmethod
    def of(cls, audio: AudioSettings, limits: ServeSettings) -> "UploadAudioSettings":
        """The encoder's settings, and these limits."""
        bounds = {"max_bytes": limits.upload_max_bytes, "max_duration_s": limits.upload_max_duration_s}
        return cls(**(audio.model_dump() | bounds))


class CoverSettings(Section):
    """How pictures come in."""

    size: int = Field(64, ge=16, le=1024)
    """pixels a side, of the square the models see"""
    max_bytes: int = Field(20_000_000, gt=0)
    """bytes of the encoded picture"""
    max_pixels: int = Field(40_000_000, gt=0)
    """width times height; a bomb is refused before it is decoded"""


class SplitSettings(Section):
    """Shares of artists held out, by a stable hash: see `records.split_of`."""

    validation: float = Field(0.10, ge=0, lt=1)
    """share of artists"""
    test: float = Field(0.20, ge=0, lt=1)
    """share of artists"""

    @model_validator(mode="after")
    def _leaves_training(self) -> "SplitSettings":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave no artist to train on")
        return self


class EncoderSettings(Section):
    """The two towers and how they are trained."""

    embed_dim: int = Field(128, ge=8)
    """width of the joint space"""
    width: int = Field(32, ge=16, multiple_of=16)
    """channels of a tower's first block; the later ones are 2 and 4 times as wide"""
    dropout: float = Field(0.2, ge=0, lt=1)
    """probability"""
    song_backbone: str | None = Field(None, pattern=ABSOLUTE)
    """folder of a CLAP or AST checkpoint in the place of our own song tower: an absolute path, `file:///…` or `s3://…`,
    that every worker can read"""
    cover_backbone: str | None = Field(None, pattern=ABSOLUTE)
    """likewise CLIP, DINOv2 or ConvNeXt V2 for covers, which are resized from `cover.size` to what it was trained on"""
    freeze_backbones: bool = True
    """whether only the projection behind a backbone learns"""
    loss: Literal["infonce", "triplet", "sigmoid"] = "infonce"
    """symmetric InfoNCE, the paper's triplet loss with semi-hard negatives of the batch, or SigLIP's sigmoid loss"""
    temperature: float = Field(0.1, gt=0)
    """initial temperature of InfoNCE and of the sigmoid loss; learned"""
    margin: float = Field(0.2, gt=0)
    """of the triplet loss, in cosine"""
    genre_weight: float = Field(0.0, ge=0)
    """of a supervised term beside the loss, which draws songs and covers of one genre together; 0 leaves it out"""
    epochs: int = Field(45, ge=1)
    """passes over the training songs"""
    batch_size: int = Field(64, ge=2)
    """pairs a step, over all workers"""
    pairs_at_once: int | None = Field(None, ge=1)
    """pairs that a worker computes at once, by default all. Fewer take less memory and the loss stays that of the whole
    batch, but each pair is embedded twice"""
    lr: float = Field(1e-3, gt=0)
    """peak learning rate"""
    weight_decay: float = Field(0.05, ge=0)
    """of AdamW"""
    warmup: float = Field(0.1, ge=0, lt=1)
    """share of all steps"""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """of the weights that are published"""
    evaluations: int = Field(6, ge=1)
    """times that training measures recall on validation songs; the weights of the best are published"""
    patience: int | None = Field(None, ge=1)
    """evaluations in a row without a better recall that end training; by default none do, as the last steps, at a small
    learning rate, gain the most"""
    seed: int = 0


class IndexSettings(Section):
    """The index of covers."""

    kind: Literal["auto", "flat", "hnsw", "ivf", "ivfpq"] = "auto"
    """flat is exact; auto takes the most exact that is fast enough and fits max_bytes"""
    recall: float = Field(0.95, gt=0, le=1)
    """share of the 100 truly nearest that a search must find; measured, and below it nothing is published"""
    max_bytes: int = Field(4_000_000_000, gt=0)
    """bytes of memory for the vectors, in each replica"""
    covers_per_shard: int = Field(2_000_000, ge=1)
    """songs at most of which one index is made; more are cut into shards, built and served side by side"""


class TrainSettings(Section):
    """How Ray Train runs either model."""

    reuse_models: bool = False
    """what has changed in the catalogue is embedded, indexed and released under the active release's encoder and
    generator; nothing is trained"""
    num_workers: int | None = Field(None, ge=1)
    """processes; by default one for each GPU, or on CPUs one for each core up to four"""
    use_gpu: bool = False
    """one GPU for each worker"""
    threads: int = Field(1, ge=1)
    """CPU threads of a worker; the models are small, and two workers of one thread outrun one of two"""
    max_failures: int = Field(3, ge=-1)
    """lost workers that a run survives; -1 is any number"""
    checkpoint_steps: int = Field(100, ge=1)
    """optimizer steps between checkpoints; at most that much work is lost"""
    object_store_fraction: float = Field(0.3, ge=0, le=1)
    """share of the cluster's object store that the examples may fill; more than that are read anew each epoch"""


class EvaluationSettings(Section):
    """What the reports measure."""

    held_out: int = Field(4_000, ge=4)
    """songs of the test split at most that are measured on; each is compared with each"""
    num_generated: int = Field(192, ge=8)
    """new covers generated for held-out songs"""
    rank_candidates: int = Field(100, ge=2)
    """songs among which a new cover's own song is ranked"""
    contact_sheet_rows: int = Field(8, ge=1)
    """rows of the contact sheet"""
    seed: int = 0


class BatchSettings(Section):
    """How Ray Data cuts the catalogue."""

    rows_per_block: int = Field(256, ge=1)
    """songs a task at most, fewer of a small catalogue; the unit that is committed, and lost in a crash"""
    song_timeout_s: float = Field(300.0, gt=0)
    """seconds that a song may take; then its decoder is killed and the song rejected. Half of them may be spent waiting
    for the store; then the song is left for later"""
    max_reject_share: float = Field(0.2, ge=0, le=1)
    """share of a stage's inputs that may be rejected before the exit code is 3"""


class SynthesisSettings(Section):
    """The demo's catalogue of composed songs and drawn covers."""

    songs: int = Field(1200, ge=1)
    artists: int = Field(240, ge=1)
    duration_s: float = Field(10.0, gt=0)
    """seconds a song lasts"""
    cover_size: int = Field(256, ge=32)
    """pixels a side"""
    cover_noise: float = Field(0.22, ge=0)
    """standard deviation between a song's traits, each 0 to 1, and what its cover shows of them"""
    seed: int = 0


class Settings(Section):
    """All of it."""

    workspace: str = "workspace"
    """a folder, `file:///…` or `s3://bucket/prefix`"""
    endpoint_url: str | None = None
    """of an S3 store that is not AWS; the environment's AWS_ENDPOINT_URL when unset"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where `search` and `generate` compute, which run without Ray; stages and endpoint compute where Ray grants it"""
    audio: AudioSettings = AudioSettings()
    cover: CoverSettings = CoverSettings()
    split: SplitSettings = SplitSettings()
    encoder: EncoderSettings = EncoderSettings()
    index: IndexSettings = IndexSettings()
    generator: GeneratorSettings = GeneratorSettings()
    originality: OriginalitySettings = OriginalitySettings()
    train: TrainSettings = TrainSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    batch: BatchSettings = BatchSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    serve: ServeSettings = ServeSettings()
    export: ExportSettings = ExportSettings()

    @property
    def stored_cover(self) -> CoverSettings:
        """How covers are kept in the workspace: as large as the encoder or the generator needs them."""
        return self.cover.model_copy(update={"size": max(self.cover.size, self.generator.size)})

    @model_validator(mode="after")
    def _patches_fit(self) -> "Settings":
        patch_size = self.generator.transformer.patch_size
        if self.cover.size % patch_size:
            raise ValueError(
                f"cover.size {self.cover.size} is no multiple of generator.transformer.patch_size {patch_size}"
            )
        return self


def load(path: Path | None = None, overrides: list[str] | None = None) -> Settings:
    """Settings from the defaults, then a YAML file, then `key.path=value` overrides (values are read as YAML).

    Raises: InvalidSettings naming the field, its value and what is allowed.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InvalidSettings(f"config '{path}' cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise InvalidSettings(f"config '{path}' must be a mapping of sections, not {type(values).__name__}")
    for override in overrides or []:
        _set(values, override)
    refuse_renamed(values)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_explain(e) for e in error.errors())) from error


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InvalidSettings(f"--set '{override}' must read KEY=VALUE, as in audio.n_mels=96")
    *sections, field = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InvalidSettings(f"--set '{override}': '{section}' is a value, not a section")
    try:
        values[field] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSettings(f"--set '{override}': '{text}' is no YAML value; quote what is meant as text") from error


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{where} = {error['input']!r}: there is no such setting{_nearest(error['loc'])}"
    return f"{where} = {error['input']!r}: {error['msg']}" if error["loc"] else str(error["msg"])


def _nearest(path: tuple[int | str, ...]) -> str:
    """The end of a message about an unknown setting: the one that may be meant, or those that there are."""
    model: Any = Settings
    for part in path[:-1]:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        model = field.annotation if field is not None else None
    names = list(getattr(model, "model_fields", ()))
    meant = get_close_matches(str(path[-1]), names, 1)
    if meant:
        return f"; is {'.'.join(map(str, (*path[:-1], meant[0])))} meant?"
    return f"; there are {', '.join(names)}" if names else ""
