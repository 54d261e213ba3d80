"""Exports of the fake API: a zip of a picture and its sidecar, of the real one's shape and as small as a test needs."""

import io
import json
import zipfile
from typing import Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

SHAPES = {"social-9x16": (180, 320), "social-16x9": (320, 180)}
"""pixels across and down of exports that are not square"""
SQUARE = (300, 300)


class ExportForm(BaseModel):
    """The body of an export, as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    profile: str
    title: str | None = Field(None, min_length=1)
    artist: str | None = Field(None, min_length=1)
    layout: str = "auto"
    letters: bool = True
    answer: Literal["zip"]


def exported(picture: Image.Image, name: str, fields: ExportForm) -> bytes:
    """The zip. Its sidecar also repeats the request, as `asked`."""
    size = SHAPES.get(fields.profile, SQUARE)
    image = io.BytesIO()
    picture.resize(size).save(image, "JPEG")
    check = {"rule": "colour mode", "found": "RGB", "allowed": "RGB, 8 bits a channel", "passed": True}
    lettered = {"layout": fields.layout, "font": "Manrope ExtraBold"} if fields.letters and fields.title else None
    sidecar = {
        "profile": fields.profile,
        "format": "jpeg",
        "bytes": len(image.getvalue()),
        "size": size,
        "enlarged": {"from": [512, 512], "factor": 5.859, "filter": "Lanczos"},
        "lettering": lettered,
        "content_credentials": False,
        "preflight": [check],
        "asked": fields.model_dump(),
    }
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{name}-{fields.profile}.jpg", image.getvalue())
        archive.writestr(f"{name}-{fields.profile}.jpg.json", json.dumps(sidecar))
    return sink.getvalue()
