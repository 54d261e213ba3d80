"""`gatefold run`: all stages in their order, from the catalogue to the release.

Every stage finds out for itself what is fresh, so running all of them does only what is stale. How progress is shown is
left to the caller.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from pydantic import JsonValue

from gatefold.config import Settings
from gatefold.errors import TooFewSongs
from gatefold.progress import OnProgress
from gatefold.workspace import Workspace
from pipelines.report import Report

StageFunction = Callable[[Settings, Workspace, OnProgress], Report]
Job = Callable[[OnProgress], Report]
"""A stage that lacks only its progress callback."""
Watch = Callable[[str, Job], Report]
"""Given the verb and its job: runs the job, shows its progress, and returns its report."""

_FUNCTIONS = {
    "spectrograms": "pipelines.extraction.spectrograms:extract_spectrograms",
    "covers": "pipelines.extraction.covers:extract_covers",
    "train-encoder": "pipelines.training.train_encoder:train_encoder",
    "embed": "pipelines.extraction.embeddings:embed_catalogue",
    "index": "pipelines.index:build_index",
    "train-generator": "pipelines.training.train_generator:train_generator",
    "evaluate": "pipelines.evaluation.evaluate:evaluate",
    "release": "pipelines.release:publish_release",
}
"""By name, so that a stage imports what it needs when it runs, and no other stage's libraries."""


def stages() -> list[tuple[str, StageFunction]]:
    """Verb and function of every stage after the catalogue, in the order in which one builds on another."""
    return [(verb, partial(_call, name)) for verb, name in _FUNCTIONS.items()]


def run_all(settings: Settings, source: str | None, workspace: Workspace, watch: Watch) -> list[Report]:
    """Every stage's report, in their order; a stage that is fresh does nothing.

    Args:
        source: of the catalogue; None leaves the workspace's catalogue as it is.

    Raises: TooManyRejects at the first stage that rejected too much; the stages after it are not run.
    """
    jobs: list[tuple[str, Job]] = [(verb, partial(stage, settings, workspace)) for verb, stage in stages()]
    if source is not None:
        jobs.insert(0, ("catalogue", partial(_build_catalogue, settings, source, workspace)))
    return [watch(verb, _if_measurable(job) if verb == "evaluate" else job) for verb, job in jobs]


def _if_measurable(evaluate: Job) -> Job:
    """The same; a catalogue too small to be measured is released all the same, and the report says so."""

    def job(on_progress: OnProgress) -> Report:
        try:
            return evaluate(on_progress)
        except TooFewSongs as error:
            details: dict[str, JsonValue] = {"not_measured": error.message}
            return Report(stage="evaluate", done=0, skipped=0, rejected=0, seconds=0.0, details=details)

    return job


def _build_catalogue(settings: Settings, source: str, workspace: Workspace, on_progress: OnProgress) -> Report:
    from pipelines.catalogue.catalogue import build_catalogue

    return build_catalogue(settings, source, workspace, on_progress)


def _call(name: str, settings: Settings, workspace: Workspace, on_progress: OnProgress) -> Report:
    module, _, function = name.partition(":")
    stage: StageFunction = getattr(import_module(module), function)
    return stage(settings, workspace, on_progress)
