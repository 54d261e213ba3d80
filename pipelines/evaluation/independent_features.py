"""Independent features of covers of the catalogue, by tasks of Ray Data that read the pixels themselves."""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gatefold.config import Settings
from gatefold.images.likeness import WIDTH, IndependentFeatures
from gatefold.progress import OnProgress, silent
from gatefold.storage import tables
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.workspace import Workspace
from pipelines.devices import gpus, granted_device
from pipelines.row_mapper import map_rows
from pipelines.training.training_data import present_ids, sample

CATALOGUE = 5_000
"""covers of the catalogue among which the most similar one is looked for"""
_COVERS_PER_TASK = 64

Vectors = npt.NDArray[np.float32]


def catalogue_sample(settings: Settings, workspace: Workspace) -> list[str]:
    """Songs with a cover, at most CATALOGUE where there are more, spread over all and always the same."""
    ids = tables.song_ids(workspace.covers(settings.stored_cover), stage="covers").unique()
    present = present_ids(workspace, pa.chunked_array([ids])).combine_chunks()
    return sample(present.take(pc.sort_indices(present)), CATALOGUE)


def features_of(
    settings: Settings, workspace: Workspace, song_ids: Sequence[str], on_progress: OnProgress = silent
) -> dict[str, Vectors]:
    """float32 [1280] of the cover of each of these songs, as `IndependentFeatures` has them.

    Raises: StageMissing naming a song without a cover; InputError when the extra `eval` is not installed.
    """
    table = pa.table({"song_id": pa.array(sorted(set(song_ids)), pa.string())})
    task = partial(_features, settings, workspace)
    rows = map_rows(table, task, _COVERS_PER_TASK, on_progress, num_gpus=min(1, gpus()))
    return dict(zip(rows["song_id"].to_pylist(), rows["features"].to_numpy(), strict=True))


def _features(settings: Settings, workspace: Workspace, songs: pa.Table) -> pa.Table:
    ids = songs["song_id"].to_pylist()
    features = _network(granted_device()).features(read_covers(settings, workspace, ids))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), WIDTH)
    return pa.table({"song_id": pa.array(ids, pa.string()), "features": vectors})


@lru_cache(maxsize=1)
def _network(device: str) -> IndependentFeatures:
    """Loaded once in each process that computes, part after part."""
    torch.set_num_threads(1)
    return IndependentFeatures(device)
