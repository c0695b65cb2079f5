"""A kill at any moment costs nothing: every tool, killed before a file operation, ends with the same files.

The same command again must end with what a run gives that nobody killed, bit for bit, and leave nothing besides.
SUPERNET_CRASHES=N is the number of kills over all tools; `make test-long` takes 500.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernet import families
from supernet.runs import RunFolder
from tests.conftest import tiny_space
from tests.forks import forks
from tests.test_face_nas import write_pairs
from tests.test_latency_table import samples, table

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("SUPERNET_CRASHES", 52))
CLOCK = {"images_per_second", "seconds", "whole", "minutes"}  # what the clock says
IMAGES = ("--data", "digits", "--limit", 96, "--batch-size", 32, "--quiet", "--device", "cpu")
SEARCH = (
    "--population",
    3,
    "--iterations",
    2,
    "--random",
    2,
    "--recalibration",
    1,
    32,
    "--val-limit",
    32,
    "--workers",
    1,
    "--quiet",
    "--objectives",
    "flops",
)


@dataclass(frozen=True)
class Tool:
    """A command, in a folder that earlier commands have filled.

    ``{run}``, ``{space}``, ``{residual}``, ``{lut}``, ``{faces}`` in its arguments are paths.
    """

    name: str
    arguments: Sequence[object]
    before: tuple[str, ...] = ()


TOOLS = {
    "spos": Tool("train_supernet", ("--run", "{run}", "--space", "{space}", *IMAGES, "--epochs", 2)),
    "dsnas": Tool(
        "train_supernet", ("--method", "dsnas", "--run", "{run}", "--space", "{space}", *IMAGES, "--epochs", 2)
    ),
    "nss": Tool(
        "train_supernet",
        ("--method", "nss", "--run", "{run}", "--space", "{residual}", *IMAGES, "--epochs", 2, "--batch-size", 16),
    ),
    "evolve": Tool("evolve", ("--run", "{run}", *SEARCH), ("spos",)),
    "retrain": Tool(
        "retrain",
        ("--run", "{run}", "--epochs", 1, "--limit", 96, "--batch-size", 32, "--controls", 1, "--jobs", 1, "--quiet"),
        ("spos", "evolve"),
    ),
    "rank": Tool(
        "rank",
        (
            "--run",
            "{run}",
            "--n",
            3,
            "--epochs",
            1,
            "--limit",
            96,
            "--batch-size",
            32,
            "--jobs",
            1,
            "--quiet",
            "--recalibration",
            1,
            32,
        ),
        ("spos",),
    ),
    "export": Tool(
        "export",
        ("--run", "{run}", "--pick", "best", "--output", "{run}/best.pt2", "--no-timed"),
        ("spos", "evolve", "retrain"),
    ),
    "specialise": Tool(
        "specialise",
        ("--run", "{run}", *SEARCH[:4], *SEARCH[6:-2], "--lut", "{lut}:9", "--lut", "{lut}", "--export", "pt2"),
        ("spos",),
    ),
    "report": Tool("report", ("--run", "{run}"), ("spos", "evolve", "retrain")),
    "pad_nas": Tool("pad_nas", ("--run", "{run}", "--space", "{space}", *IMAGES, "--epochs", 1, 1, *SEARCH)),
    "stage_wise": Tool(
        "stage_wise",
        ("--run", "{run}", *IMAGES, "--width", 4, "--initial", 1, "--iterations", 1, "--epochs", 1, "--jobs", 1),
    ),
    "global_nas": Tool(
        "global_nas",
        ("--run", "{run}", *IMAGES, "--depth", 3, 3, "--width", 4, 8, "--epochs", 1, "--final-epochs", 1),
    ),
    "face_nas": Tool(
        "face_nas",
        (
            "--faces",
            "{faces}",
            "--pairs",
            "{faces}.txt",
            "--run",
            "{run}",
            "--depth",
            12,
            12,
            "--width",
            4,
            4,
            "--epochs",
            1,
            "--resolution",
            16,
            "--batch-size",
            16,
            "--final-epochs",
            1,
            "--quiet",
            "--device",
            "cpu",
        ),
    ),
}


class Server:
    """Runs tools in forks, with the files that they need below ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, tool: Tool, run: Path, last: int | None = None) -> tuple[int, int]:
        """Exit code, and number of file operations of a run to the end; killed before operation ``last``."""
        paths = {"space": "tiny.json", "residual": "residual.json", "faces": "faces", "lut": "lut.json"}
        at = {"run": run} | {word: self.folder / path for word, path in paths.items()}
        arguments = [str(word).format(**at) for word in tool.arguments]
        result = forks().run(tool.name, *arguments, folder=run, last=last)
        assert result.returncode in (0, 137), result.stdout + result.stderr
        return result.returncode, result.operations


