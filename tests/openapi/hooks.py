"""What schemathesis cannot know of forms, and of JSON lines."""

from typing import Any

import schemathesis

LISTS = ("exclude_artists", "exclude_song_ids", "genres", "source_song_ids", "webhook_events")


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """Leaves out forms with something else than a list where one is wanted: as a field, it is a list of one text."""
    if case.media_type != "multipart/form-data" or not isinstance(case.body, dict):
        return True
    return all(isinstance(case.body.get(name, []), list) for name in LISTS)


@schemathesis.serializer("application/jsonl")
def json_lines(_: Any, value: Any) -> bytes:
    """A batch as it is made up: a text."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
