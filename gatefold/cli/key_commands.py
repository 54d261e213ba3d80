"""Verbs for API keys: create, list, rotate, revoke, webhook, and the audit. None needs Ray, nor an endpoint that runs.

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
    from serve.jobs.jobs import Webhook

keys_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="API keys of the endpoint: create, list, rotate and revoke them, name their webhooks; and the audit "
    "of what keys of scope admin did.",
)
Result = TypeVar("Result")
_KEY = typer.Argument(metavar="KEY", help="How the key begins, as in gf_ab12cd34.")
_EVENTS = typer.Option(
    "--webhook-event", help="What is reported: job.succeeded, job.failed or job.cancelled; repeatable. Without it: all."
)
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
        typer.Option("--expires", formats=["%Y-%m-%d"], help="The day, in UTC, from which on it is refused."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", help="Requests it may send in a minute.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs-at-once", help="Jobs it may have queued and running.")] = None,
    covers: Annotated[
        int | None, typer.Option("--covers-per-month", help="New covers it may have made in a month.")
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option("--webhook-url", help="https URL to which the ends of its jobs are reported.")
    ] = None,
    webhook_events: Annotated[list[str] | None, _EVENTS] = None,
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
    webhook = _webhook(session, webhook_url, webhook_events)
    key, secret = _with_store(session, lambda store: store.create(name, scopes, allowed, expires_at, webhook))
    _show_secret(session, key, secret)


@keys_app.command("list")
def list_keys(context: typer.Context) -> None:
    """All keys, the oldest first, without their secrets.

    Example: gatefold keys list --json
    """
    session: Session = context.obj.open()
    found = _with_store(session, lambda store: store.read_all())
    heads = ("key", "name", "state", "scopes", "requests/min", "jobs", "covers/month", "webhook", "expires", "created")
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
            _receiver(one),
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


@keys_app.command("webhook")
def set_webhook(
    context: typer.Context,
    key: Annotated[str, _KEY],
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="https URL.")] = None,
    events: Annotated[list[str] | None, _EVENTS] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Report to none any more.")] = False,
) -> None:
    """Report the ends of a key's jobs to this URL, for jobs accepted from now on that name no webhook themselves.

    `gatefold serve` signs them with GATEFOLD_WEBHOOK_SECRET; without that, they are not reported.

    Example: gatefold keys webhook gf_ab12cd34 https://hooks.example.org/covers --webhook-event job.succeeded
    """
    session: Session = context.obj.open()
    from gatefold.errors import InvalidSettings

    if remove == (url is not None):
        raise InvalidSettings(f"keys webhook {key}: takes either a URL or --remove")
    webhook = _webhook(session, url, events)
    changed = _with_store(session, lambda store: store.set_webhook(key, webhook))
    reported = f"jobs of {changed.key} ({changed.name}) are reported to {_receiver(changed) or 'no webhook'}"
    session.terminal.result({"key": _record(changed)}, reported)


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


def _webhook(session: Session, url: str | None, events: list[str] | None) -> "Webhook | None":
    """The webhook of these options. Raises: InvalidSettings for one that may not be called."""
    from gatefold.errors import InvalidSettings
    from serve.jobs.jobs import Webhook
    from serve.webhooks.contracts import WEBHOOK_EVENTS
    from serve.webhooks.receivers import check_receiver, parse_receiver

    if unknown := [event for event in events or () if event not in WEBHOOK_EVENTS]:
        raise InvalidSettings(f"event '{unknown[0][:80]}' is not known; there are {', '.join(WEBHOOK_EVENTS)}")
    if url is None:
        if events:
            raise InvalidSettings("--webhook-event: needs a URL to report to")
        return None
    try:
        check_receiver(parse_receiver(url), session.settings.serve.webhooks.allowed_hosts)
    except ValueError as error:
        raise InvalidSettings(f"URL of a webhook: {error}") from None
    return Webhook(url, tuple(events) if events else None)


def _show_secret(session: Session, key: "ApiKey", secret: str) -> None:
    session.terminal.result({"key": _record(key), "secret": secret}, secret)
    session.terminal.note(f"{key.key} ({key.name}): keep this secret now, it is shown this once")


def _receiver(key: "ApiKey") -> str | None:
    """Host and port of a key's webhook: the rest of its URL may be secret."""
    from serve.webhooks.receivers import parse_receiver

    return None if key.webhook is None else parse_receiver(key.webhook.url).name


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
        "webhook": _receiver(key),
        "webhook_events": key.webhook and key.webhook.events,
    }
