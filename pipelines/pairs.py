"""Songs with their covers, as Ray Data streams them to training: only those that have both sides."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data

from gatefold.config import Settings
from gatefold.errors import StageMissing
from gatefold.records import Split
from gatefold.storage import optouts, tables
from gatefold.storage.catalogues import read_tracks
from gatefold.workspace import Workspace

Block = dict[str, npt.NDArray[Any]]
SONGS_PER_READ = 32
"""Few, so that every worker of a small training gets several, and they mix."""


def paired_ids(settings: Settings, workspace: Workspace, split: Split) -> list[str]:
    """song_id of every track of this split with a spectrogram and a cover, sorted; none that was withdrawn.

    Raises: StageMissing when there is none.
    """
    tracks = read_tracks(workspace, ["song_id", "split"])
    heard = _ids(workspace.spectrograms(settings.audio), "spectrograms")
    seen = _ids(workspace.covers(settings.cover), "covers")
    of_split = {row["song_id"] for row in tracks.to_pylist() if row["split"] == split}
    ids = sorted(of_split & heard & seen - optouts.song_ids(workspace))
    if not ids:
        raise StageMissing(f"no {split} song has both a spectrogram and a cover; see `gatefold rejects list`")
    return ids


def stream_pairs(settings: Settings, workspace: Workspace, ids: list[str]) -> ray.data.Dataset:
    """Rows of log_mel float16 [W, M, F] and pixels uint8 [3, S, S]; W is `audio.windows`.

    A song with fewer windows has them repeated, so that every row has one shape and any window may be drawn.
    """
    rows = min(settings.batch.rows_per_block, SONGS_PER_READ)
    blocks = [pa.table({"song_id": ids[start : start + rows]}) for start in range(0, len(ids), rows)]
    read = partial(read_pairs, settings, workspace)
    return ray.data.from_arrow(blocks).map_batches(read, batch_size=None, batch_format="numpy")


def read_pairs(settings: Settings, workspace: Workspace, batch: Block) -> Block:
    """Both sides of the songs named in `batch["song_id"]`; without the names, which no tensor can hold."""
    ids = [str(song_id) for song_id in batch["song_id"]]
    covers = tables.read_rows(workspace.covers(settings.cover), ids, ["song_id", "pixels"])
    pixels = dict(zip(covers["song_id"].to_pylist(), tables.tensors(covers["pixels"]), strict=True))
    windows = read_windows(settings, workspace, ids)
    wanted = np.arange(settings.audio.windows)
    return {
        "log_mel": np.stack([windows[song_id][wanted % len(windows[song_id])] for song_id in ids]),
        "pixels": np.stack([pixels[song_id] for song_id in ids]),
    }


def read_windows(settings: Settings, workspace: Workspace, ids: list[str]) -> dict[str, npt.NDArray[np.float16]]:
    """The windows [W, M, F] of those of these songs that have any, in their order."""
    rows = tables.read_rows(workspace.spectrograms(settings.audio), ids, ["song_id", "window", "log_mel"])
    rows = rows.sort_by([("song_id", "ascending"), ("window", "ascending")]).combine_chunks()
    if not rows.num_rows:
        return {}
    names, starts = np.unique(rows["song_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return dict(zip(names.tolist(), np.split(tables.tensors(rows["log_mel"]), starts[1:]), strict=True))


def _ids(folder: str, stage: str) -> set[str]:
    return set(tables.read_table(folder, ["song_id"], stage=stage)["song_id"].to_pylist())
