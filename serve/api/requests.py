"""Models of request bodies: the fields of each, each with its range and unit; unknown fields are refused.

The endpoint's limits (serve.api.limits) are no constants, so the models receive them as pydantic's validation context.
Nothing here knows of routes, of Ray or of models.
"""

import json
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from gatefold.config import ServeSettings
from gatefold.errors import InputError
from gatefold.generator.interface import GenerationRequest
from gatefold.index.interface import Filters
from serve.api.contracts import Body
from serve.api.limits import COLUMNS_MAX, EMBEDDING_MAX, GUIDANCE_MAX, LIST_MAX, SEED_MAX, SIZE_MIN, Limit
from serve.jobs.jobs import Webhook
from serve.middleware.uploads import check_text
from serve.webhooks.contracts import WebhookEventType
from serve.webhooks.receivers import URL_MAX, check_receiver, parse_receiver

DEFAULT_K = 100
DEFAULT_N = 4
DEFAULT_SIZE = 512


def _truth_value(value: object) -> object:
    """As JSON writes them, also in a form: of "yes" and "on" the description says nothing."""
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


class SearchFields(Body):
    """What a search takes beside the song itself."""

    k: Annotated[int, Limit("k_max")] = Field(DEFAULT_K, ge=1)
    """matches wanted"""
    exclude_artists: list[str] = Field([], max_length=LIST_MAX)
    """artists whose covers are left out"""
    exclude_song_ids: list[str] = Field([], max_length=LIST_MAX)
    """songs whose covers are left out"""
    genres: list[str] = Field([], max_length=LIST_MAX)
    """only covers of these genres; any when empty"""
    where: dict[str, Annotated[list[str], Field(min_length=1, max_length=LIST_MAX)]] = Field({}, max_length=COLUMNS_MAX)
    """only covers of songs in whose columns one of these stands: artist, album, genre, and what the manifest carried
    beyond (whole numbers and truth values as text: "1999", "true"). In a form, this object as JSON"""

    @property
    def filters(self) -> Filters:
        """The filters of these fields, for the index."""
        genres = (("genre", frozenset(self.genres)),) if self.genres else ()
        where = tuple((column, frozenset(values)) for column, values in self.where.items())
        return Filters(frozenset(self.exclude_song_ids), frozenset(self.exclude_artists), (*genres, *where))


class SearchUpload(SearchFields):
    """The fields of a multipart search, the file apart."""

    spectrogram: Annotated[bool, BeforeValidator(_truth_value)] = False
    """whether the answer carries a picture of the song's log-mel spectrogram"""


class SearchQuery(SearchFields):
    """A search by a song of the catalogue, or by an embedding made by the same encoder."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _as_either(schema))

    song_id: str | None = Field(None, min_length=1)
    """a song of the catalogue"""
    embedding: list[float] | None = Field(None, min_length=1, max_length=EMBEDDING_MAX)
    """numbers, as many as the encoder's width"""
    encoder: str | None = None
    """fingerprint of the encoder that made the embedding"""

    def unit_embedding(self, encoder: str) -> npt.NDArray[np.float32]:
        """float32 [D], the embedding at length 1. Raises: InputError where another encoder made it, or it has none.

        Args:
            encoder: fingerprint of the one that serves.
        """
        if self.encoder != encoder:
            named = str(self.encoder)[:80]
            raise InputError(f"embedding of encoder '{named}', here serves '{encoder}'; embed the song again")
        embedding = np.asarray(self.embedding, np.float64)
        largest = float(np.abs(embedding).max())
        if not (np.isfinite(largest) and largest > 0):
            raise InputError(f"embedding of which the largest number is {largest}; they must be finite, not all zero")
        scaled = embedding / largest  # its squares are within range, whatever the length
        return (scaled / np.linalg.norm(scaled)).astype(np.float32)

    @model_validator(mode="after")
    def _one_song(self) -> "SearchQuery":
        if (self.song_id is None) == (self.embedding is None):
            raise ValueError("give either song_id or embedding, or upload a song as multipart/form-data")
        if (self.embedding is None) != (self.encoder is None):
            raise ValueError("embedding and encoder (the fingerprint of the encoder that made it) go together")
        return self


