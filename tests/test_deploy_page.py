"""docs/deploy.md, command by command, on an untidy folder and for short trainings."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import untidy
from tests.conftest import tiny_space
from tests.forks import forks

DOCS = Path(__file__).parents[1] / "docs" / "deploy.md"
PLACES = ("pets", "runs/", "onnx/", "camera/", "openvino/", "int8/", "weights/", "hub")
SHORT = {
    "check_data": ("--resolution", 16, "--workers", 1, "--quiet"),
    "train_supernet": ("--resolution", 16, "--epochs", 2, "--batch-size", 16, "--workers", 1, "--quiet"),
    "build_lut": ("--rounds", 10, "--check-archs", 2, "--quiet"),
    "evolve": ("--population", 4, "--iterations", 1, "--random", 1, "--quiet"),
    "retrain": ("--epochs", 4, "--controls", 0, "--batch-size", 8, "--workers", 1, "--damaged", "skip", "--quiet"),
    "export": ("--workers", 1),
    "predict": ("--quiet",),
}


@pytest.mark.chain
def test_the_page(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    folder, found = untidy.draw(tmp_path / "pets"), {}
    space = dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3)
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    blocks = re.findall(r"```\n(python .*?)\n```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    for words in (shlex.split(line) for block in blocks for line in block.splitlines()):
        tool = Path(words[1]).stem
        arguments = [str(tmp_path / word) if word.startswith(PLACES) else word for word in words[2:]]
        arguments = [word.replace("4.5", "1000") for word in arguments]  # ms: whatever this machine is
        if tool == "deploy":
            command = [sys.executable, str(tmp_path / words[1]), *arguments]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        else:
            extra = ("--space", tmp_path / "space.json") if tool == "train_supernet" else ()
            extra += ("--sheet", tmp_path / "sheet.png") if tool == "check_data" else ()
            done = forks().run(tool, *arguments, *SHORT[tool], *extra)
        assert done.returncode == 0, (words, done.stderr)
        found.setdefault(f"{tool} int8" if "int8" in words[1] else tool, done.stdout)
    result = json.loads((tmp_path / "runs/pets/best/result.json").read_text())
    accuracy = f"{100 * result['test_accuracy']:.2f} %"
    assert f"accuracy {accuracy}, " in found["deploy"]
    assert f"top-1 {accuracy} [" in found["predict"]
    assert set(SHORT) | {"deploy", "deploy int8"} == set(found)
    stated = json.loads((tmp_path / "int8/best.onnx.json").read_text())["accuracy"]
    assert stated["images"] == result["test_images"]
    assert f"accuracy {100 * stated['test']:.2f} %, " in found["deploy int8"]
    assert folder.damaged
    table = json.loads((tmp_path / "openvino/lut.json").read_text())
    assert table["runtime"]["name"] == "openvino"
