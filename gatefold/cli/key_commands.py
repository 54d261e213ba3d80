"""Verbs for API keys: create, list, rotate, revoke, and the audit. None needs Ray, nor an endpoint that runs.

`gatefold.cli.main` puts them on the command line.
"""

import asyncio
import getpass
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gatefold.cli.session import Session
from gatefold.cli.terminal import table

if TYPE_CHECKING:
    from serve.access.keys import ApiKey, KeyStore

keys_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="API keys of the endpoint: create, list, rotate and revoke them; who used one for what only admins may.",
)
Result = TypeVar("Result")
_KEY = typer.Argument(metavar="KEY", help="How the key begins, as in gf_ab12cd34.")
_TIME = "%Y-%m-%d %H:%M"


@keys_app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="search, generate or admin; repeatable. Without it: search and generate."),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option("--expires", formats=["%Y-%m-%d"], help="Day in UTC from whose beginning it is refused."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", help="Requests it may send in a minute.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs-at-once", help="Jobs it may have queued and running.")] = None,
    covers: Annotated[
        int | None, typer.Option("--covers-per-month", help="New covers it may have made in a month.")
    ] = None,
) -> None:
    """Make a key, and show its secret, this once: what is kept is a hash of it.

    A running endpoint knows it within `serve.poll_interval_s`. From the first key on, every caller needs one.

    Example: gatefold keys create "Acme Music" --requests-per-minute 600 --covers-per-month 10000
    """
    session: Session = context.obj.open()
    from gatefold.errors import InvalidSettings
    from serve.access.callers import Allowance

    expires_at = None if expires is None else expires.replace(tzinfo=UTC)
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidSettings(f"--expires {expires_at:%Y-%m-%d}: that day has begun, or is over")
    allowed = Allowance(requests, jobs, covers)
    scopes = scope or ["search", "generate"]
    key, secret = _with_store(session, lambda store: store.create(name, scopes, allowed, expires_at))
    _show_secret(session, key, secret)


@keys_app.command("list")
def list_keys(context: typer.Context) -> None:
    """All keys, the oldest first, without their secrets.

    Example: gatefold keys list --json
    """
    session: Session = context.obj.open()
    found = _with_store(session, lambda store: store.read_all())
    heads = ("key", "name", "state", "scopes", "requests/min", "jobs", "covers/month", "expires", "created")
    now = datetime.now(UTC)
    rows = [
        (
            one.key,
            one.name,
            one.state(now),
            " ".join(sorted(one.scopes)),
            one.allowed.requests_per_minute,
            one.allowed.jobs_at_once,
            one.allowed.covers_per_month,
            one.expires_at and f"{one.expires_at:{_TIME}}",
            f"{one.created_at:{_TIME}}",
        )
        for one in found
    ]
    shown = table(heads, rows, right=heads[4:7]) if rows else "no keys"
    session.terminal.result({"keys": [_record(one) for one in found]}, shown)


@keys_app.command()
def rotate(
    context: typer.Context,
    key: Annotated[str, _KEY],
    keep_hours: Annotated[
        float, typer.Option("--keep-hours", min=0, help="Hours for which the old secret is accepted as well.")
    ] = 0.0,
) -> None:
    """Give a key another secret, shown this once; its limits, jobs and usage stay.

    Example: gatefold keys rotate gf_ab12cd34 --keep-hours 24
    """
    session: Session = context.obj.open()
    keep_s = timedelta(hours=keep_hours).total_seconds()
    changed, secret = _with_store(session, lambda store: store.rotate(key, keep_s))
    _show_secret(session, changed, secret)


@keys_app.command()
def revoke(context: typer.Context, key: Annotated[str, _KEY]) -> None:
    """Refuse a key from now on, for good; a running endpoint follows within `serve.poll_interval_s`.

    Example: gatefold keys revoke gf_ab12cd34
    """
    session: Session = context.obj.open()
    revoked = _with_store(session, lambda store: store.revoke(key))
    session.terminal.result({"key": _record(revoked)}, f"{revoked.key} ({revoked.name}) is revoked")


@keys_app.command()
def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Entries to show, the last ones.")] = 100,
) -> None:
    """Calls that needed the scope admin, and changes of keys: who, what, when, and what came of it.

    Example: gatefold keys audit --limit 20
    """
    session: Session = context.obj.open()
    from serve.access.audit import AuditLog
    from serve.access.callers import name_of
    from serve.jobs.database import with_database

    found = asyncio.run(with_database(session.database_url(), lambda database: AuditLog(database).read(limit)))
    rows = [(f"{one.at:{_TIME}:%S}", name_of(one.caller), one.action, one.target, one.result) for one in found]
    shown = table(("at (UTC)", "who", "what", "of", "result"), rows) if rows else "no entries"
    entries = [vars(one) | {"at": one.at.isoformat(), "caller": name_of(one.caller)} for one in found]
    session.terminal.result({"entries": entries}, shown)


def _with_store(session: Session, work: "Callable[[KeyStore], Awaitable[Result]]") -> Result:
    """What the work returns, done with the keys of the session's database."""
    from serve.access.keys import KeyStore
    from serve.jobs.database import with_database

    by = f"{getpass.getuser()}@{socket.gethostname()}"
    return asyncio.run(with_database(session.database_url(), lambda database: work(KeyStore(database, by))))


def _show_secret(session: Session, key: "ApiKey", secret: str) -> None:
    session.terminal.result({"key": _record(key), "secret": secret}, secret)
    session.terminal.note(f"{key.key} ({key.name}): keep this secret now, it is shown this once")


def _record(key: "ApiKey") -> dict[str, Any]:
    """As JSON, without digests."""
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "key": key.key,
        "name": key.name,
        "state": key.state(datetime.now(UTC)),
        "scopes": sorted(key.scopes),
        **vars(key.allowed),
        **{name: at and at.isoformat() for name, at in times.items()},
    }
