"""The shape of the source: imports go only downward, files and functions stay small, names mean something.

A failure names file and line.  A new top-level module must be given its place in LAYERS.
"""

from __future__ import annotations

import ast
import functools
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/coracle"

# From the ground up.  A module imports from lower layers and from its own top-level module; siblings are strangers.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("paths", "record", "config"),
    ("bytecode",),
    ("linux",),
    ("step",),
    ("explain", "runtime", "image", "network"),
    ("registry",),
    ("build",),
    ("engine",),
    ("deploy",),
    ("api", "cri"),
    ("cli", "testing"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

FILE_LINES = 600
FUNCTION_LINES = 80
# Path or path::function → reason.  An entry is a debt.
EXCEPTIONS: dict[str, str] = {}

MEANINGLESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def _imports(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported module, absolute, wherever in the file the statement stands."""
    package = ("coracle", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            if base == "coracle":  # "from coracle import paths" imports coracle.paths
                yield from ((node, f"coracle.{alias.name}") for alias in node.names)
            else:
                yield node, base


def _top(module: str) -> str:
    """ "image" of "coracle.image.layer"; nothing for the package itself and what it defines."""
    part = module.split(".")[1] if "." in module else ""
    return part if not part.startswith("__") else ""


def test_every_module_has_a_layer() -> None:
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in _sources()} - {"__init__", "__main__"}
    assert tops <= set(LEVEL), f"give these a place in LAYERS: {sorted(tops - set(LEVEL))}"


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_imports_go_downward(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    problems = []
    for node, module in _imports(path):
        if module.partition(".")[0] != "coracle":
            continue
        other = _top(module)
        if other and other != own and LEVEL.get(other, len(LAYERS)) >= LEVEL[own]:
            problems.append(f"{_place(path, node)}: {own} imports {module}, which is not below it")
    assert not problems, "\n".join(problems)


# In the standard library of a later Python than the oldest that is supported; used where it exists.
LATER = {"_sha2", "compression"}


def _allowed_third_party() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {requirement.split(">")[0].split("=")[0].split("[")[0].strip() for each in lists for requirement in each}
    return {name.replace("-", "_").lower() for name in names}


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_imports_are_declared(path: Path) -> None:
    """The standard library, ourselves, or what pyproject.toml asks for."""
    known = set(sys.stdlib_module_names) | LATER | {"coracle"} | _allowed_third_party()
    problems = [
        f"{_place(path, node)}: imports {module}, which pyproject.toml does not name"
        for node, module in _imports(path)
        if module.partition(".")[0] not in known
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_files_and_functions_are_small(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    problems = []
    lines = len(path.read_text().splitlines())
    if lines > FILE_LINES and name not in EXCEPTIONS:
        problems.append(f"{name}:1: {lines} lines, more than {FILE_LINES}")
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or f"{name}::{node.name}" in EXCEPTIONS:
            continue
        length = _length(node)
        if length > FUNCTION_LINES:
            problems.append(f"{_place(path, node)}: {node.name} has {length} lines, more than {FUNCTION_LINES}")
    assert not problems, "\n".join(problems)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def test_exceptions_are_still_needed() -> None:
    for name in EXCEPTIONS:
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), f"{path} is gone: remove its exception"
        if not function:
            assert len((ROOT / path).read_text().splitlines()) > FILE_LINES, f"{path} is small: remove its exception"
            continue
        nodes = [node for node in ast.walk(_tree(ROOT / path)) if getattr(node, "name", "") == function]
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert any(_length(node) > FUNCTION_LINES for node in functions), f"{name} is small: remove its exception"


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_names_mean_something(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    problems = [f"{path.relative_to(ROOT)}:1: {part!r} says nothing" for part in parts if part in MEANINGLESS]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Util", "Utils")):
            problems.append(f"{_place(path, node)}: class {node.name} says nothing")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_only_the_command_line_prints_and_exits(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("cli", "__main__.py"):
        return
    problems = [
        f"{_place(path, node)}: {ast.unparse(node)[:60]}: only cli/ prints and exits"
        for node in ast.walk(_tree(path))
        if _prints_or_exits(node)
    ]
    assert not problems, "\n".join(problems)


def _prints_or_exits(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise) and node.exc is not None:
        return "SystemExit" in ast.unparse(node.exc)
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    return called in ("print", "input", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write")
