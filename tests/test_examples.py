"""The examples run as they stand, their references work, and their objects survive worker processes."""

import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet import families, spaces
from supernet.data import sets
from supernet.model import load_network
from supernet.space import Space

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def plain_path(monkeypatch):
    """The path and the modules as they were, whatever an example adds."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("own_space", "own_data"):
        sys.modules.pop(name, None)


def run_example(name: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_another_process(call, *arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result(120)


@pytest.mark.chain
def test_own_space(tmp_path, plain_path):
    found = re.search(r"(.*): (\S+) ms, (\S+) %", run_example("own_space", tmp_path))
    operations = spaces.operations(f"{EXAMPLES}/own_space.py:space")
    network = load_network(tmp_path / "runs" / "own_space" / "best", operations=operations)
    assert network.space.describe(network.arch) == found[1]
    assert 0 < float(found[2]) < 100
    assert float(found[3]) > 20  # of ten digits
    assert len((EXAMPLES / "own_space.py").read_text().splitlines()) <= 60


@pytest.mark.chain
def test_own_data(tmp_path):
    found = re.search(r"(\S+) % of 36 images: circle, square, triangle", run_example("own_data", tmp_path))
    assert float(found[1]) > 40  # of three shapes


def output(space, arch):
    torch.manual_seed(0)
    network = families.layout(space).pick(arch)[1].build(kernels="eager").eval()
    return network(torch.ones(1, 8, 14, 14)).detach()


def test_the_space_goes_to_other_processes(plain_path):
    space = spaces.get(f"{EXAMPLES}/own_space.py:space", 3, 32, 7)
    assert (space.channels, space.resolution, space.classes) == (3, 32, 7)
    arch = (2, 0, 1, 2)
    assert torch.equal(in_another_process(output, space, arch), output(space, arch))


def served(images):
    return next(images.batches(5, seed=0, epoch=0, augment=True, drop_last=True))


def test_the_images_go_to_other_processes(plain_path):
    data = sets.open_train(f"{EXAMPLES}/own_data.py:images", Path("data"))
    assert (data.class_names, data.channels, data.resolution) == (("circle", "square", "triangle"), 1, 20)
    for here, there in zip(served(data.train), in_another_process(served, data.train), strict=True):
        assert torch.equal(here, there)
    test = sets.open_test(f"{EXAMPLES}/own_data.py:images", Path("data"))
    assert np.bincount(test.labels).tolist() == [40, 40, 40]


def test_the_page_on_spaces_has_a_file_that_loads(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "small.json").write_text(block)
    space = spaces.get(str(tmp_path / "small.json"), 1, 28, 10)
    assert space.size == 27
    assert "fingerprint" not in json.loads(block)
    (tmp_path / "written.json").write_text(json.dumps(space.to_json()))
    assert Space.load(tmp_path / "written.json") == space


def test_the_fields_of_the_page_are_those_of_a_space():
    page = (ROOT / "docs" / "spaces.md").read_text(encoding="utf-8")
    table = page[page.index("| field |") : page.index("Operations for such")]
    named = {name for row in table.strip().splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    fields = set(importlib.import_module("supernet.space").Space.__dataclass_fields__)
    assert named == fields - {"name", "operations", "make"} | {"choices", "fingerprint"}
