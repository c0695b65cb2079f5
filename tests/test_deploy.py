"""Exported files as a stranger has them: the script beside them, predict.py, timm, what they say of themselves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import supernet.timm
from supernet.data import pictures
from supernet.export import card, formats, hub
from supernet.model import load_network
from supernet.runs import RunFolder
from tests import untidy
from tests.conftest import tiny_space
from tests.test_cli import ok, refused, run
from tests.test_export import skip_without

SMALL = ("--data", "folder", "--resolution", 16, "--batch-size", 16, "--quiet", "--workers", 1, "--channels", 3)
WITH_TORCH = ("pt2", "py", "pte")
CASES = [
    pytest.param(suffix, pixels, marks=() if suffix in ("onnx", "py") else pytest.mark.chain)
    for suffix in formats.FORMATS
    for pixels in (False, True)
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    """A run on an untidy folder, with a network that was trained and tested: pictures of every kind, upright or not."""
    root = tmp_path_factory.mktemp("pets")
    folder = untidy.draw(root / "images", damaged=False).root
    for name in ("train", "val"):  # JPEG files that evaluation decodes at a part of their size
        for label in untidy.CLASSES:
            image = Image.fromarray(untidy.picture(label, 200)).resize((448, 320))
            image.save(folder / name / label / "large.jpg")
    space = dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3)
    (root / "space.json").write_text(json.dumps(space.to_json()))
    (root / "arch.json").write_text(json.dumps({"arch": [0, 3, 2]}))
    run = ("--run", root / "run")
    ok("train_supernet", *run, "--data-root", folder, "--space", root / "space.json", *SMALL, "--epochs", 1)
    alone = ("--epochs", 20, "--batch-size", 8, "--quiet", "--workers", 1)
    ok("retrain", *run, "--arch-config", root / "arch.json", *alone)
    return root


def truth(root: Path) -> tuple[dict, dict[str, dict[str, float]]]:
    """What retrain.py found, and the probability that the network gives each class, by test images."""
    run = RunFolder(root / "run")
    result, images = json.loads((root / "run/config/result.json").read_text()), run.test_images()
    with torch.inference_mode():
        ((x, _),) = images.in_order(len(images))
        rows = load_network(root / "run/config")(x).softmax(1).tolist()
    assert len({max(range(3), key=row.__getitem__) for row in rows}) == 3  # it has learnt something
    found = zip(images.index, rows, strict=True)
    return result, {images.name(i)[4:]: dict(zip(untidy.CLASSES, row, strict=True)) for i, row in found}


def deployed(folder: Path, without: tuple[str, ...], *images: Path) -> list[list[str]]:
    """The lines that ``deploy.py`` prints, in an interpreter that lacks some packages."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(folder)!r})\n"
        f"sys.modules.update(dict.fromkeys({('supernet', 'latency', 'search', *without)!r}))\n"
        f"sys.argv = ['deploy.py', *{list(map(str, images))!r}]; runpy.run_path({str(folder / 'deploy.py')!r})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONIOENCODING"] = "utf-8:strict"  # as most people's is, whatever this process has
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("suffix", "pixels"), CASES)
def test_the_script_beside_a_file_gives_the_test_accuracy(pets, tmp_path, suffix, pixels):
    """To the image; by the runtime, NumPy and Pillow alone; for pictures of every kind."""
    skip_without(suffix)
    file, test = tmp_path / f"pets.{suffix}", pets / "images" / "val"
    flags = ("--with-preprocessing",) if pixels else ()
    ok("export", "--run", pets / "run", "--pick", "config", "--output", file, *flags)
    *lines, last = deployed(tmp_path, () if suffix in WITH_TORCH else ("torch", "torchvision"), test)
    result, expected = truth(pets)
    assert len(lines) == len(expected)
    for path, name, share in lines:
        probabilities = expected[str(Path(path).relative_to(test))]
        assert probabilities[name] == max(probabilities.values()) == pytest.approx(float(share), abs=1e-4)
    hits = round(result["test_accuracy"] * result["test_images"])
    assert last == [f"accuracy {100 * result['test_accuracy']:.2f} %, {hits} of {result['test_images']}"]
    code = (tmp_path / "deploy.py").read_text().partition("import pictures")[2].splitlines()[1:]
    assert len([line for line in code if line]) <= {"tflite": 19, "pte": 16}.get(suffix, 15)
    told = json.loads(ok("predict", file, test, "--json", "--quiet", "--top", 3))
    assert (told["accuracy"]["test"], told["accuracy"]["images"]) == (result["test_accuracy"], result["test_images"])
    for row in told["images"]:
        assert dict(row["classes"]) == pytest.approx(expected[str(Path(row["file"]).relative_to(test))], abs=1e-5)
        assert row["classes"] == sorted(row["classes"], key=lambda one: -one[1])


