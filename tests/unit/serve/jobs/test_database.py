import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from gatefold.errors import DatabaseUnavailable, InvalidSettings, SchemaMismatch
from serve.jobs import tables
from serve.jobs.database import Database, database_url
from tests.postgres import PostgresServer
from tests.unit.serve.jobs.conftest import Opened, run


def test_a_local_workspace_has_a_database_of_its_own() -> None:
    assert database_url("file:///srv/gatefold", None) == "sqlite:////srv/gatefold/jobs/jobs.sqlite"
    assert database_url("s3://bucket/x", "postgres://u:p@h/n") == "postgres://u:p@h/n"


def test_a_bucket_without_a_database_is_refused_with_what_to_set() -> None:
    with pytest.raises(InvalidSettings, match=r"set GATEFOLD_DATABASE_URL or serve\.database_url to postgresql://USER"):
        database_url("s3://bucket/x", None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:hunter2@host/db", "'mysql://…': it must begin with postgresql:// or sqlite:///"),
        ("hunter2", "is no URL"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
    ],
)
def test_a_url_of_another_kind_is_refused_and_not_repeated(url: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        database_url("file:///w", url)
    assert said in refused.value.message
    assert "hunter2" not in refused.value.message


def test_the_migrations_make_the_tables_that_the_code_uses(bare_database_url: str) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        from alembic.autogenerate import compare_metadata
        from alembic.runtime.migration import MigrationContext

        def is_compared(_: object, name: str, kind: str, *__: object) -> bool:  # SQLite does not say that one descends
            return (connection.dialect.name, kind, name) != ("sqlite", "index", "jobs_queue")

        opts = {"compare_type": True, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, tables.metadata))

    async def main() -> list[object]:
        database = Database(bare_database_url)
        await database.upgrade()
        async with database.read() as connection:
            found = await connection.run_sync(differences)
        await database.close()
        return found

    assert run(main()) == []


def test_any_number_of_processes_may_bring_the_schema_up_to_date_at_once(bare_database_url: str) -> None:
    async def main() -> None:
        databases = [Database(bare_database_url) for _ in range(4)]
        await asyncio.gather(*(database.upgrade() for database in databases))
        await databases[0].upgrade()
        for database in databases:
            async with database.read() as connection:
                versions = await connection.scalars(sa.text("SELECT version_num FROM alembic_version"))
                assert len(versions.all()) == 1
            await database.close()

    run(main())


def test_a_new_file_is_in_wal_mode_before_a_connection_sees_it(tmp_path: Path) -> None:
    """Of several connections that change the mode of one file at once, SQLite fails all but one without waiting."""
    path = tmp_path / "a folder" / "jobs.sqlite"
    first, second = Database(f"sqlite:///{path}"), Database(f"sqlite:///{path}")
    assert path.read_bytes()[18:20] == b"\2\2"  # versions for writing and reading: 2 is WAL, 1 a rollback journal
    assert [entry.name for entry in path.parent.iterdir()] == ["jobs.sqlite"]
    for database in (first, second):
        run(database.upgrade())
        run(database.close())


def test_a_database_without_our_tables_beside_others_is_upgraded_and_keeps_those(bare_database_url: str) -> None:
    async def main() -> None:
        database = Database(bare_database_url)
        async with database.write() as connection:
            await connection.execute(sa.text("CREATE TABLE theirs (a integer)"))
        await database.upgrade()
        async with database.read() as connection:
            kept = await connection.execute(sa.text("SELECT a FROM theirs"))
            assert (kept.all(), (await connection.execute(sa.text("SELECT job_id FROM jobs"))).all()) == ([], [])
        await database.close()

    run(main())


def test_a_database_of_a_newer_gatefold_is_refused(opened: Opened, database_url: str) -> None:
    async def main() -> None:
        async with opened() as jobs:
            async with jobs.database.write() as connection:
                await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
            database = Database(database_url)
            with pytest.raises(SchemaMismatch, match=r"schema version '9999', and the newest .* knows is '\d{4}'"):
                await database.upgrade()
            await database.close()

    run(main())


def test_what_fails_in_a_write_takes_all_of_it_back(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()

            async def break_off() -> None:
                async with jobs.database.write() as connection:
                    await connection.execute(sa.update(tables.jobs).values(state="lost"))
                    raise RuntimeError

            with pytest.raises(RuntimeError):
                await break_off()
            assert (await jobs.store.get(made.job_id)).state == "queued"

    run(main())


def test_events_and_images_go_with_their_job(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            await jobs.make()
            async with jobs.database.write() as connection:
                await connection.execute(sa.delete(tables.jobs))
                assert (await connection.execute(sa.select(tables.events))).all() == []

    run(main())


def test_sqlite_keeps_a_log_that_survives_a_crash(tmp_path: Path) -> None:
    async def main() -> tuple[object, object, object]:
        database = Database(f"sqlite:///{tmp_path}/a/b.sqlite")
        async with database.read() as connection:
            pragmas = ("journal_mode", "synchronous", "foreign_keys")
            found = [await connection.scalar(sa.text(f"PRAGMA {pragma}")) for pragma in pragmas]
        await database.close()
        return found[0], found[1], found[2]

    assert run(main()) == ("wal", 2, 1)


def test_a_file_that_is_no_database_is_unavailable_and_its_content_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hunter2" * 1000)

    async def main() -> None:
        database = Database(f"sqlite:///{tmp_path}/x")
        with pytest.raises(DatabaseUnavailable) as refused:
            await database.upgrade()
        assert "hunter2" not in refused.value.message
        await database.close()

    run(main())
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "x").execute("SELECT 1 FROM sqlite_master")


def test_a_server_that_is_away_is_unavailable_without_its_address_and_is_used_again_when_it_is_back() -> None:
    server = PostgresServer()
    try:
        server.start()
        url = server.new_database()

        async def main() -> None:
            database = Database(url)
            await database.upgrade()
            for end in (server.stop, server.kill):
                end()
                with pytest.raises(DatabaseUnavailable) as refused:
                    await database.upgrade()
                assert "hunter2" not in str(refused.value)
                assert str(server.port) not in str(refused.value)
                assert refused.value.__cause__ is None
                server.start()
                await database.upgrade()
            await database.close()

        run(main())
    finally:
        server.remove()
