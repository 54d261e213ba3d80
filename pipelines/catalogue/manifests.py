"""A catalogue manifest (Parquet, CSV or JSON lines), read and checked as a whole.

What is wrong with the manifest itself is refused here, naming row (the first is 1) and value. What is wrong with one of
the songs it names is not looked for here.
"""

import codecs
import gzip
import re
import zlib
from collections import Counter
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from gatefold.errors import InvalidManifest
from gatefold.records import MAY_BE_SOURCE, SPLITS, TRACKS
from gatefold.storage import objects
from pipelines.catalogue.folders import AUDIO

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
"""Of manifests, in any case, text also with `.gz` behind it; a folder of parts may have one too."""
_COMPRESSED = ".gz"
_LOOKED_AT = 1_000  # files of a folder, to see whether it is one of Parquet
_REQUIRED = ("song_id", "audio_uri")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer, pa.types.is_null)


_UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, OSError, EOFError, zlib.error,
               UnicodeError, RecursionError)  # fmt: skip
"""all that its readers raise on what is no manifest"""


def read_manifest(uri: str) -> pa.Table:
    """The manifest's rows in their order: all columns of `records.TRACKS` as strings, then its own.

    Null where there is no value, so too for a `split` that the operator did not give; uris are as written.
    Raises: InvalidManifest naming row and value; ObjectNotFound.
    """
    return checked(_read(uri), uri)


def checked(table: pa.Table, uri: str) -> pa.Table:
    """A parsed manifest with every rule held. Raises: InvalidManifest."""
    _refuse_repeated(table.column_names, uri)
    missing = [column for column in _REQUIRED if column not in table.column_names]
    if missing:
        raise InvalidManifest(f"manifest '{uri}' lacks the columns {missing}; it has {table.column_names}")
    if table.num_rows == 0:
        raise InvalidManifest(f"manifest '{uri}' has no rows")
    columns = {name: _text(table, name, uri) for name in TRACKS.names}
    for name in _REQUIRED:
        _refuse(pc.is_null(columns[name]), columns[name], uri, f"{name} is empty; every row needs one")
    split = columns["split"]
    known = pc.is_in(split, value_set=pa.array([*SPLITS, None], pa.string()))
    _refuse(pc.invert(known), split, uri, f"is no split; allowed: {', '.join(SPLITS)}, or empty")
    _refuse_duplicates(columns["song_id"], uri)
    carried = {name: _known_type(table[name]) for name in table.column_names if name not in columns}
    if MAY_BE_SOURCE in carried:
        carried[MAY_BE_SOURCE] = _truth(table, MAY_BE_SOURCE, uri)
    return pa.table({**columns, **carried})


def is_manifest(uri: str) -> bool:
    """Whether a source is a manifest, by its suffix in any case, or a folder of Parquet with no song in it."""
    if _kind(uri) is not None:
        return True
    some = [objects.name(info.uri).lower() for info in islice(objects.list_folder(uri), _LOOKED_AT)]
    return any(name.endswith(".parquet") for name in some) and not any(name.endswith(AUDIO) for name in some)


def _kind(uri: str) -> str | None:
    """The suffix of `SUFFIXES` that a name has, compressed or not; None where it has none."""
    name = uri.lower().rstrip("/").removesuffix(_COMPRESSED)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _read(uri: str) -> pa.Table:
    """The columns of a manifest as they are written, of all parts where it is a folder (`name.parquet/part-0000…`)."""
    if objects.exists(uri):
        return _parse(uri)
    names = ((objects.name(info.uri), info.uri) for info in objects.list_objects(uri))
    parts = [part for name, part in names if not name.startswith(("_", ".")) and _kind(name) is not None]
    if not parts:
        return _parse(uri)  # which says that it is not there
    tables = []
    for part in parts:
        tables.append(_parse(part))
        _refuse_repeated(tables[-1].column_names, part)
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidManifest(f"manifest '{uri}': its parts have unlike columns: {error}; write them alike") from error


def _parse(uri: str) -> pa.Table:
    try:
        table = _parsed(uri)
        table.validate(full=True)  # text that is no UTF-8, which Parquet may hold
        _ = table.column_names  # and in names, which are decoded when they are read
    except _UNREADABLE as error:
        raise InvalidManifest(f"manifest '{uri}' cannot be read: {error}; fix it there") from error
    return table


