"""The documents against the repository: their links, paths, verbs and options are there.

Each test lists what is wrong as `file: what`, and wants an empty list.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from gatefold.cli.main import app

ROOT = Path(__file__).parents[2]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
README_LINES = 150
_FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4,}\S.*$", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
_CALL = re.compile(r"(?<![\w./'-])(?:\.venv/bin/)?gatefold((?:[ \t]+[^\s;|&]+)+)")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def prose(page: str) -> str:
    """The page without its blocks of code."""
    return _INDENTED.sub("", _FENCED.sub("", text(page)))


def code(page: str) -> list[str]:
    """Lines of the blocks of code, without comments, and spans of code in one line each."""
    fenced = _FENCED.findall(text(page))
    blocks = [line for block in fenced for line in block.splitlines()] + _INDENTED.findall(_FENCED.sub("", text(page)))
    return [line.split("  #")[0] for line in blocks] + [" ".join(span.split()) for span in _SPAN.findall(prose(page))]


def headings(page: str, *levels: int) -> list[str]:
    """Anchors of the headings of these levels, as GitHub makes them."""
    found = [(len(marks), title) for marks, title in _HEADING.findall(_FENCED.sub("", text(page)))]
    return [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for level, t in found if level in levels]


def calls(page: str) -> Iterator[list[str]]:
    """The words behind `gatefold` wherever the page shows it as code."""
    for line in code(page):
        for found in _CALL.finditer(line.replace("'gatefold ", " gatefold ")):
            yield [word.strip("'\"`,.)") for word in found[1].split()]


def options_of(command: Any) -> dict[str, bool]:
    """By name, whether an option takes a value. Some releases of typer have a click of their own: no class is asked."""
    known = [one for one in command.params if one.param_type_name == "option"]
    named = {name: not one.is_flag for one in known for name in (*one.opts, *one.secondary_opts)}
    return {**named, "--help": False, "-h": False}


def faults_of(words: list[str]) -> list[str]:
    """What is wrong with the words of a call: an unknown verb, or an option that neither it nor gatefold has."""
    root: Any = typer.main.get_command(app)
    command, shared = root, options_of(root)
    faults, waiting = [], iter(words)
    for word in waiting:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            known = shared | options_of(command)
            if name not in known:
                faults.append(f"{command.name or 'gatefold'} has no option {name}")
            elif known[name] and not value:
                next(waiting, None)
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return [*faults, f"'{word}' is no verb of {command.name or 'gatefold'}"]
            command = command.commands[word]
    return faults


def looks_like_a_path(word: str, entries: set[str]) -> bool:
    first, slash, _ = word.partition("/")
    plain = re.fullmatch(r"[\w.*/-]+", word) is not None
    return plain and ((bool(slash) and first in entries) or (not slash and word.endswith(".py")))


def test_the_readme_fits_on_two_screens() -> None:
    assert len(text("README.md").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    wrong = []
    for link in _LINK.findall(text(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        there = path.exists() and path.is_relative_to(ROOT)
        if not there or (anchor and anchor not in headings(path.relative_to(ROOT).as_posix(), 1, 2, 3)):
            wrong.append(f"{page}: {link}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_repository_exist(page: str) -> None:
    entries = {path.name for path in ROOT.iterdir()}
    words = {word for line in code(page) for word in line.split()}
    named = sorted(word for word in words if looks_like_a_path(word, entries) and not word.startswith(".venv/"))
    assert [f"{page}: {word}" for word in named if not any(ROOT.glob(word.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_options_are_those_of_the_command_line(page: str) -> None:
    assert [f"{page}: gatefold {' '.join(words)}: {fault}" for words in calls(page) for fault in faults_of(words)] == []


@pytest.mark.parametrize("page", DOCS)
def test_a_table_of_contents_comes_first_and_names_every_section(page: str) -> None:
    before = text(page).partition("\n## ")[0]
    assert [link.removeprefix("#") for link in _LINK.findall(before) if link.startswith("#")] == headings(page, 2)


def test_what_is_wrong_is_found() -> None:
    assert faults_of(["draw", "song.ogg"]) == ["'draw' is no verb of gatefold"]
    assert faults_of(["rejects", "show"]) == ["'show' is no verb of rejects"]
    assert faults_of(["--set", "a=1", "plan", "songs", "--sogns", "3"]) == ["plan has no option --sogns"]
    assert faults_of(["generate", "song.ogg", "-n", "4", "-o", "out", "--workspace", "w", "--json"]) == []
    assert looks_like_a_path("serve/api/absent.py", {"serve"})
    assert looks_like_a_path("absent.py", {"serve"})
    assert not looks_like_a_path("reports/evaluation.md", {"serve"})
    assert list(calls("README.md"))
