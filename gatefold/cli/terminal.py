"""Terminal output: a command's result on stdout, everything else on stderr, and progress as a bar or as lines.

On a terminal a running stage is a bar with a line of facts under it, and a finished one a line that stays. Without
a terminal, in a log, it is a plain line every few seconds. It knows numbers and names, not what they mean.
"""

import io
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gatefold.cli import stopping
from gatefold.progress import NOTHING, OnProgress

_LINE_EVERY_S = 5.0
_WIDE = 1000  # characters
_NAME_WIDTH = 16  # the longest verb, and one
_BESIDE_BAR = 62  # columns: name, eight digits twice, rate, hours left
_SPARKS, _BLOCKS = 14, "▁▂▃▄▅▆▇█"
_INDENT, _BETWEEN = "  ", " · "


class StageCounts(Protocol):
    """Numbers of a finished stage, as its report has them."""

    @property
    def done(self) -> int:
        """inputs worked on in this run."""
        ...

    @property
    def skipped(self) -> int:
        """inputs that were done before."""
        ...

    @property
    def rejected(self) -> int:
        """inputs that could not be used."""
        ...

    @property
    def seconds(self) -> float:
        """duration of the run."""
        ...


AnyCounts = TypeVar("AnyCounts", bound=StageCounts)


class Terminal:
    """One command's way to speak.

    Args:
        as_json: its result is one JSON object.
        verbose: what Ray and Ray Serve log is wanted, also while they end.
    """

    def __init__(self, *, as_json: bool, verbose: bool = False) -> None:
        self.verbose = verbose
        self._as_json = as_json
        self._errors = Console(stderr=True, highlight=False)
        self._stdout = sys.stdout

    def result(self, value: dict[str, Any], *readable: RenderableType) -> None:
        """The result: as JSON, or readable; the one thing that stdout gets."""
        if self._as_json:
            typer.echo(json.dumps(value, ensure_ascii=False), file=self._stdout)
            return
        console = Console(file=self._stdout, highlight=False)
        if not console.is_terminal:
            console.width = _WIDE  # a file has no edge to fold a line at
        for renderable in readable:
            console.print(renderable, soft_wrap=isinstance(renderable, str), markup=False)

    def failure(self, code: str, message: str, value: dict[str, Any]) -> None:
        """What went wrong, and in JSON also what was done by then."""
        if self._as_json:
            self.result({"error": {"code": code, "message": message}, **value})
        self._errors.print(Text("✗ ", "bold red") + Text(message), soft_wrap=True)

    def keep_stdout(self) -> None:
        """From now on stdout gets results alone; what others print there, as Ray does, goes to stderr until a stop."""
        if not isinstance(sys.stdout, _Others):
            sys.stdout = _Others(until_stop=not self.verbose)

    def note(self, message: str) -> None:
        """A line on the way."""
        self._errors.print(Text(message), soft_wrap=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner beside what is waited for; it leaves nothing behind."""
        if not self._errors.is_terminal:
            self.note(f"{what} …")
            yield
            return
        with self._errors.status(Text(what)):
            yield

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """A spinner for as long as it takes; in a log nothing, for which the line after it is enough."""
        if not self._errors.is_terminal:
            yield
            return
        with self._errors.status(Text("stopping")):
            yield

    def watch(self, name: str, job: Callable[[OnProgress], AnyCounts]) -> AnyCounts:
        """What the job returns; it may report its progress from any thread. What it raises passes through."""
        with self.progress(name) as on_progress:
            counts = job(on_progress)
        self._errors.print(_finished(name, counts))
        return counts

    @contextmanager
    def progress(self, name: str) -> Iterator[OnProgress]:
        """A bar, for as long as it lasts; it may be updated from any thread."""
        if not self._errors.is_terminal:
            self.note(f"{name} …")
            yield _Lines(name, self.note)
            return
        with _View(name, self._errors) as view:
            yield view.show


class _Others(io.TextIOBase):
    """Stdout for what is no result. What is printed while a command is stopped, as of the processes that end with it,
    is not seen."""

    def __init__(self, *, until_stop: bool) -> None:
        self._until_stop = until_stop

    def write(self, text: str) -> int:
        if self._until_stop and stopping.begun.is_set():
            return len(text)
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class _View(Progress):
    """The bar of one stage, and under it the facts last reported; gone when it ends."""

    def __init__(self, name: str, console: Console) -> None:
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn(f"{{task.description:<{_NAME_WIDTH}}}", markup=False),
            BarColumn(min(28, max(8, console.width - _BESIDE_BAR))),
            _Counts(),
            TimeRemainingColumn(compact=True),
        ]
        self._facts = _Facts(NOTHING)
        super().__init__(*columns, console=console, transient=True, speed_estimate_period=60)
        self._task = self.add_task(name, total=None)

    def show(self, done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        self._facts = _Facts(facts)
        self.update(self._task, completed=done, total=total)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        yield self._facts


class _Facts:
    """`read 12.4 MB/s · rejects empty_file 3 · workers 2` on one dim line; what is too long loses its end."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        self._parts = _worded(facts)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        if self._parts:
            line = _fitted(self._parts, options.max_width - len(_INDENT))
            yield Text(_INDENT + line, "dim", no_wrap=True, overflow="ellipsis")


def _worded(facts: Mapping[str, str]) -> list[str]:
    return [f"{name} {value}" for name, value in facts.items()]


def _fitted(parts: list[str], width: int) -> str:
    """The parts side by side; one that takes more than half the width pays for what they have too much together."""
    line = _BETWEEN.join(parts)
    longest = max(parts, key=len)
    kept = len(longest) - (len(line) - width) - 1
    if len(line) <= width or kept < width // 4:
        return line
    return line.replace(longest, longest[:kept] + "…")


class _Counts(ProgressColumn):
    """`320/1,200  26/s`, or that nothing has come yet."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"starting, {task.elapsed or 0:.0f} s", "dim")
        speed = f"  {_rate(task.speed)}" if task.speed else ""
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}{speed}")


class _Lines:
    """Progress as plain lines, not too often."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self._lock = threading.Lock()
        self._first: tuple[float, int] | None = None
        self._said = time.monotonic()

    def __call__(self, done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        with self._lock:
            now = time.monotonic()
            self._first = self._first or (now, done)
            if now - self._said < _LINE_EVERY_S:
                return
            self._said = now
            began, before = self._first
            speed = (done - before) / (now - began) if now > began else 0.0
        left = f", {_rate(speed)}, {_lasting((total - done) / speed)} left" if speed else ""
        self._say(_BETWEEN.join([f"{self._name}: {done:,}/{total:,}{left}", *_worded(facts)]))


def _rate(speed: float) -> str:
    return f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s"


def _lasting(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _finished(name: str, counts: StageCounts) -> Text:
    idle = "up to date" if counts.skipped else "nothing done"
    text = f"{counts.done:,} done" if counts.done else idle
    if counts.done and counts.skipped:
        text += f", {counts.skipped:,} before"
    line = Text("✓ ", "bold green") + Text(f"{name:<{_NAME_WIDTH}} {text}")
    if counts.rejected:
        line += Text(f", {counts.rejected:,} rejected", "yellow")
    return line + Text(f"  {counts.seconds:,.1f} s", "dim")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """Rows under their heads; columns named in `right` are flush right. Nothing is read as markup."""
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(
            *(Text("" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row)
        )
    return made


def sparkline(values: Sequence[float], width: int = _SPARKS) -> str:
    """Values as a row of at most `width` blocks, the least as the lowest of them; what is not finite is left out."""
    finite = [value for value in values if math.isfinite(value)]
    count = min(width, len(finite))
    spans = [finite[place * len(finite) // count : (place + 1) * len(finite) // count] for place in range(count)]
    means = [sum(span) / len(span) for span in spans]
    low, high = min(means, default=0.0), max(means, default=0.0)
    return "".join(_BLOCKS[round((mean - low) / ((high - low) or 1) * (len(_BLOCKS) - 1))] for mean in means)