def _parsed(uri: str) -> pa.Table:
    data = pa.py_buffer(_text_of(objects.read(uri), uri))
    if _kind(uri) in (".parquet", None):
        return pq.read_table(pa.BufferReader(data))
    if _kind(uri) == ".csv":
        # an id such as 007 and a title such as NA are text, whatever they look like
        types = dict.fromkeys(TRACKS.names, pa.string())
        return pyarrow.csv.read_csv(
            pa.BufferReader(data),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )
    return _parse_json(data)


def _text_of(data: bytes, uri: str) -> bytes:
    """What was compressed or written in UTF-16, plain and in UTF-8."""
    if uri.lower().endswith(_COMPRESSED):
        data = gzip.decompress(data)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16").encode()
    return data.removeprefix(codecs.BOM_UTF8)


def _parse_json(data: pa.Buffer) -> pa.Table:
    if (first := re.match(rb"\s*([^{\s])", data)) is not None:  # Arrow ends the process where the first line is null
        raise pa.ArrowInvalid(f"it begins with {first[1]!r}; each line must be an object in braces")
    block = min(max(data.size + 1, 1 << 20), 2**31 - 1)  # one block: errors then count rows from the first
    options = pyarrow.json.ReadOptions(block_size=block)
    table = pyarrow.json.read_json(pa.BufferReader(data), options)
    fields = [field.with_type(_as_text(field.type)) for field in table.schema]
    dates = [field for field, found in zip(fields, table.schema, strict=True) if field.type != found.type]
    if not dates:
        return table
    # JSON has no dates: what looks like one was written as text
    schema = pyarrow.json.ParseOptions(explicit_schema=pa.schema(dates))
    return pyarrow.json.read_json(pa.BufferReader(data), options, schema).select(table.column_names)


def _as_text(kind: pa.DataType) -> pa.DataType:
    """A type with text in the place of points in time, at any depth."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_as_text(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_text(field.type)) for field in kind])
    return kind


def _refuse_repeated(names: list[str], uri: str) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise InvalidManifest(
            f"manifest '{uri}' has more than one column named {', '.join(map(repr, repeated))}; rename all but one"
        )


def _text(table: pa.Table, name: str, uri: str) -> pa.ChunkedArray:
    """A column as strings, blank ones null; all null where the manifest has no such column."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not any(is_kind(column.type) for is_kind in _TEXTS):
        raise InvalidManifest(f"manifest '{uri}': column '{name}' is {column.type}; allowed: text or whole numbers")
    text = column.cast(pa.string())
    trimmed = pc.utf8_trim_whitespace(text)
    kept = text if name in ("song_id", "audio_uri", "cover_uri") else trimmed  # a file's name may end in a blank
    cleaned = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), kept)
    return text if cleaned.equals(text) else cleaned  # of millions of songs there need not be two


def _truth(table: pa.Table, name: str, uri: str) -> pa.ChunkedArray:
    """A column of truth values, however they are written; an empty one is false."""
    column = table[name]
    if not pa.types.is_boolean(column.type):
        column = pc.utf8_lower(_text(table, name, uri))
        known = pc.is_in(column, value_set=pa.array([*_TRUE, *_FALSE, None], pa.string()))
        allowed = f"is neither true nor false in column '{name}'; allowed: {', '.join((*_TRUE, *_FALSE))}, or empty"
        _refuse(pc.invert(known), column, uri, allowed)
        column = pc.is_in(column, value_set=pa.array(_TRUE))
    return pc.fill_null(column, False)


def _known_type(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _refuse(faulty: pa.ChunkedArray, values: pa.ChunkedArray, uri: str, why: str) -> None:
    count = pc.sum(faulty).as_py()
    if count:
        row = pc.index(faulty, True).as_py()
        value = values[row].as_py()
        said = "" if value is None else f"'{value}' "
        more = f" ({count:,} such rows)" if count > 1 else ""
        raise InvalidManifest(f"manifest '{uri}', row {row + 1}: {said}{why}{more}")


def _refuse_duplicates(ids: pa.ChunkedArray, uri: str) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pa.table({"song_id": ids}).group_by("song_id", use_threads=False).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    song_id = twice["song_id"][0].as_py()
    rows = [row + 1 for row in pc.indices_nonzero(pc.equal(ids, song_id)).to_pylist()]
    raise InvalidManifest(
        f"manifest '{uri}', row {rows[1]}: song_id '{song_id}' stands in row {rows[0]} already; ids must be unique "
        f"({twice.num_rows:,} are not)"
    )
