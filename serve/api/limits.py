"""Upper limits of requests over HTTP.

Each limit is defined once, as a setting of the endpoint (`ServeSettings`) or as a constant here. From there it is
checked, named in errors, described in OpenAPI, and answered by `GET /v1/limits`.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any

from fastapi import Header
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gatefold.config import ServeSettings
from serve.api.contracts import LimitsView
from serve.webhooks.receivers import URL_MAX

SIZE_MIN = 16
LIST_MAX = 1000
COLUMNS_MAX = 16
EMBEDDING_MAX = 65_536
SEED_MAX = 2**63 - 1
GUIDANCE_MAX = 20.0
ROW_NUMBER_MAX = 2**63 - 1
"""that both databases can be asked for"""
IDEMPOTENCY_KEY_MAX = 255
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=IDEMPOTENCY_KEY_MAX)]
"""the parameter of this name: a key of the caller's that stands for a request, so that it can be sent again"""
JOBS_LISTED_MAX = 100
"""jobs in one list"""
CUSTOM_ID_MAX = 128
"""characters of a `custom_id`"""
TEXT_MAX = 300
"""characters of a title, artist or creator on a cover"""
_CONSTANTS = {
    "size_min": SIZE_MIN,
    "list_max": LIST_MAX,
    "columns_max": COLUMNS_MAX,
    "embedding_max": EMBEDDING_MAX,
    "seed_max": SEED_MAX,
    "guidance_max": GUIDANCE_MAX,
    "idempotency_key_max": IDEMPOTENCY_KEY_MAX,
    "jobs_listed_max": JOBS_LISTED_MAX,
    "custom_id_max": CUSTOM_ID_MAX,
    "text_max": TEXT_MAX,
    "webhook_url_max": URL_MAX,
}
_MARK = "x-limit"
"""in a schema: a keyword of JSON schema, or an `x-` where it has no word, and the setting that is its value"""


@dataclass(frozen=True)
class Limit:
    """The upper limit of a whole number, to be written into its annotation: checked against the settings in pydantic's
    validation context (their defaults, where there is none), and marked in the JSON schema for `described`."""

    setting: str
    """a field of `ServeSettings`"""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core) | marked(maximum=self.setting)

    def _check(self, value: int, info: ValidationInfo) -> int:
        limits = info.context if isinstance(info.context, ServeSettings) else ServeSettings()
        limit = getattr(limits, self.setting)
        if value > limit:
            raise ValueError(f"at most {limit} (serve.{self.setting})")
        return value


def marked(**settings: str) -> dict[str, Any]:
    """A part of a schema that `described` gives limits to.

    Args:
        settings: by keyword of JSON schema (`x_max_bytes` stands for `x-max-bytes`), fields of `ServeSettings`.
    """
    return {_MARK: {keyword.replace("_", "-"): setting for keyword, setting in settings.items()}}


def described(schema: Any, limits: ServeSettings) -> Any:
    """The same schema, however deep, with the endpoint's limits at its marks; a default above a limit shrinks to it."""
    if isinstance(schema, list):
        return [described(one, limits) for one in schema]
    if not isinstance(schema, dict):
        return schema
    known = {key: described(value, limits) for key, value in schema.items() if key != _MARK}
    marks: dict[str, str] = schema.get(_MARK, {})
    for keyword, setting in marks.items():
        known[keyword] = attrgetter(setting)(limits)
        known["x-setting" if len(marks) == 1 else f"{keyword}-setting"] = f"serve.{setting}"
    if "maximum" in marks and isinstance(known.get("default"), int):
        known["default"] = min(known["default"], known["maximum"])
    return known


def limits_view(limits: ServeSettings) -> LimitsView:
    """The limits as they are answered."""
    known = _CONSTANTS | {"batch_lines_max": limits.batches.lines_max}
    return LimitsView(**{name: known.get(name, getattr(limits, name, None)) for name in LimitsView.model_fields})
