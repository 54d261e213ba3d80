"""What may be asked for over HTTP: the fields of each body, each with its range and unit; unknown fields are refused.

The endpoint's limits (`ServeSettings`) are no constants, so the models receive them as pydantic's validation context.
Nothing here knows of routes, of Ray or of models.
"""

import json
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gatefold.config import ServeSettings
from gatefold.generator.interface import GenerationRequest
from gatefold.retrieval import Filters
from serve.contracts import Body

SEED_MAX = 2**63 - 1
DEFAULT_K = 100
DEFAULT_N = 4
DEFAULT_SIZE = 512
SIZE_MIN = 16


def _limits(info: ValidationInfo) -> ServeSettings:
    """The endpoint's own limits, else the defaults (where only the shape of a body matters, as in the
    documentation)."""
    return info.context if isinstance(info.context, ServeSettings) else ServeSettings()


def _at_most(value: int, limit: int, setting: str) -> int:
    if value > limit:
        raise ValueError(f"at most {limit} (serve.{setting})")
    return value


class SearchFields(Body):
    """What a search takes beside the song itself."""

    k: int = Field(DEFAULT_K, ge=1)
    """matches wanted; at most the endpoint's k_max"""
    exclude_artists: list[str] = Field([], max_length=1000)
    """artists whose covers are left out"""
    exclude_song_ids: list[str] = Field([], max_length=1000)
    """songs whose covers are left out"""
    genres: list[str] = Field([], max_length=1000)
    """only covers of these genres; any when empty"""
    where: dict[str, Annotated[list[str], Field(min_length=1, max_length=1000)]] = Field({}, max_length=16)
    """only covers of songs in whose columns one of these stands: artist, album, genre, and what the manifest carried
    beyond (whole numbers and truth values as text: "1999", "true"). In a form, this object as JSON"""

    @field_validator("where", mode="before")
    @classmethod
    def _where_of_a_form(cls, where: object) -> object:
        if not isinstance(where, str):
            return where
        try:
            return json.loads(where)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON object, as in {\"album\": [\"Blue\"]}") from None

    @property
    def filters(self) -> Filters:
        genres = (("genre", frozenset(self.genres)),) if self.genres else ()
        where = tuple((column, frozenset(values)) for column, values in self.where.items())
        return Filters(frozenset(self.exclude_song_ids), frozenset(self.exclude_artists), (*genres, *where))

    @field_validator("k")
    @classmethod
    def _k_in_range(cls, k: int, info: ValidationInfo) -> int:
        return _at_most(k, _limits(info).k_max, "k_max")


class SearchUpload(SearchFields):
    """The fields of a multipart search, the file apart."""

    spectrogram: bool = False
    """whether the answer carries a picture of what was heard"""


class SearchQuery(SearchFields):
    """A search by a song of the catalogue, or by an embedding made by the same encoder."""

    song_id: str | None = Field(None, min_length=1)
    """a song of the catalogue"""
    embedding: list[float] | None = Field(None, min_length=1, max_length=65_536)
    """numbers, as many as the encoder's width"""
    encoder: str | None = None
    """fingerprint of the encoder that made the embedding"""

    @model_validator(mode="after")
    def _one_song(self) -> "SearchQuery":
        if (self.song_id is None) == (self.embedding is None):
            raise ValueError("give either song_id or embedding, or upload a song as multipart/form-data")
        if (self.embedding is None) != (self.encoder is None):
            raise ValueError("embedding and encoder (the fingerprint of the encoder that made it) go together")
        return self


class CoverFields(Body):
    """What a job for new covers takes beside the song itself."""

    n: int = Field(DEFAULT_N, ge=1)
    """covers wanted; at most the endpoint's n_max"""
    seed: int | None = Field(None, ge=0, le=SEED_MAX)
    """of the first cover, the next has the next; drawn at random when absent"""
    size: int = Field(DEFAULT_SIZE, ge=SIZE_MIN)
    """pixels a side of the new covers; at most the endpoint's size_max"""
    novelty: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    """0 stays close to single covers, 1 mixes small parts of many; the release's own where absent. Not for a generator
    of kind transformer"""
    source_song_ids: list[str] | None = Field(None, min_length=1, max_length=1000)
    """which of the song's nearest covers the new ones are made from; all that may be sources where absent"""
    palette_from: str | None = Field(None, min_length=1)
    """one of them, whose colours lead; drawn for each new cover where absent"""
    guidance_scale: float | None = Field(None, ge=0, le=20, allow_inf_nan=False)
    """how closely its conditions are followed by a generator of kind transformer or diffusers; 1 is no guidance"""
    num_inference_steps: int | None = Field(None, ge=1)
    """denoising steps of a generator of kind transformer or diffusers; at most the endpoint's steps_max"""
    strength: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    """how far a pre-trained model departs from the picture it starts from, for a generator of kind diffusers"""
    adapter: str | None = Field(None, pattern="^[0-9a-f]{12}$")
    """a LoRA made by `gatefold adapt`, for a generator of kind diffusers"""

    @property
    def generator_request(self) -> GenerationRequest:
        return GenerationRequest(
            size=self.size,
            novelty=self.novelty,
            palette_from=self.palette_from,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            strength=self.strength,
            adapter=self.adapter,
        )

    @field_validator("n")
    @classmethod
    def _n_in_range(cls, n: int, info: ValidationInfo) -> int:
        return _at_most(n, _limits(info).n_max, "n_max")

    @field_validator("num_inference_steps")
    @classmethod
    def _steps_in_range(cls, steps: int | None, info: ValidationInfo) -> int | None:
        return None if steps is None else _at_most(steps, _limits(info).steps_max, "steps_max")

    @field_validator("size")
    @classmethod
    def _size_in_range(cls, size: int, info: ValidationInfo) -> int:
        return _at_most(size, _limits(info).size_max, "size_max")

    @model_validator(mode="after")
    def _last_seed_in_range(self) -> "CoverFields":
        if self.seed is not None and self.seed + self.n - 1 > SEED_MAX:
            raise ValueError(f"seed {self.seed} leaves no room for {self.n} seeds up to {SEED_MAX}")
        return self


class CoverQuery(CoverFields):
    """New covers for a song of the catalogue."""

    song_id: str = Field(min_length=1)
    """a song of the catalogue"""


Asked = TypeVar("Asked", SearchUpload, SearchQuery, CoverFields, CoverQuery)


def parse(model: type[Asked], values: dict[str, Any], limits: ServeSettings) -> Asked:
    """The request that these fields make, within the endpoint's limits; a default above a limit shrinks to it.

    Raises: pydantic's ValidationError.
    """
    defaults = {
        "k": min(DEFAULT_K, limits.k_max),
        "n": min(DEFAULT_N, limits.n_max),
        "size": min(DEFAULT_SIZE, limits.size_max),
    }
    known = {name: value for name, value in defaults.items() if name in model.model_fields}
    return model.model_validate(known | values, context=limits)