class CoverFields(Body):
    """What a job for new covers takes beside the song itself."""

    n: Annotated[int, Limit("n_max")] = Field(DEFAULT_N, ge=1)
    """covers wanted"""
    seed: int | None = Field(None, ge=0, le=SEED_MAX)
    """of the first cover, the next has the next; drawn at random when absent"""
    size: Annotated[int, Limit("size_max")] = Field(DEFAULT_SIZE, ge=SIZE_MIN)
    """pixels a side of the new covers"""
    novelty: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    """0 stays close to single covers, 1 mixes small parts of many; the release's own where absent. Not for a generator
    of kind transformer"""
    source_song_ids: list[str] | None = Field(None, min_length=1, max_length=LIST_MAX)
    """which of the song's nearest covers the new ones are made from; all that may be sources where absent"""
    palette_from: str | None = Field(None, min_length=1)
    """one of them, whose colours lead; drawn for each new cover where absent"""
    guidance_scale: float | None = Field(None, ge=0, le=GUIDANCE_MAX, allow_inf_nan=False)
    """how closely its conditions are followed by a generator of kind transformer or diffusers; 1 is no guidance"""
    num_inference_steps: Annotated[int, Field(ge=1), Limit("steps_max")] | None = None
    """denoising steps of a generator of kind transformer or diffusers"""
    strength: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    """how far a pre-trained model departs from the picture it starts from, for a generator of kind diffusers"""
    adapter: str | None = Field(None, pattern="^[0-9a-f]{12}$")
    """a LoRA made by `gatefold adapt`, for a generator of kind diffusers"""
    webhook_url: str | None = Field(None, max_length=URL_MAX, pattern="^https://")
    """to which the job's end is reported, signed; with a public address"""
    webhook_events: list[WebhookEventType] | None = Field(None, min_length=1, max_length=LIST_MAX)
    """those that are reported; all where absent"""

    @field_validator("webhook_url")
    @classmethod
    def _may_be_called(cls, url: str | None, info: ValidationInfo) -> str | None:
        limits = info.context if isinstance(info.context, ServeSettings) else ServeSettings()
        if url is not None:
            check_receiver(parse_receiver(url), limits.webhooks.allowed_hosts)
        return url

    @property
    def webhook(self) -> Webhook | None:
        """Where the job's end is reported to."""
        if self.webhook_url is None:
            return None
        return Webhook(self.webhook_url, None if self.webhook_events is None else tuple(self.webhook_events))

    @property
    def generator_request(self) -> GenerationRequest:
        """What of these fields goes to the generator."""
        return GenerationRequest(
            size=self.size,
            novelty=self.novelty,
            palette_from=self.palette_from,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            strength=self.strength,
            adapter=self.adapter,
        )

    @model_validator(mode="after")
    def _last_seed_in_range(self) -> "CoverFields":
        if self.seed is not None and self.seed + self.n - 1 > SEED_MAX:
            raise ValueError(f"seed {self.seed} leaves no room for {self.n} seeds up to {SEED_MAX}")
        return self

    @model_validator(mode="after")
    def _events_have_a_receiver(self) -> "CoverFields":
        if self.webhook_events is not None and self.webhook_url is None:
            raise ValueError("webhook_events need a webhook_url")
        return self


class CoverQuery(CoverFields):
    """New covers for a song of the catalogue."""

    song_id: str = Field(min_length=1)
    """a song of the catalogue"""


def _as_either(schema: dict[str, Any]) -> None:
    """Makes the schema of a query that of two kinds of query, each with all of its fields."""
    fields, whole = schema.pop("properties"), {"type": "object", "additionalProperties": False}
    schema.pop("additionalProperties")
    kinds = {"BySong": ("song_id",), "ByEmbedding": ("embedding", "encoder")}
    only = [name for names in kinds.values() for name in names]
    schema["oneOf"] = []
    for title, names in kinds.items():
        own = {name: _without_null(fields[name]) if name in names else {"type": "null"} for name in only}
        schema["oneOf"].append({**whole, "title": title, "required": list(names), "properties": {**fields, **own}})


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind: dict[str, Any]
    (kind,) = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return {name: value for name, value in schema.items() if name not in ("anyOf", "default")} | kind


Fields = TypeVar("Fields", SearchUpload, SearchQuery, CoverFields, CoverQuery)


def parse(model: type[Fields], values: dict[str, Any], limits: ServeSettings, *, strict: bool = False) -> Fields:
    """The request that these fields make, within the endpoint's limits; a default above a limit shrinks to it.

    Args:
        strict: whether values must have the types of the description, as those of JSON can; the values of a form are
            texts.

    Raises: pydantic's ValidationError; InputError for a field of a form that should be a JSON object and is no JSON.
    """
    defaults = {
        "k": min(DEFAULT_K, limits.k_max),
        "n": min(DEFAULT_N, limits.n_max),
        "size": min(DEFAULT_SIZE, limits.size_max),
    }
    known = {name: value for name, value in defaults.items() if name in model.model_fields}
    if not strict and isinstance(where := values.get("where"), str) and "where" in model.model_fields:
        values = values | {"where": _object("where", where)}
    return model.model_validate(known | values, context=limits, strict=strict)


def check_webhook(fields: CoverFields, *, webhooks: bool) -> None:
    """Raises: InputError for a webhook where there is nothing that signs it.

    Args:
        webhooks: whether there is.
    """
    if fields.webhook is not None and not webhooks:
        raise InputError("webhook_url: this endpoint has no secret to sign with; GATEFOLD_WEBHOOK_SECRET is not set")


def _object(name: str, text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        shown = ascii(text[:80])
        raise InputError(f"{name} = {shown}: must be a JSON object, as in {{\"album\": [\"Blue\"]}}") from None
    check_text(found, f"field '{name}'")
    return found
