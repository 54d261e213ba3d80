"""The demo's catalogue on storage: songs in several formats, covers beside them, and last of all the manifest.

Files are named after their songs and put whole, so a run that was killed goes on where it stopped, and a finished
one is not done again. A note beside the manifest says which settings it was made with; what was made with others is
removed first. It knows nothing of how music or pictures are made.
"""

import hashlib
import io
import json
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray.data
import soundfile
from numpy.typing import NDArray
from PIL import Image

from gatefold.config import Settings, SynthesisSettings
from gatefold.errors import InputError
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases
from gatefold.storage.leases import Lease
from gatefold.storage.objects import delete, delete_tree, exists, join, list_objects, put, read, resolve
from gatefold.synthetic.catalogue import TRAIT_NAMES, SyntheticTrack, compose_catalogue
from gatefold.synthetic.composition import render_song
from gatefold.synthetic.drawing import draw_cover
from gatefold.synthetic.instruments import SAMPLE_RATE
from pipelines.report import Report

MANIFEST = "manifest.parquet"
NOTE = "synthesis.json"

_EDITION = 1  # raise it when the same settings begin to sound or look different

_FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_FORMAT_BOUNDS = (("wav", 0.30), ("flac", 0.80), ("ogg", 0.92), ("mp3", 1.0))
_PNG_SHARE = 0.2
_SONGS_PER_BLOCK = 32

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def synthesize(settings: Settings, target: str, on_progress: OnProgress = silent) -> Report:
    """Writes the catalogue under a folder: `audio/`, `covers/`, `manifest.parquet` and `synthesis.json`.

    Args:
        target: a folder, `file:///…` or `s3://…`, empty or made here before; what other settings made is replaced.
        on_progress: called with the number of songs that are there and that there will be.

    Returns: songs written and songs that were there already.
    Raises: InputError for a folder with files of somebody else; RunInProgress; StorageUnavailable, StorageDenied.
    """
    began = time.monotonic()
    folder, synthesis = resolve(target), settings.synthesis
    if _is_finished(folder, synthesis):
        return _report(0, synthesis.songs, began, folder)
    with leases.hold(f"{folder}.lease") as lease:
        _claim(folder, synthesis)
        written = _write(settings, folder, lease, on_progress)
    return _report(written, synthesis.songs - written, began, folder)


def _write(settings: Settings, folder: str, lease: Lease, on_progress: OnProgress) -> int:
    """The songs that are missing, then the manifest; how many were."""
    synthesis = settings.synthesis
    tracks = compose_catalogue(synthesis)
    present = {found.uri for found in list_objects(folder)}
    missing = [
        n
        for n, track in enumerate(tracks)
        if not {join(folder, audio_path(track)), join(folder, cover_path(track))} <= present
    ]
    there = len(tracks) - len(missing)
    for written in _write_songs(missing, synthesis, folder, min(settings.batch.rows_per_block, _SONGS_PER_BLOCK)):
        there += written
        lease.check_renewed()
        on_progress(there, len(tracks))
    lease.check()
    put(join(folder, MANIFEST), _parquet(_manifest(tracks)))
    return len(missing)


def audio_path(track: SyntheticTrack) -> str:
    """Where a song lies in the folder; its format is a stable choice."""
    point = _point(track.song_id, "audio")
    suffix = next(suffix for suffix, bound in _FORMAT_BOUNDS if point < bound)
    return f"audio/{track.song_id}.{suffix}"


def cover_path(track: SyntheticTrack) -> str:
    """Where a cover lies in the folder."""
    return f"covers/{track.song_id}.{'png' if _point(track.song_id, 'cover') < _PNG_SHARE else 'jpg'}"


