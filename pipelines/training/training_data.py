"""Training data: songs that have both a spectrogram and a cover, with both, as Ray Data streams them to workers.

What fits into the object store is kept there; of more than that, each epoch reads anew what it needs next, so the
catalogue may be larger than all memory. Either way the rows come in one and the same order.

Shape legend: B = songs of a batch, W = windows, M = mel bands, F = frames, S = pixels a side.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from gatefold.config import Settings
from gatefold.errors import TooFewSongs
from gatefold.names import normal_name
from gatefold.records import Split
from gatefold.storage import tables
from gatefold.storage.contents import optouts
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.storage.contents.cover_pixels import read_pixels
from gatefold.workspace import Workspace
from pipelines.training.training_run import workers_of

Block = dict[str, npt.NDArray[Any]]
VALIDATION_SONGS = 512
"""As many as a recall is measured on in passing, however large the catalogue."""
_SONGS_PER_READ = 32
"""Few, so that every worker of a small training gets several, and they mix."""
_READS = 1000
"""of a large training in an epoch, unless `batch.rows_per_block` asks for more"""


def paired_ids(settings: Settings, workspace: Workspace, split: Split) -> pa.Array:
    """song_id of every track of this split with a spectrogram and a cover, sorted; none that was withdrawn.

    Raises: TooFewSongs when there is none.
    """
    tracks = read_tracks(workspace, ["song_id", "split"])
    ids = tracks.filter(pc.equal(tracks["split"], split))["song_id"]
    del tracks
    for folder, stage in (
        (workspace.spectrograms(settings.audio), "spectrograms"),
        (workspace.covers(settings.stored_cover), "covers"),
    ):
        ids = ids.filter(pc.is_in(ids, value_set=tables.song_ids(folder, stage).combine_chunks()))
    ids = present_ids(workspace, ids).combine_chunks()
    if not len(ids):
        raise TooFewSongs(f"no {split} song has both a spectrogram and a cover; see `gatefold rejects list`")
    return ids.take(pc.sort_indices(ids))


def present_ids(workspace: Workspace, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Those of these songs that were not withdrawn."""
    withdrawn = pa.array(optouts.song_ids(workspace), pa.string())
    return ids.filter(pc.invert(pc.is_in(ids, value_set=withdrawn)))


def validation_ids(settings: Settings, workspace: Workspace) -> list[str]:
    """Some of the validation songs with both song and cover, always the same ones; none where that split is empty."""
    try:
        ids = paired_ids(settings, workspace, "validation")
    except TooFewSongs:
        return []
    return sample(ids, VALIDATION_SONGS)


