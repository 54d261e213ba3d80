"""The database of jobs: SQLite in a local workspace, PostgreSQL for more than one machine.

Opening it brings its schema up to date, one process at a time, and refuses one that a newer gatefold has made. Its URL
may hold a password, so neither it nor what the driver says of it is repeated in an error or a log. Knows no table.
"""

import asyncio
import contextvars
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError, TimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from gatefold.errors import DatabaseUnavailable, InvalidSettings, SchemaMismatch
from gatefold.storage import objects
from serve.claiming import set_within
from serve.observability.metrics import DATABASE_FAILURES

logger = logging.getLogger(__name__)

VARIABLE = "GATEFOLD_DATABASE_URL"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 7_106_519_034  # of PostgreSQL's advisory locks: any number, the same for all of gatefold
_OUTAGES = (DBAPIError, OSError, TimeoutError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_FAULTS = (IntegrityError, ProgrammingError, DataError)  # faults of the code: trying again does not help
_CONNECT_WITHIN_S = 10
_CLOSE_POLL_S = 0.01
_RECONNECT_AFTER_S = 1.0
_CHECK_EVERY_S = 30.0
_OF_SQLALCHEMY = ("async_fallback", "prepared_statement_cache_size", "prepared_statement_name_func")
"""options in a URL that are not of the driver"""
P = ParamSpec("P")
T = TypeVar("T")
_under_way: "set[asyncio.Future[Any]]" = set()  # asyncio itself holds on to no task


def uninterrupted(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method, run to its end even if its caller is cancelled, as Serve does to a request whose client has gone: a
    driver that is cancelled within a statement may never give its connection back, nor its lock."""

    @wraps(method)
    async def run(*arguments: P.args, **named: P.kwargs) -> T:
        # empty context: Ray Serve cancels every task with the context of a request whose client has gone
        task = contextvars.Context().run(asyncio.ensure_future, method(*arguments, **named))
        _under_way.add(task)
        task.add_done_callback(_ended)
        return await asyncio.shield(task)

    return run


def _ended(task: "asyncio.Future[Any]") -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # raised where it is awaited; where nothing awaits it any more, it is of no interest


class Database:
    """One database; may be used by one event loop. Its connections are used in methods that are `uninterrupted`.

    Args:
        url: as `database_url` returns it.
        busy_timeout_s: seconds that a write waits for another process's, on SQLite.

    Raises: InvalidSettings for a URL of another kind.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 10.0) -> None:
        address = _address(url)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        options: dict[str, Any] = {}
        if self.is_sqlite:
            _create_sqlite(Path(str(address.database)))
            options["connect_args"] = {"timeout": busy_timeout_s}
        else:
            options |= {"pool_pre_ping": True, "connect_args": {"timeout": _CONNECT_WITHIN_S}}
        self._engine = create_async_engine(address, hide_parameters=True, **options)
        self._in_use = 0
        self._writing = asyncio.Lock()  # SQLite has one writer at a time; those of one process wait here, in order
        if self.is_sqlite:
            sa.event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine.sync_engine, "begin", _begin_sqlite)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose statements see one state of the database. Raises: DatabaseUnavailable."""
        async with self._connection({}) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose statements take effect together at the end, or not at all where it raises. Raises:
        DatabaseUnavailable."""
        async with AsyncExitStack() as stack:
            if self.is_sqlite:
                await stack.enter_async_context(self._writing)
            yield await stack.enter_async_context(self._connection({"writes": True}))

    async def lock(self, connection: AsyncConnection) -> None:
        """Waits until no other transaction holds this lock; held until the end of this one. SQLite's writes have it."""
        if not self.is_sqlite:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    async def now(self, connection: AsyncConnection) -> float:
        """Seconds since 1970, by the clock that all who use this database share."""
        if self.is_sqlite:
            return time.time()
        clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return float((await connection.scalars(sa.select(clock))).one())

    @uninterrupted
    async def upgrade(self) -> None:
        """Brings the schema up to date; nothing where it is. Any number of processes may call this at once.

        Raises: SchemaMismatch where a newer gatefold has changed it; DatabaseUnavailable.
        """
        async with self.write() as connection:
            await self.lock(connection)
            await connection.run_sync(_upgrade)

    async def receive(self, channel: str, on_message: Callable[[str], None]) -> None:
        """Calls `on_message` with each message to a channel, as soon as it is sent, over a connection of its own; never
        ends. SQLite has no channels: there it returns at once. Messages sent while disconnected are lost; after each
        connection `on_message("")` is called once, so that the caller can read the state again."""
        while not self.is_sqlite:
            try:
                await self._receive_while_connected(channel, on_message)
            except _OUTAGES as error:
                logger.warning("changes are polled for, until the database of jobs answers: %s", _reason(error))
            except (TypeError, ValueError) as error:  # of the URL, which their text may repeat
                logger.error("changes are polled for, since no message can be received: %s", type(error).__name__)
            await asyncio.sleep(_RECONNECT_AFTER_S)

    async def _receive_while_connected(self, channel: str, on_message: Callable[[str], None]) -> None:
        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        known = {name: value for name, value in options.items() if name not in _OF_SQLALCHEMY}
        connection = await asyncpg.connect(**known | {"timeout": _CONNECT_WITHIN_S})
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(channel, lambda *message: on_message(message[-1]))
            on_message("")
            while not await set_within(lost, _CHECK_EVERY_S):  # one that breaks off silently would never be noticed
                await connection.fetchval("SELECT 1", timeout=_CONNECT_WITHIN_S)
        finally:
            connection.terminate()

    async def close(self) -> None:
        """Closes its connections, once those that are in use are free."""
        while self._in_use:
            await asyncio.sleep(_CLOSE_POLL_S)
        await self._engine.dispose()

    @asynccontextmanager
    async def _connection(self, options: dict[str, Any]) -> AsyncIterator[AsyncConnection]:
        self._in_use += 1
        try:
            async with self._engine.execution_options(**options).begin() as connection:
                yield connection
        except _FAULTS:
            raise
        except _OUTAGES as error:
            DATABASE_FAILURES.add()
            said = f"the database of jobs does not answer: {_reason(error)}; try again later"
            raise DatabaseUnavailable(said) from None
        finally:
            self._in_use -= 1


