"""Commands on an untidy folder: refused before anything is written, or trained, searched and tested by one split."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image

from supernet.training import checkpoint
from tests import untidy
from tests.conftest import tiny_space
from tests.test_cli import ok, refused, run

SMALL = ("--data", "folder", "--resolution", 16, "--batch-size", 16, "--epochs", 2, "--quiet", "--workers", 1)


@pytest.fixture
def folder(tmp_path):
    return untidy.draw(tmp_path / "pets")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.json"
    path.write_text(json.dumps(dataclasses.replace(tiny_space(), channels=3, resolution=16, classes=3).to_json()))
    return path


def test_damaged_files_stop_a_new_run_before_anything_is_written(folder, tmp_path, space):
    arguments = ("--data-root", folder.root, "--run", tmp_path / "run", "--space", space, *SMALL)
    line = refused("train_supernet", *arguments)
    assert "4 images cannot be read: 'train/cat/empty.png'" in line
    assert line.endswith("replace or delete them; or leave out what is damaged: --damaged skip")
    assert not (tmp_path / "run").exists()
    shutil.rmtree(folder.root / "val" / "owl")
    assert "val lacks 'owl'" in refused("train_supernet", *arguments)
    for options, told in (
        (("--fold", "5/5"), "expected a fold such as 0/5"),
        (("--fold", "a"), "--fold a: expected the number of a part"),
        (("--val-fraction", 0), "--val-fraction 0: expected some images to validate on"),
        (("--val-fraction", 1.5), "expected val_fraction in [0, 1), got 1.5"),
        (("--fold", "0/5", "--val-fraction", 0.1), "expected one of val_fraction"),
    ):
        assert told in refused("train_supernet", "--data", "digits", "--run", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.chain
def test_every_tool_takes_the_same_images(folder, tmp_path, space):
    where = ("--run", tmp_path / "run")
    arguments = ("--data-root", folder.root, "--space", space, *where, *SMALL, "--damaged", "skip")
    told = ok("train_supernet", *arguments, "--balance", "sampling")
    assert "4 images cannot be read and are left out: 'train/cat/empty.png'" in told
    assert "classes are uneven" not in told
    split = json.loads((tmp_path / "run" / "split.json").read_text())["files"]
    assert json.loads((tmp_path / "run" / "damaged.json").read_text())["images"].keys() == folder.damaged
    weights = checkpoint.load(tmp_path / "run" / "checkpoint.pt")["model"]

    gone, owl = sorted(split["val"]["cat"])[0], sorted(split["train"]["owl"])[0]
    for name in (f"cat/{gone}", f"owl/{owl}"):
        (folder.root / "train" / name).unlink()
    for number in range(500, 540):
        Image.fromarray(untidy.picture("owl", number)).save(folder.root / "train" / "owl" / f"{number}.png")

    again = run("train_supernet", *arguments, "--balance", "sampling")
    assert again.returncode == 0, again.stderr
    assert (
        f"2 images are gone, others of their classes train in their places: 'cat/{gone}', 'owl/{owl}'" in again.stdout
    )
    same = checkpoint.load(tmp_path / "run" / "checkpoint.pt")["model"]
    assert all((same[name] == value).all() for name, value in weights.items())
    late = folder.root / "train" / "dog" / sorted(split["train"]["dog"])[1]
    late.write_bytes(late.read_bytes()[:90])  # damaged after the run began
    search = ("--population", 4, "--iterations", 2, "--random", 2, "--recalibration", 2, 64, "--flops-max", 1e9)
    for options, code in (((), 2), (("--damaged", "skip"), 0)):
        found = run("evolve", *where, *search, "--quiet", "--workers", 1, *options)
        assert found.returncode == code, found.stderr
        assert "40 images have been added and are not used: 'owl/500.png'" in found.stderr
    # Recalibration came upon it, so the later tools know.
    assert f"train/dog/{late.name}" in json.loads((tmp_path / "run" / "damaged.json").read_text())["images"]
    alone = ("--epochs", 1, "--batch-size", 16, "--controls", 1, "--jobs", 1, "--workers", 1, "--quiet")
    trained = run("retrain", *where, *alone)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count("images are gone") == 1
    result = json.loads((tmp_path / "run" / "best" / "result.json").read_text())
    test = [name for name in folder.shown if name.startswith("val/")]
    assert result["test_images"] == len(test) + len(folder.copies)
    assert json.loads((tmp_path / "run" / "split.json").read_text())["files"] == split
    assert "other settings (balance: sampling → loss)" in refused("train_supernet", *arguments, "--balance", "loss")
    ok("train_supernet", *arguments, "--balance", "loss", "--restart")
    new = json.loads((tmp_path / "run" / "split.json").read_text())["files"]
    assert "500.png" in {**new["train"]["owl"], **new["val"]["owl"]}
