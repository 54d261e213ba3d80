"""Tables as folders of Parquet parts. A part is put whole, so a folder can be read while it grows.

Of a folder that is finished, `_parts.json` names the parts with the first and last song_id of each, so that a reader of
few songs opens the parts that it needs, without a listing and without the footers of the others. What the columns mean
is not known here; the schemas are in `records`.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq

from gatefold.errors import Corrupt, ObjectNotFound, SchemaMismatch, StageMissing
from gatefold.ranged import SourceFile
from gatefold.storage import objects

_SUFFIX = ".parquet"
_RECORD = "_parts.json"  # a name that readers of Parquet folders pass over
_GROUP_BYTES = 4 << 20  # Parquet's reader and writer hold several times the rows of a group
_PIXEL_GROUP_BYTES = 128 << 10  # the covers of a song are read one by one, and a group is the least that can be read
_ITEMS = ".list.element"  # where Parquet has the values of a list
_READERS = 8

Span = tuple[str, str | None]
"""song_ids from the first on, to before the second where there is one"""
EVERYTHING: Span = ("", None)
Range = tuple[str, str]
"""First and last song_id of a part."""


def write_part(folder: str, name: str, table: pa.Table) -> str:
    """Writes one part, `<name>.parquet`, in one atomic put; its uri. A part of the same name is replaced."""
    uri = objects.join(folder, name + _SUFFIX)
    objects.put(uri, encode_part(table))
    return uri


def encode_part(table: pa.Table) -> bytes:
    """A part as it is written.

    Lists of floats have their bytes sorted by place before they are compressed, where a dictionary of values that
    hardly repeat would only cost: spectrograms of music take half the room, and a third of the time to read.
    """
    floats = [field.name for field in table.schema if _holds(field.type, pa.types.is_floating)]
    pixels = any(_holds(field.type, pa.types.is_uint8) for field in table.schema)
    group_bytes = _PIXEL_GROUP_BYTES if pixels else _GROUP_BYTES
    others = [name for name in table.column_names if name not in floats]
    sink = BytesIO()  # its bytes are passed on uncopied
    pq.write_table(
        table,
        sink,
        compression="zstd",
        row_group_size=max(1, table.num_rows * group_bytes // max(1, table.nbytes)),
        use_dictionary=[path for name in others for path in (name, name + _ITEMS)],
        column_encoding={name + _ITEMS: "BYTE_STREAM_SPLIT" for name in floats},
    )
    return sink.getvalue()


def _holds(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether it is a tensor of such values."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return bool(pa.types.is_fixed_size_list(storage) and wanted(storage.value_type))


def parts(folder: str) -> list[str]:
    """The uris of all parts, in the order of their names."""
    return [info.uri for info in objects.list_objects(folder) if info.uri.endswith(_SUFFIX)]


def read_table(
    folder: str, columns: list[str] | None = None, stage: str | None = None, within: Span = EVERYTHING
) -> pa.Table:
    """All parts in the order of their names, as one table of one schema; a column that a part lacks is null there.

    Args:
        columns: what to read, in this order; of the other columns no byte is fetched.
        stage: the verb that makes this folder, to be named when it is empty.
        within: rows of other songs are dropped part by part; parts that the record says have none are not read.

    Raises: StageMissing when there is no part; SchemaMismatch when parts disagree or no part has a column.
    """
    uris = parts(folder)
    if not uris:
        raise _missing(folder, stage)
    holding = _overlapping(uris, within, recorded(folder) or {}) or uris[:1]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda uri: _cut(read_part(uri, columns), within), holding))
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if columns is None else table.select(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatch(f"the parts of '{folder}' do not fit each other: {error}; make the folder anew") from error
    except KeyError as error:
        raise SchemaMismatch(f"no part of '{folder}' has {error.args[0]}; it has {tables[0].column_names}") from error


def _cut(table: pa.Table, within: Span) -> pa.Table:
    first, before = within
    song_id = pyarrow.dataset.field("song_id")
    if first:
        table = table.filter(song_id >= first)
    return table if before is None else table.filter(song_id < before)


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One part. Raises: ObjectNotFound; Corrupt when it is no whole Parquet file."""
    with _whole_parquet(uri):
        file = pa.BufferReader(objects.read(uri)) if columns is None else _opened(uri)
        return pq.ParquetFile(file, pre_buffer=True).read(columns=columns)


