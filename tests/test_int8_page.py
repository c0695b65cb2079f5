"""The commands of docs/int8.md, one after the other as they stand there, on the bundled digits."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from latency.table import LatencyTable
from supernet.export import formats

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "int8.md").read_text()
# What makes them quick; the page's own are for Fashion-MNIST.
SMALL = {
    "train_supernet": ("--data", "digits"),
    "evolve": ("--population", "8", "--iterations", "2", "--random", "4"),
    "retrain": ("--controls", "0", "--epochs", "2"),
}
pytestmark = pytest.mark.chain


def commands() -> list[list[str]]:
    """Every command of this project in a block without a language."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("python tools/")]


def test_the_page(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    (tmp_path / "small.json").write_text(json.dumps({"arch": [1, 3, 1, 3, 2, 1]}))
    told = {}
    for _, script, *flags in commands():
        tool = Path(script).stem
        command = [sys.executable, str(ROOT / script), *flags, *SMALL.get(tool, ())]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        told[" ".join([tool, *flags])] = " ".join(done.stdout.split())
    assert LatencyTable.load(tmp_path / "runs" / "default" / "lut.json").precision == "int8"
    for name in ("best-int8", "mixed", "tuned"):
        card = formats.read_card(tmp_path / f"{name}.onnx")
        assert card.precision.startswith("int8")
        assert card.accuracy.validation > 0.5
    tuned = next(text for command, text in told.items() if command.startswith("retrain") and "--qat" in command)
    assert "--pick best-int8 --int8" in tuned
    assert "the table promised" in told["export --int8 --output best-int8.onnx"]
    front = json.loads((tmp_path / "runs" / "default" / "front.json").read_text())
    assert all(entry["flash"] <= 96 * 1024 and entry["ram"] <= 40 * 1024 for entry in front["front"])
    assert (
        "in int8: 119 KiB of flash, 36 KiB of working memory" in told["count --space mobile-small --config small.json"]
    )
