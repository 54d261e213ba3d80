"""The page, its files, the example songs, and the pages of the API's description. Knows
nothing of the API beside it."""

import asyncio
import csv
from functools import partial
from importlib.resources import files
from mimetypes import add_type, guess_type
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gatefold.errors import InvalidSettings, NotFound
from serve.api.contents import Content, add_content_route, content_response, is_known, not_modified, tag_of
from serve.api.contracts import Example

STATIC = Path(__file__).parents[1] / "static"
SWAGGER = str(files("fastapi_offline") / "static")
"""Swagger UI, as a package that is made anew with each of its releases holds it"""
SWAGGER_FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
PAGES = {"/": "index.html", "/covers/{job_id}": "index.html", "/docs": "docs.html"}
"""files by path; the page itself reads which job its path names"""
ATTRIBUTION = "ATTRIBUTION.csv"
_UNKNOWN_TYPE = "application/octet-stream"
_COLUMNS = ("file", "title", "artist", "genre", "licence", "attribution")


class Examples:
    """Songs in a folder, those that its ATTRIBUTION.csv names and no others: nothing is offered without its licence."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._examples = {} if folder is None else {example.file: example for example in _read(folder)}

    def router(self) -> APIRouter:
        """The routes of the example songs."""
        router = APIRouter(prefix="/examples", tags=["examples"])
        router.add_api_route("", self.list)
        add_content_route(router, "/{file}", self.file, "audio/*", _UNKNOWN_TYPE)
        return router

    async def list(self) -> list[Example]:
        """Songs to try, with what their licences ask to be said."""
        return [*self._examples.values()]

    async def file(self, request: Request, file: str) -> Response:
        """The audio file."""
        if self._folder is None or file not in self._examples:
            raise NotFound(f"there is no example '{file[:80]}'; see /examples")
        data = await asyncio.to_thread((self._folder / file).read_bytes)
        headers, tag = {"Cache-Control": "public, max-age=86400"}, tag_of(data)
        if is_known(request, tag):
            return not_modified(tag, headers)
        kind = guess_type(file)[0] or ""
        song = Content(data, kind if kind.startswith("audio/") else _UNKNOWN_TYPE)
        return content_response(request, song, tag, headers)


def install_page(app: FastAPI) -> None:
    """The page at `/` and `/covers/{job_id}`, the description's at `/docs`, and what they load; nothing comes from
    elsewhere."""
    add_type("font/woff2", ".woff2")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/docs/assets", SwaggerFiles(directory=SWAGGER), name="swagger-ui")

    for path, file in PAGES.items():
        app.add_route(path, partial(_page, STATIC / file), methods=["GET"], include_in_schema=False)


class SwaggerFiles(StaticFiles):
    """Swagger UI alone, of a package that holds more."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path not in SWAGGER_FILES:
            raise HTTPException(404)
        return await super().get_response(path, scope)


async def _page(file: Path, _: Request) -> FileResponse:
    return FileResponse(file)


def _read(folder: Path) -> list[Example]:
    """Raises: InvalidSettings for a list that is absent, incomplete, or names what is not in the folder."""
    path = folder / ATTRIBUTION
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise InvalidSettings(f"examples '{folder}' cannot be offered: {error.strerror} ({ATTRIBUTION})") from error
    for row in rows:
        missing = [column for column in _COLUMNS if row.get(column) is None]
        if missing:
            raise InvalidSettings(f"'{path}' lacks the column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}")
        if Path(row["file"]).name != row["file"] or not (folder / row["file"]).is_file():
            raise InvalidSettings(f"'{path}' names '{row['file']}', which is no file of that folder")
    return [
        Example(**{column: row[column] for column in _COLUMNS}, url=f"/examples/{quote(row['file'])}") for row in rows
    ]