def read_schema(folder: str, stage: str | None = None) -> pa.Schema:
    """Of the first part. Raises: as `read_table` does."""
    uris = parts(folder)
    if not uris:
        raise _missing(folder, stage)
    with _whole_parquet(uris[0]):
        return pq.ParquetFile(_opened(uris[0])).schema_arrow


def song_ids(folder: str, stage: str | None = None) -> pa.ChunkedArray:
    """Those that have rows, each once for each part that has any of them.

    Raises: as `read_table` does.
    """
    uris = parts(folder)
    if not uris:
        raise _missing(folder, stage)

    def distinct(uri: str) -> pa.Array:
        return pc.unique(read_part(uri, ["song_id"])["song_id"])

    with ThreadPoolExecutor(_READERS) as pool:
        return pa.chunked_array(list(pool.map(distinct, uris)), pa.string())


def read_rows(folder: str, song_ids: Sequence[str], columns: list[str], stage: str | None = None) -> pa.Table:
    """The rows of these songs, in no particular order. Parts that cannot hold any of them are skipped unread.

    What the record leads to is read first; only for songs that are not there is the folder listed.

    Raises: StageMissing when there is no part; Corrupt when one is no whole Parquet file.
    """
    wanted = sorted(set(song_ids))
    known = recorded(folder)
    if not wanted or not known:
        return _rows_of_listing(folder, wanted, columns, stage)
    reading = columns if "song_id" in columns else [*columns, "song_id"]
    uris = {objects.join(folder, name + _SUFFIX): ids for name, ids in known.items()}
    try:
        found = _rows(_holding(wanted, uris) or list(uris)[:1], wanted, reading)
    except ObjectNotFound:  # a part was replaced since the record was read
        return _rows_of_listing(folder, wanted, columns, stage)
    missing = sorted(set(wanted).difference(pc.unique(found["song_id"]).to_pylist()))
    if missing:  # the folder is being written again
        more = _rows_of_listing(folder, missing, reading, stage)
        found = pa.concat_tables([found, more], promote_options="permissive")
    return found.select(columns)


def _rows_of_listing(folder: str, wanted: list[str], columns: list[str], stage: str | None) -> pa.Table:
    uris = parts(folder)
    if not uris:
        raise _missing(folder, stage)
    with ThreadPoolExecutor(_READERS) as pool:
        ranges = dict(zip(uris, pool.map(_id_range, uris), strict=True))
    return _rows(_holding(wanted, ranges) or uris[:1], wanted, columns)


def _rows(uris: list[str], wanted: list[str], columns: list[str]) -> pa.Table:
    song_id = pyarrow.dataset.field("song_id")
    low, high = (wanted[0], wanted[-1]) if wanted else ("", "")
    among = song_id.isin(pa.array(wanted, pa.string())) & (song_id >= low) & (song_id <= high)

    def rows(uri: str) -> pa.Table:
        with _whole_parquet(uri):
            part = pyarrow.dataset.ParquetFileFormat().make_fragment(_opened(uri))
            return part.to_table(columns=columns, filter=among)

    with ThreadPoolExecutor(_READERS) as pool:
        return pa.concat_tables(pool.map(rows, uris), promote_options="permissive")


def _holding(wanted: list[str], ranges: Mapping[str, Range]) -> list[str]:
    """Those that may hold any of these songs, which are sorted."""
    holding = []
    for uri, (first, last) in ranges.items():
        at = bisect_left(wanted, first)
        if at < len(wanted) and wanted[at] <= last:
            holding.append(uri)
    return holding


