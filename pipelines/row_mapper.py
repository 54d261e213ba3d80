"""Parallel mapping of a table's rows, for work that waits on storage.

What is no more than one task's work is done here, in this process, which is sooner than any worker would begin.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import ray.data
import ray.exceptions

from gatefold.errors import GatefoldError
from gatefold.progress import OnProgress


def map_rows(
    table: pa.Table,
    mapper: Callable[[pa.Table], pa.Table],
    rows_per_task: int,
    on_progress: OnProgress,
    *,
    num_gpus: float = 0,
) -> pa.Table:
    """What the mapper makes of the rows, in any order; it is called with at most `rows_per_task` of them.

    Args:
        mapper: a function of a module; it may give more or fewer rows than it gets.
        on_progress: called with the rows made, and the rows of the table.
        num_gpus: that Ray grants each task; with any, all is done in tasks.

    Raises: the mapper's own GatefoldError, as it was raised.
    """
    if table.num_rows <= rows_per_task and not num_gpus:
        rows = mapper(table)
        if rows.num_rows:
            on_progress(rows.num_rows, table.num_rows)
        return rows
    blocks = [table.slice(start, rows_per_task) for start in range(0, table.num_rows, rows_per_task)]
    made: list[pa.Table] = []
    with reraise_domain_errors():
        mapped = ray.data.from_arrow(blocks).map_batches(
            mapper, batch_size=None, batch_format="pyarrow", num_cpus=1, num_gpus=num_gpus
        )
        for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            made.append(batch)
            on_progress(sum(part.num_rows for part in made), table.num_rows)
    return pa.concat_tables(made)


@contextmanager
def reraise_domain_errors() -> Iterator[None]:
    """Around a Ray Data job: an error of ours in one of its tasks arrives as itself, not wrapped in Ray's."""
    context = ray.data.DataContext.get_current()
    before = context.raise_original_map_exception
    context.raise_original_map_exception = True
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GatefoldError):
            raise error.cause from error
        raise
    finally:
        context.raise_original_map_exception = before
