"""docs/deploy.md, command by command, on an untidy folder and for short trainings."""

import dataclasses
import json

import pytest
from PIL import Image

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
    folder, found = untidy.draw(tmp_path / "pets"), {}
    space = dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3)
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    for command, told in pages.run(map(pages.local, pages.commands("deploy.md")), tmp_path, SHORT):
        tool = command.tool if command.tool != "python" else "deploy"
        found.setdefault(f"{tool} int8" if command.words[0].startswith("int8/") else tool, told)
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
    (code,), there = pages.blocks("deploy.md", "python"), {}
    monkeypatch.chdir(tmp_path)
    exec(code, there)
    picture = there["transform"](Image.fromarray(next(iter(folder.shown.values()))))
    assert there["model"](picture[None]).shape == (1, 3)