async def with_database(url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    """What the work returns, done with a database that is opened for it, its schema up to date. Raises:
    SchemaMismatch; DatabaseUnavailable."""
    database = Database(url)
    try:
        await database.upgrade()
        return await work(database)
    finally:
        await database.close()


def database_url(workspace: str, given: str | None) -> str:
    """The URL of the database of jobs: the given one, else of a SQLite file in a local workspace.

    Args:
        workspace: canonical URI.
        given: `serve.database_url` or the environment's; None where there is none.

    Raises: InvalidSettings where neither is there, or the given one is of another kind.
    """
    if given is not None:
        _address(given)
        return given
    folder = objects.local_path(workspace)
    if folder is None:
        raise InvalidSettings(
            f"workspace '{workspace}' is no local folder, so jobs need a database of their own: set {VARIABLE} or "
            "serve.database_url to postgresql://USER:PASSWORD@HOST/NAME"
        )
    return str(sa.URL.create("sqlite", database=str(folder / "jobs" / "jobs.sqlite")))


def configured_url(configured: SecretStr | None, environment: Mapping[str, str]) -> str | None:
    """The URL that this environment or else `serve.database_url` names; None where neither does.

    Args:
        environment: of the process that deploys the endpoint: that of a replica decides nothing.
    """
    return environment.get(VARIABLE) or (configured.get_secret_value() if configured else None)


def _address(url: str) -> sa.URL:
    """The URL with the driver that is used here. Raises: InvalidSettings, which does not repeat it."""
    try:
        address = sa.make_url(url)
    except ArgumentError:
        wanted = "postgresql://USER:PASSWORD@HOST/NAME"
        raise InvalidSettings(f"serve.database_url is no URL; it must read {wanted}") from None
    kind = address.get_backend_name()
    if kind not in _DRIVERS:
        raise InvalidSettings(f"serve.database_url = '{kind}://…': it must begin with postgresql:// or sqlite:///")
    if kind == "sqlite" and address.database in (None, "", ":memory:"):
        raise InvalidSettings("serve.database_url: SQLite needs a file, as in sqlite:////var/lib/gatefold/jobs.sqlite")
    query = {"ssl" if name == "sslmode" else name: value for name, value in address.query.items()}  # asyncpg's name
    return address.set(drivername=_DRIVERS[kind], query=query)


def _create_sqlite(path: Path) -> None:
    """Puts an empty database in WAL mode in place where there is no file. SQLite does not wait when several connections
    change the mode of one file at once: all but one of them fail with "database is locked", whatever their timeout."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"serve.database_url: the file of SQLite cannot be used: {error}") from None
    with TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.sqlite"
        with closing(sqlite3.connect(empty)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        objects.put_if_absent(objects.resolve(str(path)), empty.read_bytes())


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says, and not by themselves
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """BEGIN IMMEDIATE waits for the write lock at once; a read transaction that became a write would fail instead."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"the database of jobs has schema version '{found}', and the newest that this gatefold knows is "
            f"'{scripts.get_current_head()}'; install the newer gatefold again, or give it another serve.database_url"
        )
    if found != scripts.get_current_head():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _reason(error: Exception) -> str:
    """What is wrong, without addresses: the driver's own message may repeat them."""
    if isinstance(error, DBAPIError) and "database is locked" in str(error.orig):
        return "another process holds its lock"
    cause = error.orig if isinstance(error, DBAPIError) else error
    return type(cause).__name__