def sample(ids: pa.Array, at_most: int) -> list[str]:
    """Some of them, spread over all and always the same."""
    chosen: list[str] = ids.take(np.arange(0, len(ids), -(-len(ids) // at_most))).to_pylist() if len(ids) else []
    return chosen


def genres_of(workspace: Workspace, ids: pa.Array) -> npt.NDArray[np.int64]:
    """int64 [len(ids)], a number for the genre of each song, the same all through the catalogue; -1 where it is not
    known.

    Args:
        ids: song_ids, each in the catalogue.
    """
    tracks = read_tracks(workspace, ["song_id", "genre"])
    spelt = tracks["genre"].dictionary_encode().combine_chunks()
    names = [normal_name(name) for name in spelt.dictionary.to_pylist()]
    number_of = {name: number for number, name in enumerate(sorted(set(names) - {""}))}
    numbers = np.array([*(number_of.get(name, -1) for name in names), -1], np.int64)  # the last for those without
    of_tracks = numbers[spelt.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    places = pc.index_in(ids, value_set=tracks["song_id"].combine_chunks())
    found: npt.NDArray[np.int64] = of_tracks[places.to_numpy(zero_copy_only=False)]
    return found


def stream_pairs(settings: Settings, workspace: Workspace, ids: pa.Array) -> ray.data.Dataset:
    """Rows of log_mel float16 [W, M, F], pixels uint8 [3, S, S] and genre int64 []; W is `audio.windows`.

    A song with fewer windows has them repeated, so that every row has one shape and any window may be drawn. Genres are
    those of `genres_of`, names being no tensors.
    """
    audio, cover = settings.audio, settings.cover
    row_bytes = 2 * audio.windows * audio.n_mels * audio.frames + 3 * cover.size**2
    songs = pa.table({"song_id": ids, "genre": genres_of(workspace, ids)})
    return training_dataset(settings, songs, partial(read_pairs, settings, workspace), row_bytes)


def training_dataset(
    settings: Settings, songs: pa.Table, read: Callable[[Block], Block], row_bytes: int
) -> ray.data.Dataset:
    """The rows that `read` makes of blocks of `songs`, in one order: as training takes them, epoch after epoch.

    Args:
        read: a block of `songs`, column to array, to a block of rows.
        row_bytes: that a row takes in memory; whether all of them are kept there hangs on it.
    """
    workers = workers_of(settings.train)
    rows = min(settings.batch.rows_per_block, max(_SONGS_PER_READ, songs.num_rows // _READS))
    source = ray.data.from_arrow(split_into_equal_blocks(songs, workers, rows))
    source.context.execution_options.preserve_order = True
    memory = ray.cluster_resources().get("object_store_memory", 0)
    if songs.num_rows * row_bytes <= settings.train.object_store_fraction * memory:
        return source.map_batches(read, batch_size=None, batch_format="numpy").materialize()
    readers = ray.data.TaskPoolStrategy(size=2 * workers)
    # they claim no core: on CPUs the workers of the training have claimed them all, and would wait for ever
    return source.map_batches(read, batch_size=None, batch_format="numpy", num_cpus=0, compute=readers)


def split_into_equal_blocks(songs: pa.Table, workers: int, at_most: int) -> list[pa.Table]:
    """The songs in blocks of one size, at most so large, and as many of them for each worker; a few songs come twice.

    Where blocks differ, Ray splits some so that the workers get equal shares. For that it starts a process in each
    epoch, which on a small machine takes as long as the learning.
    """
    blocks = workers * math.ceil(songs.num_rows / (workers * at_most))
    rows = math.ceil(songs.num_rows / blocks)
    all_due = songs.take(np.arange(blocks * rows) % songs.num_rows)
    starts = np.random.default_rng(0).permutation(blocks) * rows  # neighbours are often alike
    return [all_due.slice(start, rows) for start in starts.tolist()]


def read_pairs(settings: Settings, workspace: Workspace, batch: Block) -> Block:
    """Both sides of these songs, without their names.

    Args:
        batch: "song_id" str [B], "genre" int64 [B].

    Returns: "log_mel" float16 [B, W, M, F], "pixels" uint8 [B, 3, S, S], "genre" as it was given. A song with fewer
    than W windows has them repeated.
    """
    ids = [str(song_id) for song_id in batch["song_id"]]
    pixels = read_pixels(workspace.covers(settings.stored_cover), ids, settings.cover.size)
    windows = read_windows(settings, workspace, ids)
    wanted = np.arange(settings.audio.windows)
    return {
        "log_mel": np.stack([windows[song_id][wanted % len(windows[song_id])] for song_id in ids]),
        "pixels": np.stack([pixels[song_id] for song_id in ids]),
        "genre": batch["genre"],
    }


def without_genre(ids: list[str]) -> Block:
    """The batch of `read_pairs` where genres do not matter: "song_id" str [B], "genre" int64 [B], all -1."""
    return {"song_id": np.array(ids), "genre": np.full(len(ids), -1)}


def read_windows(settings: Settings, workspace: Workspace, ids: list[str]) -> dict[str, npt.NDArray[np.float16]]:
    """The windows [W, M, F] of those of these songs that have any, in their order."""
    rows = tables.read_rows(workspace.spectrograms(settings.audio), ids, ["song_id", "window", "log_mel"])
    rows = rows.sort_by([("song_id", "ascending"), ("window", "ascending")]).combine_chunks()
    if not rows.num_rows:
        return {}
    names, starts = np.unique(rows["song_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return dict(zip(names.tolist(), np.split(tables.tensors(rows["log_mel"]), starts[1:]), strict=True))