def _point(song_id: str, purpose: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{purpose}:{song_id}".encode()).digest()[:8], "big") / 2**64


# ---- what is there -----------------------------------------------------------------------------------------------


def _is_finished(folder: str, synthesis: SynthesisSettings) -> bool:
    return _note_agrees(folder, synthesis) and exists(join(folder, MANIFEST))


def _note_agrees(folder: str, synthesis: SynthesisSettings) -> bool:
    note = join(folder, NOTE)
    return exists(note) and read(note) == _note(synthesis)


def _note(synthesis: SynthesisSettings) -> bytes:
    note = {"edition": _EDITION, "fingerprint": synthesis.fingerprint(), "settings": synthesis.model_dump(mode="json")}
    return json.dumps(note, indent=2, sort_keys=True).encode()


def _claim(folder: str, synthesis: SynthesisSettings) -> None:
    """Leaves only what these settings made. The note changes after the clearing: a crash between clears again."""
    if _note_agrees(folder, synthesis):
        return
    ours = exists(join(folder, NOTE))
    foreign = next((found.uri for found in list_objects(folder)), None)
    if foreign and not ours:
        raise InputError(f"'{folder}' holds '{foreign}', which synthesis did not write; give it an empty folder")
    delete(join(folder, MANIFEST))
    for name in ("audio", "covers"):
        delete_tree(join(folder, name))
    put(join(folder, NOTE), _note(synthesis))


# ---- songs -------------------------------------------------------------------------------------------------------


def _write_songs(numbers: list[int], synthesis: SynthesisSettings, folder: str, rows_per_block: int) -> Iterator[int]:
    """Renders and stores the numbered songs in parallel; yields how many, as blocks finish."""
    if not numbers:
        return
    blocks = -(-len(numbers) // rows_per_block)
    rows = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=blocks)
    written = rows.map_batches(_write_block, batch_size=None, fn_kwargs={"synthesis": synthesis, "folder": folder})
    for batch in written.iter_batches(batch_size=None, prefetch_batches=0):
        yield int(batch["written"].sum())


@lru_cache(maxsize=1)
def _tracks(synthesis: SynthesisSettings) -> list[SyntheticTrack]:
    """Composed once in each worker: it costs less than sending the tracks there."""
    return compose_catalogue(synthesis)


def _write_block(batch: dict[str, Any], synthesis: SynthesisSettings, folder: str) -> dict[str, Any]:
    tracks = _tracks(synthesis)
    for number in batch["number"]:
        track = tracks[int(number)]
        put(join(folder, cover_path(track)), encode_cover(draw_cover(track, synthesis.cover_size), cover_path(track)))
        put(join(folder, audio_path(track)), encode_song(render_song(track, synthesis.duration_s), audio_path(track)))
    return {"written": np.array([len(batch["number"])])}


def encode_song(waveform: NDArray[np.float32], path: str) -> bytes:
    """The bytes of an audio file in the format that the path names.

    Args:
        waveform: float32 [N], mono, at SAMPLE_RATE, full scale being 1.
        path: ends with a suffix of the formats that the demo has.
    """
    kind, subtype = _FORMATS[path.rsplit(".", 1)[1]]
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format=kind, subtype=subtype)
    return _numbered_zero(buffer.getvalue()) if kind == "OGG" else buffer.getvalue()


def _numbered_zero(ogg: bytes) -> bytes:
    """The same stream with serial number 0: the encoder draws one at random, and equal songs should be equal files.

    Source: RFC 3533, section 6. Its checksum is zlib's with the bits of every byte, and of the result, in reverse.
    """
    data, start = bytearray(ogg), 0
    while start < len(data):
        segments = data[start + 26]
        end = start + 27 + segments + sum(data[start + 27 : start + 27 + segments])
        data[start + 14 : start + 18] = data[start + 22 : start + 26] = bytes(4)
        checksum = zlib.crc32(data[start:end].translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        data[start + 22 : start + 26] = checksum.to_bytes(4, "big").translate(_MIRRORED)
        start = end
    return bytes(data)


def encode_cover(pixels: NDArray[np.uint8], path: str) -> bytes:
    """The bytes of an image file: PNG where the path ends with .png, else JPEG.

    Args:
        pixels: uint8 [S, S, 3], RGB.
    """
    buffer = io.BytesIO()
    if path.endswith(".png"):
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    else:
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


# ---- the manifest ------------------------------------------------------------------------------------------------


def _manifest(tracks: list[SyntheticTrack]) -> pa.Table:
    """The contract's columns, and after them the traits: `latent_*` of the audio, `seen_*` of the cover."""
    texts = {name: [getattr(track, name) for track in tracks] for name in ("title", "artist", "album", "genre")}
    latent = np.stack([track.trait_vector() for track in tracks])
    seen = np.stack([track.seen_vector() for track in tracks])
    return pa.table(
        {
            "song_id": [track.song_id for track in tracks],
            "audio_uri": [audio_path(track) for track in tracks],
            "cover_uri": [cover_path(track) for track in tracks],
            **texts,
            **{f"latent_{name}": latent[:, i] for i, name in enumerate(TRAIT_NAMES)},
            **{f"seen_{name}": seen[:, i] for i, name in enumerate(TRAIT_NAMES)},
        }
    )


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def _report(done: int, skipped: int, began: float, folder: str) -> Report:
    manifest = join(folder, MANIFEST)
    return Report(
        stage="synthesize",
        done=done,
        skipped=skipped,
        rejected=0,
        seconds=time.monotonic() - began,
        details={"manifest": manifest},
    )