def test_a_picture_whose_name_is_no_text_is_classified(pets, tmp_path):
    ok("export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "pets.py")
    picture = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(pets / "images/val/cat/100.png", picture)
    ((path, name, _),) = deployed(tmp_path, (), picture)
    assert path == f"{tmp_path}/caf?.png"
    assert name in untidy.CLASSES


def test_classes_of_other_names_are_told(pets, tmp_path):
    """Of a folder that was renamed no picture counts, and the accuracy is not taken for that of all."""
    ok("export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "pets.pt2")
    shutil.copytree(pets / "images" / "val", tmp_path / "val")
    (tmp_path / "val" / "owl").rename(tmp_path / "val" / "Eule")
    done = run("predict", tmp_path / "pets.pt2", tmp_path / "val", "--json", "--quiet")
    told = json.loads(done.stdout)
    assert told["accuracy"]["images"] == len(told["images"]) - len(list((tmp_path / "val" / "Eule").iterdir()))
    assert done.stderr.startswith("not counted, as the file knows no such classes: pictures in 'Eule'\n")


def test_what_a_file_carries(pets, tmp_path):
    """Beside it, and inside where a format has a place; in words in the model card."""
    ok("export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "pets.pt2", "--batch", 2)
    told = json.loads((tmp_path / "pets.pt2.json").read_text())
    result = json.loads((pets / "run/config/result.json").read_text())
    assert told["classes"] == ["cat", "dog", "owl"]
    assert told["input"] == [2, 3, 16, 16]
    assert told["preparation"]["fit"] == {
        **{"size": [16, 16], "cover": [18, 18], "mode": "RGB", "interpolation": "bicubic", "reduced": True}
    }
    assert told["preparation"]["mean"] == [0.485, 0.456, 0.406]
    assert (told["precision"], told["type"], told["output"]) == ("float32", "float32", "logits")
    assert (told["accuracy"]["test"], told["accuracy"]["images"]) == (result["test_accuracy"], result["test_images"])
    low, high = told["accuracy"]["interval"]
    assert 0 <= low < told["accuracy"]["test"] <= high <= 1
    for name in ("pets.pt2", "pets.safetensors"):
        shutil.copy(tmp_path / name, tmp_path / f"moved-{name}")
        assert formats.read_metadata(tmp_path / f"moved-{name}") == told
    read = formats.read_card(tmp_path / "moved-pets.pt2")
    assert read.to_json() == told
    page = (tmp_path / "README.md").read_text()
    assert "cat, dog, owl" in page
    assert f"top-1 {100 * result['test_accuracy']:.2f} %" in page
    assert "resized to just cover 18², then the middle, 16², bicubic" in page


def test_an_accuracy_by_fake_quantisation_is_none_of_floats(pets, tmp_path):
    shutil.copytree(pets / "run", tmp_path / "run")
    (tmp_path / "run" / "config").rename(tmp_path / "run" / "config-int8")
    ok("export", "--run", tmp_path / "run", "--pick", "config-int8", "--output", tmp_path / "pets.pt2")
    told = formats.read_card(tmp_path / "pets.pt2").accuracy
    assert (told.test, told.validation, told.told) == (None, None, "not tested")


def test_files_of_others_stay(pets, tmp_path):
    for name in ("README.md", "deploy.py"):
        (tmp_path / name).write_text("mine")
    printed = ok("export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "pets.py")
    code, weights = (round((tmp_path / name).stat().st_size / 1e6, 1) for name in ("pets.py", "pets.pt"))
    assert f"pets.py: {code} MB, pets.pt: {weights} MB, logits" in printed
    for name in ("README.md", "deploy.py"):
        assert (tmp_path / name).read_text() == "mine"
        assert f"{name} is somebody's and stays" in printed
    ok("export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "more" / "a.py")
    assert "somebody's" not in ok(
        "export", "--run", pets / "run", "--pick", "config", "--output", tmp_path / "more" / "b.py"
    )
    assert "with_name('b.py')" in (tmp_path / "more" / "deploy.py").read_text()


def test_timm_prepares_images_as_training_did(pets, tmp_path):
    """By a folder as the hub has it, and by exported weights: the classes of every picture that timm opens as we do."""
    weights, run = tmp_path / "pets.safetensors", ("--run", pets / "run", "--pick", "config")
    ok("export", *run, "--output", tmp_path / "pets.pt2", "--hub-folder", tmp_path / "hub", "--with-preprocessing")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        *("config.json", "model.safetensors", "classes.txt", "README.md")
    }
    page = (tmp_path / "hub/README.md").read_text()
    assert "timm.create_model" in page
    assert "any×3×16×16, NCHW, float32, normalised" in page  # not what the file beside it takes
    expected = truth(pets)[1]
    plain = [name for name in expected if re.fullmatch(r"\w+/\d+\.png", name)]
    model = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    config = resolve_data_config({}, model=model)
    assert (tuple(config["input_size"]), tuple(config["mean"])) == ((3, 16, 16), (0.485, 0.456, 0.406))
    transform = create_transform(**config)
    for name in plain:
        x = transform(Image.open(pets / "images/val" / name).convert("RGB"))
        with torch.inference_mode():
            shares = model(x[None]).softmax(1)[0].tolist()
        assert dict(zip(model.pretrained_cfg["label_names"], shares, strict=True)) == pytest.approx(
            expected[name], abs=1e-6
        )
    assert len(plain) >= 9
    again = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, num_classes=7)
    assert again.get_classifier().out_features == 7
    assert torch.equal(again.stem.conv.weight, model.stem.conv.weight)
    assert formats.read_card(weights).classes == ["cat", "dog", "owl"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    line = refused("export", *run, "--output", tmp_path / "x.py", "--hub-folder", tmp_path / "other")
    assert "config.json is something else's: expected a new folder" in line
    (tmp_path / "project").mkdir()
    (tmp_path / "project/README.md").write_text("mine")
    line = refused("export", *run, "--output", tmp_path / "x.py", "--hub-folder", tmp_path / "project")
    assert "README.md is something else's: expected a new folder" in line
    assert (tmp_path / "project/README.md").read_text() == "mine"
    line = refused("export", *run, "--output", tmp_path / "x.py", "--hub-folder", tmp_path / "other/config.json")
    assert "config.json is a file: expected a new folder" in line
    line = refused("export", *run, "--output", tmp_path / "both/x.py", "--hub-folder", tmp_path / "both")
    assert "both is the folder of x.py, with its README.md: give another one" in line
    assert not (tmp_path / "both").exists()
    assert not (tmp_path / "x.py").exists()


def test_timm_knows_the_images_of_a_run(tmp_path):
    """Small images of a run that was trained by version 0.1, which did not record how they are prepared."""
    shutil.copytree(Path(__file__).parent / "data/v0.1/spos", tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    images = run.images().train
    indices, known = supernet.timm.read_arch(tmp_path / "run/best/result.json")
    network = supernet.timm.built(run.space(), indices, known)
    config = resolve_data_config({}, model=network)
    assert (config["mean"], config["std"], config["crop_pct"]) == (images.mean, images.std, 1.0)
    assert config["input_size"] == (1, *images.size)
    assert network.pretrained_cfg["label_names"] == tuple("0123456789")
    ok("export", "--run", tmp_path / "run", "--output", tmp_path / "best.pt2")
    again, known = supernet.timm.read_arch(tmp_path / "best.safetensors")
    assert list(again) == list(indices)
    assert known.images.preparation == images.preparation
    assert known.shape == (1, *images.size)


@pytest.mark.parametrize("suffix", ["onnx", "xml", "pt2"])
def test_any_number_of_images(pets, tmp_path, suffix):
    """The same probabilities one by one and together."""
    skip_without(suffix)
    file, test = tmp_path / f"pets.{suffix}", pets / "images" / "val"
    run = ("--run", pets / "run", "--pick", "config")
    ok("export", *run, "--output", file, "--dynamic-batch", "--with-preprocessing")
    assert json.loads(card.beside(file).read_text())["input"] == [None, 16, 16, 3]
    together = json.loads(ok("predict", file, test, "--json", "--quiet"))["images"]
    for row in together[:3]:
        (alone,) = json.loads(ok("predict", file, row["file"], "--json", "--quiet"))["images"]
        assert alone["classes"][0][0] == row["classes"][0][0]
        assert alone["classes"][0][1] == pytest.approx(row["classes"][0][1], abs=1e-6)


def test_what_a_format_cannot_is_one_line(pets, tmp_path):
    run = ("--run", pets / "run", "--pick", "config", "--output")
    line = refused("export", *run, tmp_path / "a.tflite", "--dynamic-batch")
    assert "a.tflite: .tflite files have no free number of images: expected one of .pt2, .onnx, .xml, .py" in line
    assert ".py files have no opset: expected one of .onnx" in refused("export", *run, tmp_path / "a.py", "--opset", 15)
    for option in (("--mixed",), ("--max-drop", 0.5), ("--calibration", 64)):  # a file of floats would come of it
        assert "give them with --int8" in refused("export", *run, tmp_path / "a.py", *option)
    for option in (("--dynamic-batch",), ("--with-preprocessing",), ("--opset", 15)):
        assert "--int8: expected it without" in refused("export", *run, tmp_path / "a.onnx", "--int8", *option)
    if formats.FORMATS["onnx"].packages:
        assert "opset 9: expected one from 13 to" in refused("export", *run, tmp_path / "a.onnx", "--opset", 9)
    assert not list(tmp_path.iterdir())


def test_predictions_that_cannot_be_made(pets, tmp_path, monkeypatch):
    file = tmp_path / "pets.pt2"
    ok("export", "--run", pets / "run", "--pick", "config", "--output", file)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    line = refused("predict", file, tmp_path / "bad.png", "--quiet")
    assert "expected a picture in" in line
    assert line.endswith("; or leave out what is damaged: --damaged skip")
    assert ok("predict", file, tmp_path / "bad.png", "--quiet", "--damaged", "skip") == ""
    assert "no picture or folder at" in refused("predict", file, tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    assert "expected pictures (.jpg, .png, …) in" in refused("predict", file, tmp_path / "empty")
    assert "--top 0: expected at least 1" in refused("predict", file, tmp_path, "--top", 0)
    assert "no file at" in refused("predict", tmp_path / "other.onnx", tmp_path / "bad.png")
    (tmp_path / "foreign.pt2").write_bytes(b"something else")
    assert "is no network that was exported here" in refused("predict", tmp_path / "foreign.pt2", tmp_path / "bad.png")
    told = json.loads(card.beside(file).read_text())
    shutil.copy(file, tmp_path / "floats.pt2")
    card.beside(tmp_path / "floats.pt2").write_text(json.dumps({**told, "preparation": None}))
    line = refused("predict", tmp_path / "floats.pt2", tmp_path / "bad.png")
    assert "does not say how pictures become its input" in line
    for wrong in ({"classes": ["cat"]}, {"preparation": told["preparation"] | {"mean": [0, 0], "std": [1, 1]}}):
        card.beside(file).write_text(json.dumps({**told, **wrong}))
        assert "cannot run" in refused("predict", file, tmp_path / "bad.png")
    card.beside(file).write_text(json.dumps({**told, "shape": [3]}))
    assert "expected a list of 3" in refused("predict", file, tmp_path / "bad.png")
    card.beside(file).write_text(json.dumps({**told, "classes": "cat"}))
    assert "was exported without what is known of it (classes is" in refused("predict", file, tmp_path / "bad.png")


def test_pictures_of_a_folder_are_those_that_training_reads(tmp_path):
    folder = untidy.draw(tmp_path / "pets", damaged=False)
    found = {str(path.relative_to(folder.root)): label for path, label in pictures.found([folder.root / "val"])}
    assert found == {name: name.split("/")[1] for name in found}
    shown = {name for name in folder.shown if name.startswith("val/")}
    assert set(found) == shown | {name for _, name in folder.copies}
    alone = folder.root / next(iter(shown))
    assert list(pictures.found([alone])) == [(alone, None)]


def test_the_space_of_a_hub_folder_has_no_code(own_file, tmp_path):
    """Of one's own code a configuration holds nothing."""
    from supernet import spaces
    from supernet.errors import UserError

    example = Path(__file__).parents[1] / "examples" / "own_space.py"
    space = spaces.get(f"{example}:space", 3, 32, 7)
    with pytest.raises(UserError):
        hub.require(tmp_path, space)
