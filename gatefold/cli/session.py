"""A verb's session: global options, settings, workspace, Ray where it is needed, exit codes.

It may import pipelines and serve; nothing outside this folder imports it.
"""

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from gatefold.cli.stopping import Terminated, exit_code
from gatefold.cli.terminal import Terminal
from gatefold.errors import (
    BundleNotFound,
    GatefoldError,
    InputError,
    InvalidManifest,
    InvalidSettings,
    NotFound,
    StageMissing,
    TooManyRejects,
)

if TYPE_CHECKING:
    from gatefold.config import Settings
    from gatefold.workspace import Workspace
    from pipelines.report import Report
    from pipelines.run import Job

FAILED, MISUSED, ABOVE_LIMIT = 1, 2, 3
"""exit codes"""
_OF_ALL_VERBS = "Also --workspace, --config, --set, --json and --verbose, as gatefold --help describes them."
_GLOBAL_FLAGS = ("--json", "--verbose")
_GLOBAL_OPTIONS = ("--workspace", "--config", "--set")


class Commands(TyperGroup):
    """Global options count wherever they stand, and an error is a message with an exit code, not a traceback."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """What is left of the arguments, with the global options before the verb."""
        return super().parse_args(ctx, _globals_first(args))

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """The verb, whose help ends with the options that all verbs have."""
        command = super().get_command(ctx, cmd_name)
        for one in [command, *getattr(command, "commands", {}).values()] if command else []:
            one.epilog = one.epilog or _OF_ALL_VERBS
        return command

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            done = super().invoke(ctx)
        except KeyboardInterrupt as stop:
            terminal = Terminal(as_json=False)
            with terminal.stopping():
                _end_ray(ctx)
            terminal.note("stopped; the same command continues where it stopped")
            raise typer.Exit(exit_code(stop)) from None
        except Exception as error:
            _end_ray(ctx)
            own = _own_error(error)
            if own is None:
                raise
            command: Command = ctx.obj
            finished = {"stages": [report.model_dump() for report in command.reports]} if command.reports else {}
            command.terminal.failure(own.code, own.message + command.elsewhere(own), finished)
            raise typer.Exit(_exit_code(own)) from None
        _end_ray(ctx)
        return done


def _end_ray(context: typer.Context) -> None:
    """Before the last words of a command: what Ray says while it ends would cover them."""
    if cluster := sys.modules.get("pipelines.cluster"):  # imported where a verb has needed Ray
        command: Command | None = context.obj  # none where the arguments could not be read
        cluster.disconnect(verbose=command is not None and command.terminal.verbose)


def _globals_first(args: list[str]) -> list[str]:
    """The same arguments with the global options in front; what follows `--` stays where it is."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(args)
    for arg in waiting:
        if arg == "--":
            rest += [arg, *waiting]
        elif arg in _GLOBAL_FLAGS or arg.startswith(tuple(f"{option}=" for option in _GLOBAL_OPTIONS)):
            first.append(arg)
        elif arg in _GLOBAL_OPTIONS:
            first += [arg, *(value for value in (next(waiting, None),) if value is not None)]
        else:
            rest.append(arg)
    return first + rest


def _own_error(error: BaseException) -> GatefoldError | None:
    """Our error, itself or inside what Ray made of it."""
    if isinstance(error, GatefoldError):
        return error
    inside = [getattr(error, "cause", None), error.__cause__, *getattr(error, "worker_failures", {}).values()]
    found = (_own_error(one) for one in inside if isinstance(one, BaseException))
    return next((own for own in found if own is not None), None)


def _exit_code(error: GatefoldError) -> int:
    if isinstance(error, TooManyRejects):
        return ABOVE_LIMIT
    misused = isinstance(error, InvalidSettings | InvalidManifest) or type(error) is InputError
    return MISUSED if misused else FAILED


@dataclass
class Command:
    """What the global options ask for, and what was done so far."""

    workspace_uri: str | None
    config: Path | None
    overrides: list[str]
    terminal: Terminal
    reports: "list[Report]" = field(default_factory=list)
    workspace: "Workspace | None" = None
    """the one that was opened"""

    def open(self) -> "Session":
        """Raises: InvalidSettings, InputError."""
        from gatefold.config import load
        from gatefold.storage import objects
        from gatefold.workspace import Workspace

        settings = load(self.config, self.overrides)
        if settings.endpoint_url:
            os.environ["AWS_ENDPOINT_URL"] = settings.endpoint_url
        self.workspace = Workspace(objects.resolve(self.workspace_uri or settings.workspace))
        return Session(settings, self.workspace, self.terminal, self.reports)

    def elsewhere(self, error: GatefoldError) -> str:
        """What to add to an error about something missing where there is no workspace: those that are near by."""
        if self.workspace is None or not isinstance(error, StageMissing | BundleNotFound):
            return ""
        return workspaces_elsewhere(self.workspace)


