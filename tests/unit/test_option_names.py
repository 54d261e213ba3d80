"""The names of the command line's options, whatever release of typer is installed."""

from collections.abc import Iterator
from typing import Any

import typer

from gatefold.cli.main import app


def test_every_option_has_its_own_name_and_not_that_of_its_value() -> None:
    def options(command: Any) -> Iterator[str]:
        for one in getattr(command, "commands", {}).values():
            yield from options(one)
        yield from (name for parameter in command.params for name in parameter.opts if name.startswith("--"))

    named = sorted(set(options(typer.main.get_command(app))))  # some releases of typer take the metavar for the name
    assert {"--workspace", "--code", "--deployments"} <= set(named)
    assert [name for name in named if name != name.lower()] == []
