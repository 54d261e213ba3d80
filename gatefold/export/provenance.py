"""Where a picture on disk comes from: its generator, sources and shares, as the files of `gatefold generate` say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatefold.errors import InputError
from gatefold.export.disclosure import SOURCES_TEXT, SourceShare, generator_kind_in
from gatefold.export.encoding import XMP_OF_PNG


@dataclass(frozen=True)
class Provenance:
    """What is known of a picture; None and nothing where it is not.

    Args:
        generator: as in `generator.kind`.
        sources: the largest share first.
        release: version of the models.
    """

    generator: str | None = None
    sources: tuple[SourceShare, ...] = ()
    seed: int | None = None
    release: str | None = None


def manifest_beside(picture: Path) -> Path | None:
    """`NAME.json` that `gatefold generate` wrote beside `NAME-SEED.png`, where it is there."""
    name, separator, _ = picture.stem.rpartition("-")
    path = picture.with_name(f"{name}.json")
    return path if separator and path.is_file() else None


def read_provenance(picture: Path, texts: Mapping[str, str], manifest: Path | None) -> Provenance:
    """What the manifest says of this picture, or else what the picture itself says.

    Args:
        texts: of the picture, as `read_picture` has them.
        manifest: JSON of `gatefold generate`, the sidecar of an export, or a list of `{"song_id", "share"}`.

    Raises: InputError for a manifest that cannot be read, or says nothing of this picture.
    """
    own_kind = generator_kind_in(texts.get(XMP_OF_PNG, ""))
    if manifest is None:
        shares = _shares(_parsed(texts.get(SOURCES_TEXT, "[]"), f"{picture}: {SOURCES_TEXT}"))
        return Provenance(own_kind, shares)
    try:
        text = manifest.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sources = '{manifest}' cannot be read: {error}") from error
    found = _parsed(text, f"sources = '{manifest}'")
    if isinstance(found, dict) and "pictures" in found:
        return _of_manifest(found, picture.name, manifest)
    if isinstance(found, dict):
        return Provenance(
            found.get("generator"), _shares(found.get("sources")), found.get("seed"), found.get("release")
        )
    return Provenance(own_kind, _shares(found))


def _of_manifest(found: dict[str, Any], name: str, manifest: Path) -> Provenance:
    made = [cover for cover in found.get("covers", []) if "refused" not in cover]
    covers = dict(zip(found["pictures"], made, strict=False))
    if name not in covers:
        raise InputError(
            f"sources = '{manifest}' says nothing of '{name}'; it has {', '.join(covers) or 'no pictures'}"
        )
    release = found.get("release") or {}
    shares = _shares(covers[name].get("sources") or [])
    return Provenance(found.get("generator"), shares, covers[name].get("seed"), release.get("version"))


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{what} is no JSON: {error}") from error


def _shares(found: Any) -> tuple[SourceShare, ...]:
    try:
        shares = tuple(SourceShare(str(one["song_id"]), float(one["share"])) for one in found)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError('sources must be a list of {"song_id": text, "share": 0 to 1}, the sidecar of an export, or '
                         f"the JSON of `gatefold generate` ({type(error).__name__}: {error})") from error  # fmt: skip
    return tuple(sorted(shares, key=lambda one: -one.share))
