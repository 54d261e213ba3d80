"""The OpenAPI description of the endpoint: what FastAPI derives from the routes, and the limits of this endpoint."""

from typing import Any

from fastapi import FastAPI

from gatefold.config import ServeSettings
from serve.limits import described


class DescribedApi(FastAPI):
    """A FastAPI application whose description says what this endpoint takes at most.

    Args:
        limits: of this endpoint.
        options: of FastAPI.
    """

    def __init__(self, limits: ServeSettings, **options: Any) -> None:
        self._limits = limits
        super().__init__(**options)

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = described(super().openapi(), self._limits)
        return self.openapi_schema
