"""The tutorials' notebooks: they are what their pages say, and run to their end as they stand."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from supernet.model import load_network
from tests import notebooks, pages
from tests.notebooks import NOTEBOOKS
from tests.pages import ROOT


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_notebook_is_what_its_page_says(page):
    """``python -m tests.notebooks`` writes them."""
    assert notebooks.path(page).read_text(encoding="utf-8") == notebooks.text(page)
    nbformat.validate(nbformat.read(notebooks.path(page), 4))
    told = re.search(r"\[This page as a notebook\]\(([^)]+)\)", (pages.DOCS / page).read_text(encoding="utf-8"))
    assert told
    assert (pages.DOCS / page).parent.joinpath(told[1]).resolve() == notebooks.path(page)


def test_every_command_of_a_page_is_in_its_notebook():
    for page in NOTEBOOKS:
        cells = "\n".join("".join(cell["source"]) for cell in notebooks.notebook(page)["cells"])
        for command in pages.commands(page):
            assert cells.count(f"tools/{command.tool}.py") or command.tool in cells, command


def run(page: str, folder: Path) -> dict[str, str]:
    """Run a notebook as one who opens it in a clone does; what each cell printed. A command that fails ends it."""
    place = folder / "docs" / "tutorials"
    place.mkdir(parents=True)
    for name in ("tools", "examples"):
        (folder / name).symlink_to(ROOT / name)
    book = nbformat.read(notebooks.path(page), 4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        cell.source = re.sub(r"^(!.*)$", r"\1\nassert _exit_code == 0", cell.source, flags=re.MULTILINE)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    return {cell.source: "".join(output.get("text", "") for output in cell.outputs) for cell in code}


@pytest.mark.chain
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_the_notebook_runs(page, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # whose python the cells call
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    told = run(page, tmp_path)
    runs = tmp_path / "runs"
    if page == "tutorials/phone.md":
        result = json.loads((runs / "pets" / "best" / "result.json").read_text())
        (predicted,) = (text for source, text in told.items() if "tools/predict.py" in source)
        accuracy = f"{100 * result['test_accuracy']:.2f} %"
        assert predicted.count(accuracy) == 2, predicted  # by predict.py and by deploy.py
    if page == "own-network.md":
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        make = __import__("my_network").network
        assert len(load_network(runs / "mine" / "best", make=make).plain().state_dict())
        del sys.modules["my_network"]  # other tests have files of that name
        assert {path.suffix for path in (runs / "mine").glob("best.*")} == {".onnx", ".py", ".pt", ".json"}
