"""Tables as folders of Parquet parts. A part is put whole, so a folder can be read while it grows.

It knows nothing of what the columns mean; the schemas stand in `records`.
"""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from gatefold.errors import Corrupt, SchemaMismatch, StageMissing
from gatefold.storage import objects

_SUFFIX = ".parquet"
_READERS = 8


def write_part(folder: str, name: str, table: pa.Table) -> str:
    """Writes one part, `<name>.parquet`, in one atomic put; its uri. A part of the same name is replaced."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    uri = objects.join(folder, name + _SUFFIX)
    objects.put(uri, sink.getvalue().to_pybytes())
    return uri


def parts(folder: str) -> list[str]:
    """The uris of all parts, in the order of their names."""
    return [info.uri for info in objects.list_objects(folder) if info.uri.endswith(_SUFFIX)]


def has_parts(folder: str) -> bool:
    """Whether there is any part, be it one without rows."""
    return any(info.uri.endswith(_SUFFIX) for info in objects.list_objects(folder))


def read_table(folder: str, columns: list[str] | None = None, stage: str | None = None) -> pa.Table:
    """All parts in the order of their names, as one table of one schema; a column that a part lacks is null there.

    Args:
        columns: what to read, in this order; of the other columns no byte is fetched.
        stage: the verb that makes this folder, to be named when it is empty.

    Raises: StageMissing when there is no part; SchemaMismatch when parts disagree or no part has a column.
    """
    uris = parts(folder)
    if not uris:
        remedy = f"; run `gatefold {stage}` first" if stage else ""
        raise StageMissing(f"'{folder}' holds no Parquet part{remedy}")
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda uri: read_part(uri, columns), uris))
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
        return table if columns is None else table.select(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatch(f"the parts of '{folder}' do not fit each other: {error}; make the folder anew") from error
    except KeyError as error:
        raise SchemaMismatch(f"no part of '{folder}' has {error.args[0]}; it has {tables[0].column_names}") from error


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One part. Raises: ObjectNotFound; Corrupt when it is no whole Parquet file."""
    filesystem, path = objects.filesystem(uri)
    with objects.translated(uri):
        try:
            with filesystem.open_input_file(path) as file:
                return pq.ParquetFile(file, pre_buffer=True).read(columns=columns)
        except pa.ArrowInvalid as error:
            raise Corrupt(f"part '{uri}' is not a whole Parquet file: {error}; delete it and make it anew") from error
