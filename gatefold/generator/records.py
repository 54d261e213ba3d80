"""Records of a generated cover: in manifests, in JSON and in PNG text."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatefold.generator.attribution import draw_map
from gatefold.generator.interface import Generated
from gatefold.generator.originality import NewCover, Refused


def cover_record(cover: NewCover | Refused) -> dict[str, Any]:
    """A new cover without its pixels, or why there is none, fit for JSON."""
    if isinstance(cover, Refused):
        return {"seed": cover.seed, "refused": cover.code, "value": cover.value, "limit": cover.limit,
                "song_id": cover.song_id, "detail": cover.detail}  # fmt: skip
    generated, likeness = cover.generated, cover.likeness
    attribution = generated.attribution
    return {
        "seed": generated.seed,
        "attempt": cover.attempt,
        "likeness": None if likeness is None else asdict(likeness),
        "palette_from": generated.palette_from,
        "enlarged": list(generated.enlarged),
        "sources": None if attribution is None else [asdict(share) for share in attribution.shares],
    }


def sources_text(generated: Generated) -> str:
    """The sources with their shares as JSON, for the text of a PNG; an empty list where they are not known."""
    shares = generated.attribution.shares if generated.attribution else ()
    return json.dumps([{"song_id": share.song_id, "share": round(share.share, 4)} for share in shares])


def write_covers(
    folder: Path,
    name: str,
    covers: Sequence[NewCover | Refused],
    record: dict[str, Any],
    encode: Callable[[Generated], bytes],
) -> dict[str, Any]:
    """Writes `NAME-SEED.png` for each new cover, `NAME-SEED-sources.png` where its sources are known, and `NAME.json`.

    Args:
        name: of the song; a slash in it becomes an underscore.
        record: what the JSON holds beside the names of the files.
        encode: makes the PNG of a new cover.

    Returns: what the JSON holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("/", "_")
    pictures = []
    for cover in covers:
        if isinstance(cover, Refused):
            continue
        generated = cover.generated
        path = folder / f"{stem}-{generated.seed}.png"
        path.write_bytes(encode(generated))
        pictures.append(path.name)
        if generated.attribution is not None:
            (folder / f"{stem}-{generated.seed}-sources.png").write_bytes(draw_map(generated.attribution))
    written = {**record, "pictures": pictures}
    (folder / f"{stem}.json").write_text(json.dumps(written, ensure_ascii=False, indent=1))
    return written
