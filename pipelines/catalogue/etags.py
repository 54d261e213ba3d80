"""Present etags of many objects, with as few requests as possible.

Objects that lie together are listed together, the others are asked for one by one. Whether an etag is the one of before
is for the catalogue to say.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import InputError, NotFound, StorageDenied
from gatefold.progress import NOTHING, OnProgress
from gatefold.storage import objects
from pipelines.row_mapper import map_rows

_WORTH_LISTING = 8  # wanted objects of one folder
_LISTED_PER_WANTED = 256  # a page of a listing has a thousand objects, and costs about as much as asking for a few
_FOLDERS_PER_TASK = 256
_OBJECTS_PER_TASK = 1024
_THREADS = 16
_FOUND = pa.schema([("uri", pa.large_string()), *((name, pa.string()) for name in ("etag", "code", "message"))])


def find_etags(uris: pa.Array, on_progress: OnProgress) -> pa.Table:
    """One row an object, in any order: uri and etag, or uri and the code and message of the error.

    Args:
        uris: large strings, canonical, each once, none null.

    Raises: StorageDenied; StorageUnavailable.
    """

    def counted_from(before: int) -> OnProgress:
        def report_progress(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
            on_progress(before + done, len(uris), facts)

        return report_progress

    listed = map_rows(_crowded(uris), _listed, _FOLDERS_PER_TASK, counted_from(0))
    others = uris.filter(pc.invert(pc.is_in(uris, value_set=listed["uri"])))
    asked = map_rows(pa.table({"uri": others}), _asked, _OBJECTS_PER_TASK, counted_from(listed.num_rows))
    return pa.concat_tables([listed, asked])


def _crowded(uris: pa.Array) -> pa.Table:
    """The folders with enough wanted objects to be listed: folder, and its wanted `uris`."""
    folders = pc.replace_substring_regex(uris, pattern="/[^/]*$", replacement="")
    by_folder = pa.table({"folder": folders, "uri": uris}).group_by("folder")
    gathered = by_folder.aggregate([("uri", "list"), ("uri", "count")])
    crowded = gathered.filter(pc.greater_equal(gathered["uri_count"], _WORTH_LISTING))
    return crowded.select(["folder", "uri_list"]).rename_columns(["folder", "uris"])


def _listed(folders: pa.Table) -> pa.Table:
    """What listings say of the wanted objects; of one that is not found so, nothing: it is asked for by itself."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(_list_folder, folders["folder"].to_pylist(), folders["uris"]))
    return pa.concat_tables([_FOUND.empty_table(), *found])


def _list_folder(folder: str, uris: pa.ListScalar) -> pa.Table:
    wanted = set(uris.as_py())
    found: list[dict[str, str | None]] = []
    with suppress(InputError, NotFound, StorageDenied):  # an account that may not list may still read
        # as far as it is cheaper than asking for each
        for info in islice(objects.list_folder(folder), _LISTED_PER_WANTED * len(wanted)):
            if info.uri in wanted:
                found.append({"uri": info.uri, "etag": info.etag})
            if len(found) == len(wanted):
                break
    return pa.Table.from_pylist(found, schema=_FOUND)


def _asked(wanted: pa.Table) -> pa.Table:
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(_ask, wanted["uri"].to_pylist()))
    return pa.Table.from_pylist(found, schema=_FOUND)


def _ask(uri: str) -> dict[str, str | None]:
    try:
        return {"uri": uri, "etag": objects.stat(uri).etag}
    except (InputError, NotFound) as error:
        return {"uri": uri, "code": error.code, "message": error.message}
