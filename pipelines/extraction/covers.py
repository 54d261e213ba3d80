"""Decoding of covers to square pixels, over the whole catalogue."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gatefold.config import CoverSettings, Settings
from gatefold.errors import InputError, NotFound, Unavailable
from gatefold.images.pixels import decode_cover
from gatefold.progress import OnProgress, silent
from gatefold.records import cover_schema
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.storage.tables import tensor_column
from gatefold.workspace import Workspace
from pipelines.extraction.blocks import BlockMapper, BlockResult, map_tracks
from pipelines.extraction.rejects import Reject, reject_of
from pipelines.extraction.stages import COVERS, cover_stage, cover_tracks
from pipelines.report import Report


def extract_covers(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Rows of `cover_schema` for every song with a cover that can be decoded, a reject for every cover that cannot."""
    stage, read_tracks = cover_stage(settings, workspace), partial(cover_tracks, workspace)
    make_mapper = partial(_make_mapper, settings.stored_cover)
    return map_tracks(stage, read_tracks, make_mapper, settings.batch, on_progress=on_progress)


def _make_mapper(cover: CoverSettings) -> BlockMapper:
    return partial(_decode_block, cover)


def _decode_block(cover: CoverSettings, tracks: pa.Table) -> BlockResult:
    ids: list[str] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    rejects: list[Reject] = []
    postponed: dict[str, str] = {}
    bytes_read = 0
    for song_id, uri in zip(tracks["song_id"].to_pylist(), tracks["cover_uri"].to_pylist(), strict=True):
        size_bytes = None
        try:
            data = read_cover(uri, cover.max_bytes)
            size_bytes = len(data)
            bytes_read += size_bytes
            picture = decode_cover(data, cover)
        except (InputError, NotFound) as error:
            rejects.append(reject_of(error, song_id=song_id, uri=uri, stage=COVERS, size_bytes=size_bytes))
            continue
        except Unavailable as error:
            postponed[song_id] = error.message
            continue
        ids.append(song_id)
        pixels.append(picture)
    schema = cover_schema(cover)
    columns = [pa.array(ids, pa.string()), tensor_column(pixels, schema.field("pixels").type)]
    return BlockResult(pa.Table.from_arrays(columns, names=schema.names[:-1]), rejects, postponed, bytes_read)
