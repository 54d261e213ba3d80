"""The layout and the direction of imports, read from the source. Every module must have a layer.

Each test lists what breaks its rule as `file:line what`, and wants an empty list.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("gatefold.__main__",),
    ("gatefold.cli",),
    ("pipelines", "serve"),
    ("gatefold.storage.models",),
    ("gatefold.storage.contents",),
    ("gatefold.storage",),
    ("gatefold.evaluation", "gatefold.export", "gatefold.generator", "gatefold.synthetic"),
    ("gatefold.encoder", "gatefold.index"),
    ("gatefold.audio", "gatefold.client", "gatefold.images"),
    ("gatefold",),
)
"""Packages from the command line down. A module imports from its own package and from the layers below, never from
another package of its layer."""
RAY = ("pipelines", "serve")
FOLDERS = ("gatefold", "pipelines", "serve")
MAX_FILE, MAX_FUNCTION, MAX_MODULES = 400, 50, 13
PROGRAM = re.compile(
    r"^\s*(?:from|import) (?P<module>(?:gatefold|pipelines|serve|benchmarks|tests)[\w.]*)"
    r"(?: import (?P<names>\([^)]*\)|[\w, ]+))?",
    re.MULTILINE,
)
PACKAGES = sorted((package for layer in LAYERS for package in layer), key=len, reverse=True)
DEPTH = {package: depth for depth, layer in enumerate(LAYERS) for package in layer}


def sources(*folders: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py"))


PRODUCT, TESTS = sources(*FOLDERS), sources("tests", "benchmarks")


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


def programs(paths: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(path, "path:line text", name) of every import of our own that stands in a text, for another process to run."""
    for path in paths:
        for node in nodes(path):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            for found in PROGRAM.finditer(text):
                names = [name.split(" as ")[0].strip() for name in (found["names"] or "").strip("()").split(",")]
                where = f"{path}:{getattr(node, 'lineno', 0)} {found[0].strip()}"
                yield from ((path, where, f"{found['module']}.{name}".strip(".")) for name in names)


def calls(paths: Iterable[str]) -> Iterator[tuple[str, str, ast.Call]]:
    """("path:line name", name, call) of every call."""
    for path in paths:
        for node in nodes(path):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                yield f"{path}:{node.lineno} {name}", name, node


def exists(name: str) -> bool:
    """Whether a dotted name is a module or folder of ours, or something defined in one."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = next((m for m in (path.parent.with_suffix(".py"), path.parent / "__init__.py") if m.is_file()), None)
    return module is not None and re.search(rf"\b{path.name}\b", module.read_text()) is not None


def package_of(name: str) -> str | None:
    """The package of LAYERS that a dotted name lies in; None for other people's."""
    return next((package for package in PACKAGES if f"{name}.".startswith(f"{package}.")), None)


def package_of_file(path: str) -> str:
    package = package_of(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert package is not None, f"{path} has no layer"
    return package


def may_import(importer: str, imported: str | None) -> bool:
    return imported in (None, importer) or DEPTH[importer] < DEPTH[str(imported)]


def test_imports_go_down_and_never_sideways() -> None:
    wrong = [where for path, where, name in imports(PRODUCT) if not may_import(package_of_file(path), package_of(name))]
    assert wrong == []


def test_the_layers_name_every_package_and_no_other() -> None:
    folders = {str(Path(path).parent).replace("/", ".") for path in PRODUCT}
    assert {package for package in PACKAGES if package != "gatefold.__main__"} <= folders
    inside = [folder for folder in folders if folder.startswith("gatefold.") and package_of(folder) == "gatefold"]
    assert inside == []


def test_programs_in_texts_import_what_exists() -> None:
    """A module that moved leaves them behind: neither ruff nor mypy reads them."""
    found = list(programs([*PRODUCT, *TESTS]))
    assert len(found) > 10
    assert [where for _, where, name in found if not exists(name)] == []


def test_ray_is_imported_by_pipelines_serve_and_the_command_line_alone() -> None:
    allowed = {"gatefold.cli", *RAY}
    files = [path for path in PRODUCT if package_of_file(path) not in allowed]
    assert [where for _, where, name in imports(files) if name.split(".")[0] == "ray"] == []


def test_the_client_imports_nothing_of_the_rest_and_two_libraries() -> None:
    files = [path for path in PRODUCT if package_of_file(path) == "gatefold.client"]
    own = [(where, name) for _, where, name in imports(files) if package_of(name) == "gatefold.client"]
    others = [(where, name.split(".")[0]) for _, where, name in imports(files) if package_of(name) != "gatefold.client"]
    allowed = {"httpx", "pydantic", *sys.stdlib_module_names}
    assert len(own) > 10
    assert [where for where, name in others if name not in allowed] == []


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


def test_no_module_of_pipelines_or_serve_is_a_script() -> None:
    """A class of a module that runs as `__main__` is another class on a Ray worker."""
    files = [path for path in PRODUCT if package_of_file(path) in RAY]
    scripts = [
        path for path in files for node in nodes(path) if isinstance(node, ast.Constant) and node.value == "__main__"
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


def test_packages_hold_a_docstring_and_what_must_run_first() -> None:
    others = ("gatefold/__init__.py", "gatefold/client/__init__.py")  # a guard; what users of the client import
    packages = [path for path in PRODUCT if path.endswith("__init__.py") and path not in others]
    code = {path: [ast.unparse(node) for node in tree(path).body[1:]] for path in packages}
    guard = {f"{folder}/__init__.py": ["import gatefold"] for folder in RAY}
    assert {path: statements for path, statements in code.items() if statements} == guard


def test_every_folder_has_a_docstring_and_about_twelve_modules_at_most() -> None:
    modules = Counter(str(Path(path).parent) for path in PRODUCT if not path.endswith("__init__.py"))
    assert {folder: count for folder, count in modules.items() if count > MAX_MODULES} == {}
    assert [folder for folder in modules if not (ROOT / folder / "__init__.py").exists()] == []


def test_tests_are_no_packages_which_would_hide_what_they_mirror() -> None:
    assert [path for path in TESTS if path.startswith("tests/") and path.endswith("__init__.py")] == []


def test_every_module_has_a_docstring() -> None:
    assert [path for path in PRODUCT if not ast.get_docstring(tree(path))] == []


def test_no_two_public_classes_have_one_name() -> None:
    """But for those of the client, which are what a program outside sees of the endpoint's."""
    classes = Counter(
        node.name
        for path in PRODUCT
        if package_of_file(path) != "gatefold.client"
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}


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


def test_the_folders_that_the_readme_shows_are_those_there_are() -> None:
    shown = set(re.findall(r"^ {4,}([\w/]+)/ ", (ROOT / "README.md").read_text(), re.MULTILINE))
    there = {str(Path(path).parent) for path in PRODUCT if Path(path).parent.parts}
    assert there <= shown
    assert [folder for folder in shown if not (ROOT / folder).is_dir()] == []
