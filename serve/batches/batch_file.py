"""A file of calls, as `POST /v1/batches` takes it, answered without an endpoint: `output.jsonl` and `errors.jsonl` in a
folder, and the pictures beside them. What is in the output is not done again, so a run that broke off continues."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, InputError
from gatefold.generator.records import write_covers
from gatefold.records import Match
from serve.api import requests
from serve.batches.lines import BatchLine, LineFault, LineReader, call_fields

if TYPE_CHECKING:
    from gatefold.generator.interface import Generated
    from gatefold.storage.models.loaded_release import LoadedRelease

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
_CHUNK_BYTES = 1 << 20
_SHOWN = 10
"""lines that are wrong and named"""
_NAME_MAX = 120
"""characters of a custom_id in the names of its pictures"""
Encode = Callable[[dict[str, Any], "Generated"], bytes]


@dataclass(frozen=True)
class FileCounts:
    """Lines of a file, by what became of them."""

    done_before: int
    answered: int
    failed: int


def check_file(path: Path, limits: ServeSettings) -> int:
    """How many lines it has. Raises: InputError naming those that are wrong."""
    faults, count = list[LineFault](), 0
    for line in _lines(path, limits):
        if isinstance(line, LineFault):
            faults.append(line)
        else:
            count += 1
    if faults:
        first = "; ".join(f"line {fault.number}: {fault.detail}" for fault in faults[:_SHOWN])
        raise InputError(f"'{path}': {len(faults):,} lines are wrong, and nothing was begun: {first}")
    if not count:
        raise InputError(f"'{path}' has no lines")
    return count


def run_file(
    path: Path,
    folder: Path,
    loaded: "LoadedRelease",
    limits: ServeSettings,
    encode: Encode,
    on_line: Callable[[int], None] = lambda _done: None,
) -> FileCounts:
    """Answers every line that the folder's output does not have yet; those that fail are tried again by the next run.

    Args:
        path: which `check_file` has found right.
        encode: makes the PNG of a new cover, of what was asked and the cover.
        on_line: called with the number of lines that are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = _answered(folder / OUTPUT)
    before, answered, failed = len(done), 0, 0
    with (folder / OUTPUT).open("ab") as output, (folder / ERRORS).open("wb") as errors:
        for line in _lines(path, limits):
            if isinstance(line, BatchLine) and line.custom_id not in done:
                try:
                    body = _call(line, folder, loaded, limits, encode)
                except GatefoldError as error:
                    if error.retryable or error.status >= 500:
                        raise  # it is not the line's fault, and the next would fail alike
                    problem = {"status": error.status, "code": error.code, "detail": error.message}
                    _write(errors, line, error.status, problem)
                    failed += 1
                else:
                    _write(output, line, 200, body)
                    answered += 1
            on_line(before + answered + failed)
    return FileCounts(before, answered, failed)


def _lines(path: Path, limits: ServeSettings) -> Iterator[BatchLine | LineFault]:
    reader = LineReader(limits, webhooks=False)
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                yield from reader.feed(data)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from error
    yield from reader.end()


def _answered(path: Path) -> set[str]:
    """custom_ids in an output; a last line that a run did not finish is cut off."""
    done: set[str] = set()
    with suppress(FileNotFoundError), path.open("rb+") as file:
        whole = 0
        for text in file:
            if not text.endswith(b"\n"):
                break
            done.add(json.loads(text)["custom_id"])
            whole += len(text)
        file.truncate(whole)
    return done


def _write(file: IO[bytes], line: BatchLine, status: int, body: dict[str, Any]) -> None:
    response = {"status_code": status, "body": body}
    answer = {"line": line.number, "custom_id": line.custom_id, "response": response, "error": None}
    file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _call(
    line: BatchLine, folder: Path, loaded: "LoadedRelease", limits: ServeSettings, encode: Encode
) -> dict[str, Any]:
    fields = call_fields(line.url, line.body, limits)
    if isinstance(fields, requests.SearchQuery):
        matches = [match.model_dump(mode="json") for match in _search(loaded, fields)]
        return {"release": loaded.release.version, "encoder": loaded.encoder.fingerprint, "matches": matches}
    seed = secrets.randbelow(2**32) if fields.seed is None else fields.seed
    made = loaded.generate(
        loaded.encode_song_id(fields.song_id),
        seeds=range(seed, seed + fields.n),
        request=fields.generator_request,
        source_song_ids=fields.source_song_ids,
    )
    return write_covers(folder, _file_name(line.custom_id), made.covers, made.record, lambda g: encode(made.record, g))


def _search(loaded: "LoadedRelease", fields: requests.SearchQuery) -> list[Match]:
    from gatefold.storage.models.loaded_release import EncodedSong

    if fields.song_id is not None:
        return loaded.search(loaded.encode_song_id(fields.song_id), fields.k, fields.filters)
    embedding = fields.unit_embedding(loaded.encoder.fingerprint)
    return loaded.search(EncodedSong("embedding", embedding), fields.k, fields.filters)


def _file_name(custom_id: str) -> str:
    """A name for its pictures, which no other custom_id has."""
    quoted = quote(custom_id, safe="")
    if len(quoted) <= _NAME_MAX and not quoted.startswith("."):
        return quoted
    return f"{quoted[:_NAME_MAX].lstrip('.')}-{hashlib.sha256(custom_id.encode()).hexdigest()[:16]}"
