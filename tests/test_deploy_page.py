"""docs/deploy.md, command by command, on an untidy folder and for short trainings."""

import dataclasses
import json

import pytest
from PIL import Image

from supernet.export import tflite
from tests import pages, untidy
from tests.conftest import tiny_space

SHORT = {
    "check_data": ("--resolution", 16, "--workers", 1, "--sheet", "sheet.png", "--quiet"),
    "train_supernet": (
        *("--space", "space.json", "--resolution", 16, "--epochs", 2, "--batch-size", 16, "--workers", 1, "--quiet"),
    ),
    "build_lut": ("--rounds", 10, "--check-archs", 2, "--quiet"),
    "evolve": ("--population", 4, "--iterations", 1, "--random", 1, "--quiet"),
    "retrain": ("--epochs", 4, "--controls", 0, "--batch-size", 8, "--workers", 1, "--damaged", "skip", "--quiet"),
    "export": ("--workers", 1),
    "predict": ("--quiet",),
}


@pytest.mark.chain
def test_the_page(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    folder = untidy.draw(tmp_path / "pets")
    space = dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3)
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    quantised = {"int8": "onnx"} | ({"litert": "tflite"} if tflite.LITERT_PYTHON.exists() else {})
    found = [pages.local(command) for command in pages.commands("deploy.md")]
    found = [command for command in found if "litert" in quantised or "litert/" not in str(command)]
    told = {str(command): text for command, text in pages.run(found, tmp_path, SHORT)}
    assert {command.tool for command in found} == {*SHORT, "python"}
    result = json.loads((tmp_path / "runs/pets/best/result.json").read_text())
    accuracy = f"{100 * result['test_accuracy']:.2f} %"
    assert f"accuracy {accuracy}, " in told["python onnx/deploy.py pets/val"]
    assert f"top-1 {accuracy} [" in told["predict onnx/best.onnx pets/val --damaged skip"]
    for name, suffix in quantised.items():
        stated = json.loads((tmp_path / f"{name}/best.{suffix}.json").read_text())
        assert stated["precision"].startswith("int8")
        assert stated["accuracy"]["images"] == result["test_images"]
        assert f"accuracy {100 * stated['accuracy']['test']:.2f} %, " in told[f"python {name}/deploy.py pets/val"]
        (exported,) = (text for command, text in told.items() if f"--output {name}/best.{suffix}" in command)
        assert "the table promised" in " ".join(exported.split())
    assert folder.damaged
    table = json.loads((tmp_path / "openvino/lut.json").read_text())
    assert table["runtime"]["name"] == "openvino"
    (code,), there = pages.blocks("deploy.md", "python"), {}
    monkeypatch.chdir(tmp_path)
    exec(code, there)
    picture = there["transform"](Image.fromarray(next(iter(folder.shown.values()))))
    assert there["model"](picture[None]).shape == (1, 3)