def without_clock(data: object) -> object:
    """JSON data without what the clock says."""
    if isinstance(data, dict):
        return {key: without_clock(value) for key, value in data.items() if key not in CLOCK}
    return [without_clock(value) for value in data] if isinstance(data, list) else data


def content(path: Path) -> object:
    """What a file holds, comparable."""
    if path.suffix == ".json":
        return without_clock(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_clock(json.loads(line)) for line in path.read_text().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def snapshot(run: Path) -> dict[str, object]:
    """All files of a run but the lock; of a page not its numbers, which have the time of day."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): content(path) for path in files if path.suffix not in (".html", ".pt2")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    space = dataclasses.replace(tiny_space(), resolution=28)
    (folder / "tiny.json").write_text(json.dumps(space.to_json()))
    layers = {spec.key: samples(2.0) for spec in families.layout(space).every() if spec.runs}
    of = {"name": space.name, "fingerprint": space.fingerprint}
    (folder / "lut.json").write_text(json.dumps(table(space=of, operations=layers).to_json()))
    shutil.copy(ROOT / "tests" / "data" / "v0.1" / "nss" / "space.json", folder / "residual.json")
    rng = np.random.default_rng(0)
    for person in range(16):
        for number in range(6):
            path = folder / "faces" / f"p{person}" / f"p{person}_{number + 1:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    write_pairs(folder / "faces", folder / "faces.txt", 5)
    return Server(folder)


@pytest.fixture(scope="module")
def whole(server):
    """By tool: the run before the command, the run after it, and how many file operations it took."""
    known: dict[str, tuple[Path, dict[str, object], int]] = {}

    def make(name: str) -> tuple[Path, dict[str, object], int]:
        if name not in known:
            tool = TOOLS[name]
            before = server.folder / f"{name}-before"
            if tool.before:
                make(tool.before[-1])
                shutil.copytree(server.folder / tool.before[-1], before)
            run = server.folder / name
            work = server.folder / "run"
            shutil.rmtree(work, ignore_errors=True)
            if before.exists():
                shutil.copytree(before, work)
            code, operations = server.run(tool, work)
            assert code == 0
            known[name] = before, snapshot(work), operations
            work.rename(run)
        return known[name]

    return make


QUICK = ("spos", "evolve", "retrain")  # one after the other; the whole set takes minutes


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.chain) for name in TOOLS]
)
def test_a_kill_costs_nothing(server, whole, name):
    before, wanted, operations = whole(name)
    rng = random.Random(f"{name} {KILLS}")
    kills = sorted(rng.sample(range(operations), min(operations, -(-KILLS // len(TOOLS)))))
    work = server.folder / "run"
    for last in kills:
        shutil.rmtree(work, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, work)
        code, _ = server.run(TOOLS[name], work, last)
        assert code == 137, last
        server.run(TOOLS[name], work)
        found = snapshot(work)
        different = {path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path)}
        assert not different, f"killed before operation {last} of {operations}: {sorted(different)}"
    shutil.rmtree(work, ignore_errors=True)


@pytest.mark.chain
@pytest.mark.parametrize("name", TOOLS)
def test_a_restart_finds_all_that_a_tool_writes(server, whole, name):
    whole(name)
    run = RunFolder(shutil.copytree(server.folder / name, server.folder / "run"))
    # The output of an export is the user's, with what lies beside it.
    own = {"best.pt2", "best.safetensors", "deploy.py", "pictures.py", "README.md"} if name == "export" else set()
    run.delete()
    assert {path.name for path in run.path.iterdir()} <= own | {".lock"}
    shutil.rmtree(run.path)
