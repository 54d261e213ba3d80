"""The table of error codes in docs/api.md, which is made from `gatefold.errors`: the first line of each docstring."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from gatefold.errors import GatefoldError

API = Path(__file__).parents[4] / "docs" / "api.md"
_BEGIN, _END = "<!-- made from gatefold/errors.py -->\n", "<!-- until here -->\n"


def kinds(kind: type[GatefoldError] = GatefoldError) -> Iterator[type[GatefoldError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == GatefoldError.__module__:
            yield from kinds(child)


def table() -> str:
    ordered = sorted(kinds(), key=lambda kind: (kind.status, kind.code))
    lines = ["| status | `code` | again? | when |", "|---:|---|---|---|"]
    for kind in ordered:
        again = "yes" if kind.retryable else ""
        said = (inspect.getdoc(kind) or "").splitlines()[0].rstrip(".")
        lines.append(f"| {kind.status} | `{kind.code}` | {again} | {said} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_errors_is_that_of_the_code() -> None:
    _, _, rest = API.read_text().partition(_BEGIN)
    found, end, _ = rest.partition(_END)
    assert end, f"docs/api.md lacks {_BEGIN!r} or {_END!r}"
    assert found == table()


def test_every_code_is_there_once() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(set(codes)) == len(codes) > 40
