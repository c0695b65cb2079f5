"""The commands of docs/int8.md, one after the other as they stand there, on the bundled digits."""

from __future__ import annotations

import json

import pytest

from latency.table import LatencyTable
from supernet.export import formats
from tests import pages

# What makes them quick; the page's own are for Fashion-MNIST.
SMALL = {
    "train_supernet": ("--data", "digits", "--val-fraction", "0.4"),  # enough images to tell a point of accuracy
    "evolve": ("--population", "8", "--iterations", "2", "--random", "4"),
    "retrain": ("--controls", "0", "--epochs", "6"),
}
pytestmark = pytest.mark.chain


def test_the_page(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    (tmp_path / "small.json").write_text(json.dumps({"arch": [1, 3, 1, 3, 2, 1]}))
    ran = pages.run(pages.commands("int8.md"), tmp_path, SMALL)
    told = {str(command): " ".join(text.split()) for command, text in ran}
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
