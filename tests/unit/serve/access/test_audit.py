from serve.access.audit import AuditLog
from tests.unit.serve.access.conftest import Opened, run


def test_a_call_is_written_before_it_is_done_and_its_result_after(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            audit = AuditLog(database)
            number = await audit.begin("a", "DELETE /v1/tracks/{song_id}", "/v1/tracks/t1")
            (begun,) = await audit.read(10)
            assert (begun.number, begun.caller, begun.target, begun.result) == (number, "a", "/v1/tracks/t1", None)
            await audit.finish(number, "204")
            assert [one.result for one in await audit.read(10)] == ["204"]

    run(main())


def test_the_audit_is_read_page_by_page_the_last_first(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            audit = AuditLog(database)
            numbers = [await audit.begin("a", "act", str(i)) for i in range(3)]
            assert [one.target for one in await audit.read(2)] == ["2", "1"]
            assert [one.target for one in await audit.read(2, before=numbers[1])] == ["0"]

    run(main())


def test_what_is_too_long_for_the_audit_is_cut(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            audit = AuditLog(database)
            await audit.begin("a" * 2000, "b" * 2000, "c" * 2000)
            (entry,) = await audit.read(1)
            assert (len(entry.caller), len(entry.action), len(entry.target)) == (128, 128, 1024)

    run(main())
