"""The directions of imports, as ARCHITECTURE.md has them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("supernet", "search", "latency", "tools", "tests")
ALLOWED = {
    "supernet": {"supernet"},
    "latency": {"latency", "supernet"},
    "search": {"search", "supernet"},
    "tools": {"tools", "supernet", "search", "latency"},
}
TORCH_FREE = (
    "supernet.space",
    "supernet.spaces",
    "supernet.errors",
    "supernet.plugins",
    "search.nsga2",
    "search.costs",
    "search.ask_tell",
    "search.ces",
    "search.evolution",
    "search.efficient_global",
    "search.drawing",
    "search.verification",
    "search.stage_wise",
)
DRAWING = ("search.front", "search.ranking", "search.distribution")
LATENCY = ("latency.table", "latency.measure", "latency.agent", "latency.bundle")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_in_one_direction(package):
    files = sorted((ROOT / package).glob("*.py"))
    assert files
    for file in files:
        used = {name.split(".")[0] for name in imported(file)} & set(PACKAGES)
        assert used <= ALLOWED[package], file


def test_only_ops_imports_the_extension():
    users = [f for package in ALLOWED for f in (ROOT / package).glob("*.py") if "supernet._C" in imported(f)]
    assert [f.name for f in users] == ["ops.py"]


@pytest.mark.parametrize("module", [*TORCH_FREE, *DRAWING, *LATENCY])
def test_torch_free_modules(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_product_stands_alone():
    """Nothing refers to a folder outside of the repository."""
    for file in (f for package in PACKAGES for f in (ROOT / package).rglob("*.py")):
        assert ".." + "/shared" not in file.read_text(), file
