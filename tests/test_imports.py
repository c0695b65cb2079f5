"""The directions of imports, as ARCHITECTURE.md has them; no circles; what needs no PyTorch; the size of modules."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 400  # lines of a module
# A package and what it may import of ours, itself aside. Some packages within supernet join it with the others.
ALLOWED = {
    "supernet": set(),
    "search": {"supernet"},
    "latency": {"supernet"},  # search and latency do not know each other
    "supernet.report": {"supernet", "search", "latency"},
    "supernet.cli": {"supernet", "supernet.report", "search", "latency"},
    "experiments": {"supernet", "search", "latency", "supernet.cli"},  # how a command starts, never the commands
    "tools": {"supernet", "search", "latency", "supernet.cli"},
}
TORCH_FREE = (
    "supernet.data",
    "supernet.data.pictures",
    "supernet.data.preparation",
    "supernet.errors",
    "supernet.export.card",
    "supernet.files",
    "supernet.plugins",
    "supernet.progress",
    "supernet.run_files",
    "supernet.space",
    "supernet.spaces",
    "supernet.spec",
    "supernet.training.energy",
    "supernet.training.plan",
    "search.algorithms",
    "search.ask_tell",
    "search.ces",
    "search.costs",
    "search.distribution",
    "search.drawing",
    "search.dynamic_ranking",
    "search.efficient_global",
    "search.evolution",
    "search.front",
    "search.nsga2",
    "search.ranking",
    "search.stage_wise",
    "search.verification",
    "latency.agent",
    "latency.bundle",
    "latency.measure",
    "latency.table",
)
COMMANDS = tuple(f"supernet.cli.{path.stem}" for path in sorted((ROOT / "supernet" / "cli").glob("[a-z]*.py")))
SLOW = ("torch", "numpy", "scipy", "sklearn", "matplotlib")  # what no command imports to say how it is used


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours that is imported by its whole name, with its file."""
    found = {}
    for package in ("supernet", "search", "latency", "experiments", "tools"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_of(module: str) -> str:
    """The key of ``ALLOWED`` that a module belongs to."""
    first, *rest = module.split(".")
    inner = f"{first}.{rest[0]}" if rest else first
    return inner if inner in ALLOWED else first


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that run at some time: all but what stands under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from (other, *running(other))
            continue
        yield node
        yield from running(node)


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules that a file imports, at its top or in its functions, by their whole names."""
    names = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in modules() or whole == "supernet._C" else node.module)
    return frozenset(names)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each sorted; a node that leads to itself is one."""
    reached = {node: set(others) for node, others in graph.items()}
    for middle in graph:  # Warshall's closure
        for node in graph:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    groups = {tuple(sorted({node} | {o for o in reached[node] if node in reached[o]})) for node in graph}
    return [list(group) for group in sorted(groups) if group[0] in reached[group[0]]]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_in_one_direction(package):
    own = {name: path for name, path in modules().items() if package_of(name) == package}
    assert own
    for name, path in own.items():
        others = {package_of(other) for other in imported(path) if other.split(".")[0] in ALLOWED} - {package}
        assert others <= ALLOWED[package], f"{name} imports {sorted(others - ALLOWED[package])}"
        assert not {other for other in imported(path) if other.split(".")[0] == "tests"}, name


def test_experiments_have_of_the_commands_how_they_start_and_print_alone():
    own = {other for name, path in modules().items() if package_of(name) == "experiments" for other in imported(path)}
    assert {name for name in own if package_of(name) == "supernet.cli"} == {
        f"supernet.cli.{of}" for of in ("printing", "starting")
    }


def test_no_module_imports_itself_by_way_of_others():
    library = {name for name in modules() if name.split(".")[0] in ("supernet", "search", "latency")}
    graph = {name: imported(modules()[name]) & library for name in library}
    assert circles(graph) == []


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}) == [["a", "b", "c"], ["e"]]


def test_imports_in_functions_count_and_those_for_types_do_not(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from supernet import files\n"
        "if TYPE_CHECKING:\n    from supernet import runs\nelse:\n    import search.ces\n"
        "def function():\n    from supernet.errors import UserError\n    import latency.table as table\n"
    )
    expected = {"typing", "supernet.files", "search.ces", "supernet.errors", "latency.table"}
    assert imported(path) == expected


def test_only_ops_and_its_shapes_import_the_extension():
    users = {name for name, path in modules().items() if "supernet._C" in imported(path)}
    assert users == {"supernet.ops", "supernet.shape_inference"}


def loaded_by(module: str, names: tuple[str, ...]) -> str:
    """Those of ``names`` that importing a module loads, in a fresh process."""
    code = f"import sys, {module}; print(*[name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_free_modules(module):
    assert loaded_by(module, ("torch",)) == ""


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_say_how_they_are_used_at_once(module):
    assert loaded_by(module, SLOW) == ""


@pytest.mark.parametrize("package", ALLOWED)
def test_modules_stay_short(package):
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long = {name: n for name, n in lengths.items() if package_of(name) == package and n > LONGEST}
    assert long == {}


def test_the_product_stands_alone():
    """Nothing refers to a folder outside of the repository."""
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    for file in files:
        assert ".." + "/shared" not in file.read_text(), file
