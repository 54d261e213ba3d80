"""The base class of every section of the settings, whichever module its fields are in."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict

ABSOLUTE = r"^(/|file:///|s3://.)"
"""pattern of a place that every worker can read, wherever it runs"""


class Section(BaseModel):
    """Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any setting of this section does."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:12]
