"""The tutorials as notebooks, made from their pages: ``python -m tests.notebooks`` writes docs/tutorials/*.ipynb.

A notebook has the text of its page, and the commands as cells. Each command gets a few options more, told in the first
cell, so that all of it runs within minutes on the CPU; emptied, they leave the commands as the page has them.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import pages
from tests.pages import COMMANDS, DOCS, Command

FOLDER = DOCS / "tutorials"
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
PICTURES = {"evolve": "front.png", "specialise": "specialised/networks.png", "retrain": "best/confusion.png"}
DIGITS = "--data digits --limit 300 --batch-size 32"
ROUNDS = "--rounds 10 --check-archs 2"
TABLE = f"--runtime torch {ROUNDS}"
SEARCH = "--population 8 --iterations 2 --random 8 --val-limit 60"
ALONE = "--epochs 2 --limit 300 --batch-size 32 --jobs 1"
PETS = """# Digits of scikit-learn as files, in place of yours
from pathlib import Path

from PIL import Image as Picture
from sklearn.datasets import load_digits

digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images[:600], digits.target)):
    folder = Path("pets", "train" if number < 450 else "val", f"digit-{label}")
    folder.mkdir(parents=True, exist_ok=True)
    Picture.fromarray((15 * pixels).astype("uint8")).resize((32, 32)).save(folder / f"{number}.png")"""
MINE = """import torch

from my_network import network

torch.save(network(10).state_dict(), "mine.pt")  # in place of a training that you did"""
FEW = """# The depths and the widths of the second stage, so that five tables take seconds
import json
from pathlib import Path

from supernet import spaces

space = spaces.get("elastic-small", 1, 28, 10)
few = [
    choices if "depth" in gene.name or gene.name == "stage2.width" else choices[-1:]
    for gene, choices in zip(space.genes, space.allowed)
]
Path("few.json").write_text(json.dumps(space.restrict(few).to_json()));"""
NARROW = """torchvision.models.MobileNetV2(
        classes,  # and small, so that the table of its layers takes seconds
        inverted_residual_setting=[(1, 16, 1, 2), (1, 16, 1, 2), (1, 24, 1, 2), (1, 32, 1, 2)],
    )"""


@dataclass(frozen=True)
class Notebook:
    """What a notebook has besides its page.

    Attributes:
        small: options that make a command quick, by its name.
        before: cells that stand before a block that begins so, in place of what a reader has.
        instead: pieces of Python, and what takes their place.
        text: what is in blocks that stay text, as they need what is not here.
    """

    small: Mapping[str, str]
    before: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    text: str = r"--workers-on ray"


SMALL = {"train_supernet": f"{DIGITS} --epochs 2", "build_lut": TABLE, "evolve": SEARCH, "retrain": ALONE}
FILES = "--resolution 32 --batch-size 32 --workers 1"
ALONE_ON_FILES = "--epochs 2 --batch-size 32 --jobs 1"
NOTEBOOKS = {
    "tutorials/phone.md": Notebook(
        {
            **SMALL,
            "train_supernet": f"--space mobile-small {FILES} --epochs 2",
            "build_lut": ROUNDS,
            "retrain": ALONE_ON_FILES,
        },
        {"python tools/check_data.py": PETS},
        text=r"--device (adb|ssh)",
    ),
    "own-network.md": Notebook(
        {
            **SMALL,
            "count": "--resolution 32",
            "train_supernet": f"{FILES} --channels 3 --epochs 1",
            "retrain": ALONE_ON_FILES,
        },
        {"python tools/count.py": MINE, "python tools/train_supernet.py": PETS},
        {
            "import torchvision\n": "%%writefile my_network.py\nimport torchvision\n",
            "torchvision.models.mobilenet_v2(weights=None, num_classes=classes)": NARROW,
            "from best import": 'import sys\n\nsys.path.append("runs/mine")\nfrom best import',
        },
    ),
    "tutorials/five-devices.md": Notebook(
        {
            **SMALL,
            "train_supernet": f"--space few.json {DIGITS} --epochs 2",
            "specialise": "--population 8 --iterations 1 --val-limit 60 --export pt2",
        },
        {"python tools/train_supernet.py": FEW},
    ),
    "tutorials/own-operation.md": Notebook(SMALL),
    "tutorials/compare.md": Notebook({**SMALL, "rank": f"--n 4 {ALONE}"}),
    "tutorials/cluster.md": Notebook(SMALL),
}


