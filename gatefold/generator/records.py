"""What is written down of a generated cover beside its pixels: in manifests, in JSON and in PNG text."""

import json
from dataclasses import asdict
from typing import Any

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
