"""Songs decoded, and tags written, in child processes of a worker: a file that kills or stalls a decoder or a parser of
tags costs itself alone. One child of each kind stays for as long as the worker does."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

from gatefold.audio.decoder_process import MEMORY_BYTES, bounded, prepare
from gatefold.config import AudioSettings
from gatefold.errors import DecoderCrashed, DecodingTimeout, GatefoldError
from gatefold.isolation import Core, Isolated, Work, limit_memory
from gatefold.records import LogMelWindows
from gatefold.storage import objects
from pipelines.backfill.tag_writing import with_picture

TAGS_MEMORY_BYTES = 1 << 31
"""that writing the tags of one file may take"""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TagRequest:
    """A file that gets a picture."""

    data: bytes
    picture: bytes
    name: str

    def __repr__(self) -> str:
        return f"TagRequest({len(self.data)} bytes, {self.name!r})"


def write_picture(request: TagRequest, timeout_s: float) -> bytes | None:
    """As `tag_writing.with_picture`. Raises: also DecodingTimeout, DecoderCrashed, which are InputErrors."""
    return _outcome(_tag_writer(timeout_s), request, request.name)


def decode_song(uri: str, audio: AudioSettings, timeout_s: float) -> LogMelWindows:
    """The windows of a stored song. Raises: InputError; storage errors."""
    return _outcome(_song_decoder(audio.model_dump_json(), timeout_s), uri, objects.name(uri))


def _outcome(child: "Isolated[Item, Result]", item: Item, name: str) -> Result:
    outcome = child.once(item)
    if isinstance(outcome, DecodingTimeout | DecoderCrashed):
        raise type(outcome)(f"'{name}': {outcome.message}")
    if isinstance(outcome, GatefoldError):
        raise outcome
    return outcome


@lru_cache(maxsize=1)
def _tag_writer(timeout_s: float) -> "Isolated[TagRequest, bytes | None]":
    return Isolated(make_tag_writer, timeout_s=timeout_s, in_flight=1)


@lru_cache(maxsize=1)
def _song_decoder(audio: str, timeout_s: float) -> "Isolated[str, LogMelWindows]":
    return Isolated(partial(_make_decoder, audio), timeout_s=timeout_s, in_flight=1)


# ---- in the child ---------------------------------------------------------------------------------------------------


def make_tag_writer() -> Work[TagRequest, bytes | None]:
    """What writes tags there."""
    limit_memory(TAGS_MEMORY_BYTES)
    return _write


def _write(request: TagRequest, _: Core) -> bytes | None:
    return with_picture(request.data, request.picture, request.name)


def _make_decoder(audio: str) -> Callable[[str, Core], LogMelWindows]:
    prepare(MEMORY_BYTES)
    return partial(_decode, AudioSettings.model_validate_json(audio))


def _decode(audio: AudioSettings, uri: str, _: Core) -> LogMelWindows:
    from gatefold.audio.spectrograms import extract_log_mel

    with bounded(MEMORY_BYTES):
        return extract_log_mel(objects.open_source(uri), audio, name=f"song '{objects.name(uri)}'")