@dataclass(frozen=True)
class Session:
    """One verb at work."""

    settings: "Settings"
    workspace: "Workspace"
    terminal: Terminal
    reports: "list[Report]"

    def connect(self) -> None:
        """Ray, and a line about which one it is. Raises: Unavailable."""
        self.terminal.keep_stdout()
        with self.terminal.waiting("starting Ray"):
            from pipelines.cluster import connect

            try:
                place = connect(self.settings.endpoint_url, verbose=self.terminal.verbose)
            except SystemExit as stop:  # Ray's own answer to SIGTERM while it starts
                raise Terminated from stop
        if place:
            self.terminal.note(f"on {place}")

    def check_source(self, source: str | None) -> None:
        """Before Ray starts, which takes seconds: that there is a catalogue to work on, or something to make one of.

        Args:
            source: of a catalogue; None for the one that the workspace has.

        Raises: StageMissing; NotFound for a path that is not there. A source in a store is asked for later.
        """
        from gatefold.storage import objects
        from gatefold.storage.contents import catalogues

        if source is None:
            catalogues.required(self.workspace)
            return
        path = objects.local_path(objects.resolve(source))
        try:
            missing = path is not None and not path.exists()
        except OSError:  # it may not be looked at, which reading it will say
            missing = False
        if missing:
            raise NotFound(f"'{path}' is not there; name a folder of songs or a manifest (.parquet, .csv, .jsonl)")

    def check_workspace(self) -> None:
        """That a workspace on this machine's disk is there, before something is written into another one by a slip.

        Raises: NotFound.
        """
        from gatefold.storage import objects

        path = objects.local_path(self.workspace.uri)
        if path is not None and not path.is_dir():
            raise NotFound(f"there is no workspace at '{path}'; name it with --workspace; `gatefold run` makes one")

    def check_release(self) -> None:
        """Before Ray starts, too: that a release is active. Raises: BundleNotFound."""
        from gatefold.storage.contents import releases

        releases.current(self.workspace)

    def database_url(self) -> str:
        """Of the database of jobs and keys.

        Raises: InvalidSettings where the workspace needs one to be named; NotFound where it would be made in a
        workspace that is not there.
        """
        from serve.jobs.database import configured_url, database_url

        given = configured_url(self.settings.serve.database_url, os.environ)
        if given is None:
            self.check_workspace()
        return database_url(self.workspace.uri, given)

    def watch(self, verb: str, job: "Job") -> "Report":
        """Runs a job with its progress on the terminal. Raises: TooManyRejects, its report kept all the same."""
        from pipelines.report import read_report

        report: Report | None
        try:
            report = self.terminal.watch(verb, job)
        except TooManyRejects:
            report = read_report(self.workspace, verb)
            if report is not None:
                self.reports.append(report)
            raise
        self.reports.append(report)
        for line in report_lines(report):
            self.terminal.note(line)
        return report

    def run_stage(self, verb: str) -> "Report":
        """One stage that needs nothing but settings and workspace."""
        from pipelines.run import stages

        return self.watch(verb, partial(dict(stages())[verb], self.settings, self.workspace))

    def build_catalogue(self, source: str) -> "Report":
        """The catalogue of a source, a manifest or a folder, built and reported."""
        from pipelines.catalogue.catalogue import build_catalogue

        return self.watch("catalogue", partial(build_catalogue, self.settings, source, self.workspace))

    def rebuild_catalogue(self) -> "Report":
        """From the source that it was built from. Raises: StageMissing when it never was."""
        from gatefold.storage.contents import catalogues

        return self.build_catalogue(catalogues.required(self.workspace).source)


def workspaces_elsewhere(workspace: "Workspace") -> str:
    """The end of a message, `; workspaces near by: …`; empty where this is a workspace, or there are no others."""
    from gatefold.storage.contents.nearby_workspaces import is_workspace, workspaces_near

    try:
        near = [] if is_workspace(workspace.uri) else workspaces_near(workspace.uri)
    except GatefoldError:  # the store that it lies in does not answer, which is not what the message is about
        return ""
    named = ", ".join(f"'{path}'" for path in near)
    return f"; workspaces near by: {named} (name one with --workspace)" if near else ""


def packaged(package: str, name: str) -> Path:
    """A file that is installed with a package."""
    return Path(str(resources.files(package).joinpath(name)))


def readable(uri: str) -> str:
    """A path where it is one, else the uri."""
    from gatefold.storage import objects

    return str(objects.local_path(uri) or uri)


def report_lines(report: "Report") -> list[str]:
    """What of a report belongs on the terminal: files of a source that were passed over, by reason and suffix; songs
    without a cover; why nothing was measured."""
    reasons: Any = report.details.get("passed_over") or {}
    lines = []
    for reason, counts in reasons.items():
        named = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in counts.items())
        lines.append(f"  passed over, {reason}: {named}")
    if unreadable := report.details.get("tags_unreadable"):
        lines.append(f"  tags that could not be read: those of {unreadable:,} songs, which stay in the catalogue")
    songs, covers = report.details.get("songs"), report.details.get("covers")
    if report.stage == "catalogue" and isinstance(songs, int) and isinstance(covers, int) and covers < songs:
        lines.append(f"  without a cover: {songs - covers:,} of {songs:,} songs; only those with one are learned from")
    if why := report.details.get("not_measured"):
        lines.append(f"  not measured: {why}")
    return lines
