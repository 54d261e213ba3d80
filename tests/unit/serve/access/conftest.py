"""What the tests of keys share: an empty database of each kind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import pytest

from serve.jobs.database import Database

T = TypeVar("T")
Opened = Callable[[], AbstractAsyncContextManager[Database]]


@pytest.fixture
def opened(database_url: str) -> Opened:
    """Opens the test's database, as another process would when called again."""

    @asynccontextmanager
    async def open_database() -> AsyncIterator[Database]:
        database = Database(database_url)
        await database.upgrade()
        try:
            yield database
        finally:
            await database.close()

    return open_database


def run(main: Coroutine[Any, Any, T]) -> T:
    """In an event loop of its own, for a minute at most."""
    return asyncio.run(asyncio.wait_for(main, 60))
