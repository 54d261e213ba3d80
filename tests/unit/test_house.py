"""The rules of the house, read from its source, so that nobody has to remember them.

Each test lists what breaks its rule as `file:line what`, and wants an empty list.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOF, EAST, WEST, STORAGE, GROUND = "roof", "pipelines", "serve", "storage", "ground"
BELOW = {
    ROOF: {ROOF, EAST, WEST, STORAGE, GROUND},
    EAST: {EAST, STORAGE, GROUND},
    WEST: {WEST, STORAGE, GROUND},
    STORAGE: {STORAGE, GROUND},
    GROUND: {GROUND},
}
"""Which floors a floor may import."""
RESIDENTS = dict.fromkeys(
    ("__main__", "generating", "demonstration", "cli", "session", "housekeeping", "planning", "doctor"), ROOF
)
RESIDENTS["storage"] = STORAGE
"""Modules of `gatefold` that do not live on the ground floor."""

MAX_FILE, MAX_FUNCTION = 400, 50


def sources(*folders: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py"))


PRODUCT, TESTS = sources("gatefold", "pipelines", "serve"), sources("tests", "benchmarks")


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


@cache
def nodes(path: str) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def imports(paths: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(path, "path:line name", name) of every import, lazy ones too; `from a import b` has the name `a.b`."""
    for path in paths:
        for node in nodes(path):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
            yield from ((path, f"{path}:{getattr(node, 'lineno', 0)} {name}", name) for name in names)


def calls(paths: Iterable[str]) -> Iterator[tuple[str, str, ast.Call]]:
    """("path:line name", name, call) of every call."""
    for path in paths:
        for node in nodes(path):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                yield f"{path}:{node.lineno} {name}", name, node


def floor(name: str) -> str | None:
    """The floor of a dotted name; None for other people's packages."""
    package, module, *_ = [*name.split("."), ""]
    if package in (EAST, WEST):
        return package
    return RESIDENTS.get(module, GROUND) if package == "gatefold" else None


def floor_of(path: str) -> str:
    home = floor(path.removesuffix(".py").replace("/", "."))
    assert home is not None
    return home


def test_imports_go_down_and_never_sideways() -> None:
    assert [where for path, where, name in imports(PRODUCT) if floor(name) not in (None, *BELOW[floor_of(path)])] == []


def test_nothing_below_imports_the_roof() -> None:
    below = [path for path in PRODUCT if floor_of(path) != ROOF]
    assert [where for _, where, name in imports(below) if floor(name) == ROOF] == []


def test_ray_stays_in_the_wings_and_under_the_roof() -> None:
    floors = [path for path in PRODUCT if floor_of(path) in (GROUND, STORAGE)]
    assert [where for _, where, name in imports(floors) if name.split(".")[0] == "ray"] == []


def test_private_parts_of_ray_are_used_in_one_file_and_bound_the_version() -> None:
    private = [
        where
        for path, where, name in imports(PRODUCT)
        if name.split(".")[0] == "ray" and any(part.startswith("_") for part in name.split("."))
        if path != "serve/ray_private.py"
    ]
    assert private == []
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'"ray\[[\w,]+\]>=2\.60,<2\.61"', project)


def test_imports_are_absolute() -> None:
    assert [where for _, where, name in imports(PRODUCT + TESTS) if name.startswith(".")] == []


def test_no_module_of_the_wings_is_a_script() -> None:
    """A class of a module that runs as `__main__` is another class on a Ray worker."""
    wings = [path for path in PRODUCT if floor_of(path) in (EAST, WEST)]
    scripts = [
        path for path in wings for node in nodes(path) if isinstance(node, ast.Constant) and node.value == "__main__"
    ]
    assert scripts == []


def test_annotations_are_evaluated() -> None:
    """Ray Serve reads the builder's annotation; as a string it would switch validation off without a word."""
    assert [where for _, where, name in imports(PRODUCT) if name == "__future__.annotations"] == []


def test_nothing_that_could_run_code_is_read() -> None:
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    imported = [where for _, where, name in imports(PRODUCT) if name.split(".")[0] in pickles]
    safe = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    loads = [(where, safe[name], call.keywords) for where, name, call in calls(PRODUCT) if name in safe]
    unsafe = [where for where, wanted, given in loads if wanted not in [ast.unparse(keyword) for keyword in given]]
    assert imported + unsafe == []


def test_packages_hold_only_what_must_run_first() -> None:
    packages = [path for path in PRODUCT if path.endswith("__init__.py") and path != "gatefold/__init__.py"]
    code = {path: [ast.unparse(node) for node in tree(path).body[1:]] for path in packages}
    guard = {f"{wing}/__init__.py": ["import gatefold"] for wing in (EAST, WEST)}
    assert {path: statements for path, statements in code.items() if statements} == guard


def test_tests_are_no_packages_which_would_shadow_what_they_mirror() -> None:
    assert [path for path in TESTS if path.startswith("tests/") and path.endswith("__init__.py")] == []


def test_every_module_says_what_it_is() -> None:
    modules = [path for path in PRODUCT if path != "gatefold/storage/__init__.py"]
    assert [path for path in modules if not ast.get_docstring(tree(path))] == []


def test_files_stay_short() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in PRODUCT + TESTS}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def test_functions_stay_short() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in PRODUCT
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}


def test_what_the_readme_shows_of_the_tree_is_there() -> None:
    tree_of_readme = (ROOT / "README.md").read_text().split("## Where things are")[1].split("\n\n")[1]
    shown = re.findall(r"[\w/-]+\.(?:py|toml|lock|yaml|csv)\b|[\w/]+/", tree_of_readme)
    folders = ("gatefold", "pipelines", "serve", "tests", "infra")
    there = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*")]
    there += [path.name for path in ROOT.iterdir()]
    ends = {"/".join(path.split("/")[-depth:]) for path in there for depth in (1, 2, 3)}
    assert len(shown) > 40
    assert [name for name in shown if name.rstrip("/") not in ends] == []