def _overlapping(uris: list[str], within: Span, known: Mapping[str, Range]) -> list[str]:
    first, before = within
    ranges = [known.get(objects.name(uri).removesuffix(_SUFFIX), (first, first)) for uri in uris]
    return [
        uri
        for uri, (low, high) in zip(uris, ranges, strict=True)
        if high >= first and (before is None or low < before)
    ]


def record(folder: str, ranges: Mapping[str, Range]) -> None:
    """Notes all parts of a folder that is finished, each by its name. A writer that goes on there calls
    `invalidate`."""
    objects.put(objects.join(folder, _RECORD), json.dumps(ranges, ensure_ascii=False).encode())


def invalidate(folder: str) -> None:
    """Takes the note away: parts are about to change, and readers look at what is there."""
    objects.delete(objects.join(folder, _RECORD))


def recorded(folder: str) -> Mapping[str, Range] | None:
    """What `record` noted; None where a folder is not finished. Raises: Corrupt."""
    uri = objects.join(folder, _RECORD)
    try:
        return _read_record(uri, objects.stat(uri).etag)
    except ObjectNotFound:
        return None


@lru_cache(maxsize=8)
def _read_record(uri: str, etag: str | None) -> Mapping[str, Range]:  # noqa: ARG001 - another etag is another record
    try:
        return {str(name): (str(first), str(last)) for name, (first, last) in json.loads(objects.read(uri)).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise Corrupt(f"'{uri}' cannot be read ({error!r}); delete it: readers do without") from error


def _missing(folder: str, stage: str | None) -> StageMissing:
    remedy = f"; run `gatefold {stage}` first" if stage else ""
    return StageMissing(f"'{folder}' holds no Parquet part{remedy}")


@lru_cache(maxsize=1 << 18)
def _id_range(uri: str) -> Range:
    """First and last song_id of a part. Remembered: what is made under a name never has more songs than were in it."""
    with _whole_parquet(uri):
        footer = pq.ParquetFile(_opened(uri)).metadata
    column = footer.schema.to_arrow_schema().get_field_index("song_id")
    groups = [footer.row_group(number).column(column).statistics for number in range(footer.num_row_groups)]
    if not groups or not all(group is not None and group.has_min_max for group in groups):
        return "", "\U0010ffff"
    return min(group.min for group in groups), max(group.max for group in groups)


def _opened(uri: str) -> pa.PythonFile:
    """A part through `objects`, since Arrow's reader of S3 handles fewer faults of a store."""
    return pa.PythonFile(SourceFile(objects.open_source(uri)), mode="r")


@contextmanager
def _whole_parquet(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        remedy = "delete it, and the `_finished.json` beside it if there is one, and run its stage again"
        raise Corrupt(f"part '{uri}' is not a whole Parquet file: {error}; {remedy}") from error


def tensor_column(arrays: Sequence[npt.NDArray[Any]], tensor: pa.FixedShapeTensorType) -> pa.ChunkedArray:
    """A column of the given fixed-shape tensor type, which shares the memory of the arrays.

    Args:
        arrays: each [*shape], one row, or [rows, *shape].
    """
    return pa.chunked_array([_tensor_chunk(array, tensor) for array in arrays], tensor)


def _tensor_chunk(array: npt.NDArray[Any], tensor: pa.FixedShapeTensorType) -> pa.ExtensionArray:
    values = pa.array(array.ravel().astype(tensor.value_type.to_pandas_dtype(), copy=False), tensor.value_type)
    return pa.ExtensionArray.from_storage(tensor, pa.FixedSizeListArray.from_arrays(values, int(np.prod(tensor.shape))))


def tensors(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A fixed-shape tensor column -> one array [rows, *shape]."""
    tensor = column.type
    values = [chunk.storage.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(values) if values else np.zeros(0, tensor.value_type.to_pandas_dtype())
    return flat.reshape(-1, *tensor.shape)