def path(page: str) -> Path:
    """The notebook of a page."""
    return FOLDER / f"{Path(page).stem}.ipynb"


def notebook(page: str) -> dict[str, Any]:
    """A page as a notebook, in its format 4.5."""
    cells = [
        {**cell, "id": hashlib.sha256(f"{page} {at}".encode()).hexdigest()[:8]}
        for at, cell in enumerate(cells_of(page))
    ]
    language = {"name": "python"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": language},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cells_of(page: str) -> list[dict[str, Any]]:
    """Text, then code, in the order of the page."""
    made: list[dict[str, Any]] = []
    text, at = (DOCS / page).read_text(encoding="utf-8"), 0
    for fence in pages.FENCE.finditer(text):
        before, (_, language, block) = text[at : fence.start()], fence.groups()
        at = fence.end()
        made += prose(page, before)
        if len(made) == 1:
            made.append(code(opening(page)))
        made += block_cells(page, language, block, fence.group())
    return [*made, *prose(page, text[at:])]


def opening(page: str) -> str:
    """The first cell of code: where commands run, and what makes them quick."""
    lines = [f'{tool} = "{words}"' for tool, words in NOTEBOOKS[page].small.items()]
    return "\n".join(
        [
            "%cd -q ../..",
            "from IPython.display import Image",
            "",
            "# What each command gets besides, so that it is quick. Empty a text for the true size.",
            *lines,
        ]
    )


def prose(page: str, text: str) -> list[dict[str, Any]]:
    """A cell of text, whose links lead from the notebook to where those of the page lead."""
    here = posixpath.dirname(page)

    def moved(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(posixpath.join('docs', here, match[1]), 'docs/tutorials')}"

    lines = [line for line in text.strip().splitlines() if not line.startswith("[This page as a notebook]")]
    text = LINK.sub(moved, "\n".join(lines).strip())
    return [cell("markdown", text)] if text else []


def block_cells(page: str, language: str, block: str, fence: str) -> Iterator[dict[str, Any]]:
    """The cells of one block."""
    extra = NOTEBOOKS[page]
    for begin, before in extra.before.items():
        if block.startswith(begin):
            yield code(before)
    if language == "python":
        for old, new in extra.instead.items():
            block = block.replace(old, new)
        yield code(block)
    elif language or re.search(extra.text, block):
        yield cell("markdown", fence)
    else:
        commands = pages.within(block)
        yield code("\n".join(line(command, extra.small) for command in commands))
        last = commands[-1]
        if last.tool in PICTURES:
            run = last.words[last.words.index("--run") + 1]
            yield code(f'Image("{run}/{PICTURES[last.tool]}")')


def line(command: Command, small: Mapping[str, str]) -> str:
    """A command as a cell has it; devices that are not here are this machine."""
    tool, words = pages.local(command)
    program = f"python tools/{tool}.py" if tool in COMMANDS else tool
    started = next((Path(word).stem for word in words if word.startswith("tools/")), tool)  # by torchrun
    more = f"{{{started}}}" if started in small else ""
    return " ".join(filter(None, ["!" + program, shlex.join(words), more]))


def code(source: str) -> dict[str, Any]:
    """A cell that is run."""
    return {**cell("code", source), "execution_count": None, "outputs": []}


def cell(kind: str, source: str) -> dict[str, Any]:
    return {"cell_type": kind, "metadata": {}, "source": source.rstrip("\n").splitlines(keepends=True)}


def text(page: str) -> str:
    """A notebook as its file holds it."""
    return json.dumps(notebook(page), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name in NOTEBOOKS:
        path(name).write_text(text(name), encoding="utf-8")
        print(path(name))
