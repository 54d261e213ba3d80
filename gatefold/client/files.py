"""Pictures and manifests of a job in a folder. A file appears whole or not at all."""

import secrets
from pathlib import Path

from gatefold.client.calls import PictureFormat
from gatefold.client.models import CoverImage

MANIFEST = "manifest.json"


def image_name(image: CoverImage, picture_format: PictureFormat) -> str:
    """File name of a new cover: `cover-SEED.png`, `.jpg` or `.webp`."""
    return f"cover-{image.seed}.{'jpg' if picture_format == 'jpeg' else picture_format}"


def write(folder: Path, name: str, data: bytes) -> Path:
    """The file, in the place of what was there; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path, temporary = folder / name, folder / f".{name}.{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
