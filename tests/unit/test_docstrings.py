"""All that is public has a docstring; of arrays it says the shape: of arguments in `Args:`, of results anywhere else.

An annotation means an array where it names `Tensor`, `NDArray` or a name that a module of the product gives to one of
these (`Vectors = npt.NDArray[np.float32]`), in that module or in one that imports the name from it. The `forward` of a
torch module may be described by the first line of its class, as in `log_mel [B, M, F] -> features [B, D]`.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("gatefold", "pipelines", "serve")
ARRAYS = frozenset({"Tensor", "NDArray", "ndarray"})
SHAPE = re.compile(r"(?<![\w\"'\]])\[[^\]\[\"']*\]|\bscalars?\b")
"""as in [N, 3, S, S] or [], but not the brackets of dict[str] or batch["pixels"]"""
ENTRY = re.compile(r"^    ((?:[a-z_]\w*)(?:, [a-z_]\w*)*): ", re.MULTILINE)
"""of a section: the name of an argument, or several that share a description"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def names_in(annotation: ast.expr | None) -> Iterator[str]:
    """The last parts of all dotted names in an annotation, but for what follows the type in `Annotated[type, ...]`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Attribute):
        yield annotation.attr
    elif isinstance(annotation, ast.Subscript):
        outer, inner = list(names_in(annotation.value)), annotation.slice
        yield from outer
        if outer == ["Annotated"] and isinstance(inner, ast.Tuple):
            inner = inner.elts[0]
        if outer not in (["Callable"], ["Literal"]):  # a function is no array, whatever it takes and returns
            yield from names_in(inner)
    elif annotation is not None:
        for child in ast.iter_child_nodes(annotation):
            if isinstance(child, ast.expr):
                yield from names_in(child)


@cache
def aliases(path: Path) -> frozenset[str]:
    """The names that mean an array in a module: its own aliases, and those it imports from modules of the product."""
    found = set(ARRAYS)
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript) and found & set(names_in(node.value)):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOLDERS:
            source = ROOT / f"{str(node.module).replace('.', '/')}.py"
            if source.exists():
                found |= {one.asname or one.name for one in node.names if one.name in aliases(source)}
    return frozenset(found)


def public_functions(path: Path) -> Iterator[tuple[str, Function, str]]:
    """("path:line name", function, docstring) of functions and methods whose name, and class's, begin with a letter."""
    module = ast.parse(path.read_text())
    owners: list[tuple[str, ast.Module | ast.ClassDef]] = [("", module)]
    owners += [(f"{node.name}.", node) for node in module.body if isinstance(node, ast.ClassDef)]
    for prefix, owner in owners:
        for node in owner.body:
            if isinstance(node, Function) and not (node.name.startswith("_") or prefix.startswith("_")):
                docstring = ast.get_docstring(node) or ""
                if node.name == "forward" and not docstring:
                    docstring = as_section((ast.get_docstring(owner) or "").split("\n")[0])
                yield f"{path.relative_to(ROOT)}:{node.lineno} {prefix}{node.name}", node, docstring


def as_section(line: str) -> str:
    """Of `log_mel [B, M, F] -> features [B, D]` the docstring that says the same with a section `Args:`."""
    given, _, result = line.partition("->")
    entries = re.findall(r"\b([a-z_]\w*) (\[[^\]]*\])", given)
    return "\n".join([f"{result}\n\nArgs:", *(f"    {name}: {shape}" for name, shape in entries)])


def array_parameters(function: Function, arrays: frozenset[str]) -> list[str]:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [one.arg for one in given if arrays & set(names_in(one.annotation))]


def is_declaration(function: Function) -> bool:
    """Whether it is a method of a protocol without a docstring, `def describe(self) -> Facts: ...`."""
    return [ast.unparse(node) for node in function.body] == ["..."]


def functions_on_arrays() -> Iterator[tuple[str, str, list[str], bool]]:
    """(where, docstring, names of the parameters that are arrays, whether it returns one) of each public function."""
    for path in files():
        for where, function, docstring in public_functions(path):
            parameters = array_parameters(function, aliases(path))
            returns = bool(aliases(path) & set(names_in(function.returns)))
            if (parameters or returns) and not is_declaration(function):
                yield where, docstring, parameters, returns


def arguments(docstring: str) -> dict[str, str]:
    """Name to description, from the section `Args:`; empty where there is none."""
    section = re.split(r"\n(?=\S)", docstring.partition("\nArgs:\n")[2])[0]
    parts = ENTRY.split(section)[1:]
    return {name: text for names, text in zip(parts[::2], parts[1::2], strict=True) for name in names.split(", ")}


def without_arguments(docstring: str) -> str:
    before, _, after = docstring.partition("\nArgs:\n")
    return before + "\n".join(re.split(r"\n(?=\S)", after)[1:])


def undocumented(source: str, module: str) -> Iterator[str]:
    """Public classes, functions and methods without a docstring, own or overridden, each as "module:line name"."""
    for node in ast.parse(source).body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{module}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if not isinstance(one, Function) or one.name.startswith("_"):
                    continue
                if not (ast.get_docstring(one) or overrides(module, node, one.name)):
                    yield f"{module}:{one.lineno} {node.name}.{one.name}"


def overrides(module: str, owner: ast.ClassDef, method: str) -> bool:
    """Whether a class has a base with a method of this name that has a docstring."""
    if not owner.bases:
        return False
    bases = getattr(importlib.import_module(module), owner.name).__mro__[1:]
    return any((base.__dict__[method].__doc__ or "").strip() for base in bases if method in base.__dict__)


def test_all_that_is_public_has_a_docstring() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files()}
    found = [where for module, path in modules.items() for where in undocumented(path.read_text(), module)]
    assert found == []


def test_what_has_no_docstring_is_found() -> None:
    source = """
import io

class Bare:
    def __init__(self): ...
    def method(self): ...
    async def other(self):
        "Documented."
    def _private(self): ...

class File(io.RawIOBase):
    "Documented."
    def readable(self): ...
    def added(self): ...

def function():
    def inner(): ...

class _Private:
    def method(self): ...
"""
    exec(compile(source, "double", "exec"), (double := ModuleType("double")).__dict__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "double", double)
        found = [where.split()[1] for where in undocumented(source, "double")]
    assert found == ["Bare", "Bare.method", "File.added", "function"]


def test_each_array_argument_has_an_entry_with_its_shape() -> None:
    missing = [
        f"{where}({name})"
        for where, docstring, parameters, _ in functions_on_arrays()
        for name in parameters
        if not SHAPE.search(arguments(docstring).get(name, ""))
    ]
    assert missing == []


def test_functions_that_return_arrays_say_their_shape() -> None:
    returning = [(where, docstring) for where, docstring, _, returns in functions_on_arrays() if returns]
    assert [where for where, docstring in returning if not SHAPE.search(without_arguments(docstring))] == []


def test_the_functions_on_arrays_are_found() -> None:
    found = [where.split()[1] for where, *_ in functions_on_arrays()]
    assert len(found) > 100
    assert {"log_mel", "info_nce", "CoverIndex.search", "decode_cover"} <= set(found)
    text = "First.\n\nArgs:\n    a, b: [n]\n        more\n    c: []\n\nReturns: [k]"
    assert {name: entry.split() for name, entry in arguments(text).items()} == {
        "a": ["[n]", "more"],
        "b": ["[n]", "more"],
        "c": ["[]"],
    }
    assert without_arguments(text) == "First.\nReturns: [k]"
