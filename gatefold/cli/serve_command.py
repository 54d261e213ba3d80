"""The verb `serve`, and what `demo` takes of it. `gatefold.cli.main` puts it on the command line."""

import asyncio
import io
import logging
import os
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatefold.cli.session import Session, packaged
from gatefold.cli.stopping import Terminated

if TYPE_CHECKING:
    from serve.endpoint import Endpoint

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")]
Open = Annotated[
    bool, typer.Option("--open", help="Serve without API keys on an address that other machines reach.")
]


def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    is_open: Open = False,
    deployments: Annotated[
        Path | None,
        typer.Option(
            "--deployments", metavar="FILE",
            help="YAML with resources, batching and scaling; else the installed serve.yaml.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """The page and the HTTP API over the current release, until Ctrl-C; another that is activated takes over.

    On a host that other machines reach it needs API keys (`gatefold keys`); where there are none it makes the first.

    Example: gatefold serve --port 9000
    """
    session: Session = context.obj.open()
    if deployments is None:  # a file may name the release
        session.check_release()
    first_key = prepare_keys(session, host, is_open=is_open)
    session.connect()
    endpoint = deploy_endpoint(session, host, port, is_open=is_open, deployments=deployments)
    shown = {"url": endpoint.url} | ({"first_key": first_key} if first_key else {})
    session.terminal.result(shown, endpoint.url)
    keep_serving(session, endpoint)


def prepare_keys(session: Session, host: str, *, is_open: bool) -> str | None:
    """The secret of the first API key, where others reach the endpoint and there has never been a key; shown at once.

    Raises: InvalidSettings; DatabaseUnavailable; all before anything starts.
    """
    from serve.access.keys import KeyStore
    from serve.jobs.database import with_database
    from serve.middleware.keys import Keys, is_loopback

    configured = Keys.from_environment(os.environ)
    if is_open or configured.required or is_loopback(host):
        return None
    made = asyncio.run(with_database(session.database_url(), lambda found: KeyStore(found).create_first("first")))
    if made is None:
        return None
    key, secret = made
    session.terminal.note(
        f"'{host}' is reached by other machines, so callers need an API key. The first, of all scopes, shown this once:"
        f"\n\n{secret}\n\n`gatefold keys create` makes more, `gatefold keys revoke {key.key}` ends it."
    )
    return secret


def deploy_endpoint(
    session: Session, host: str, port: int, *, is_open: bool, deployments: Path | None = None
) -> "Endpoint":
    """The endpoint, which answers by now. Raises: as `serve.deploy.deploy`."""
    with session.terminal.waiting("starting the endpoint"):
        from serve.deploy import deploy

        if not session.terminal.verbose:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
        return deploy(
            deployments or packaged("serve", "serve.yaml"),
            workspace=session.workspace.uri,
            examples=str(packaged("gatefold", "examples")),
            host=host,
            port=port,
            settings=session.settings,
            is_open=is_open,
        )


def keep_serving(session: Session, endpoint: "Endpoint") -> None:
    """Follows the workspace until Ctrl-C, which ends the endpoint."""
    from pipelines.cluster import disconnect
    from serve.deploy import stop

    session.terminal.note("Ctrl-C stops the endpoint")
    try:
        while True:
            time.sleep(session.settings.serve.poll_interval_s)
            if news := endpoint.follow():
                session.terminal.note(news)
    except Terminated:
        raise
    except KeyboardInterrupt:
        pass  # it is how an endpoint ends
    finally:
        # Ray would say on stdout that Serve's controller is gone, as it should be
        verbose = session.terminal.verbose
        with session.terminal.stopping(), nullcontext() if verbose else redirect_stdout(io.StringIO()):
            stop()
            disconnect(verbose=verbose)
    session.terminal.note("stopped")
