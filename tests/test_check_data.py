"""``supernet data``: an untidy folder as it was drawn, what would stop a training, and the pictures of it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernet.data import findings, sets, sheet
from supernet.data.folder import FolderImages
from tests import untidy
from tests.test_cli import ok, refused, run

SIZE = ("--resolution", 32, "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untidy.draw(tmp_path_factory.mktemp("untidy") / "pets")


@pytest.fixture(scope="module")
def told(folder, tmp_path_factory):
    """What is told of it as JSON, and the last line."""
    path = tmp_path_factory.mktemp("sheet") / "pets.png"
    done = run("check_data", folder.root, *SIZE, "--json", "--sheet", path, "--workers", 2)
    assert done.returncode == 2
    return json.loads(done.stdout), done.stderr, path


def test_everything_is_counted_as_it_was_drawn(folder, told):
    found, _, _ = told
    readable = set(folder.shown) - folder.damaged
    expected = {label: {"train": 0, "val": 0} for label in untidy.CLASSES}
    for name in (*readable, "train/dog/deeper/050.PNG", *(copy for _, copy in folder.copies)):
        part, label, *_ = name.split("/")
        expected[label][part] += 1
    for label, row in found["classes"].items():
        assert row["training"] + row["validation"] == expected[label]["train"], label
        assert row["test"] == expected[label]["val"], label
        assert row["validation"] >= 1
    assert set(found["damaged"]) == folder.damaged
    assert all(name in why for name, why in found["damaged"].items())
    assert found["turned"] == 3 * len(untidy.STORED)
    assert found["transparent"] == sum("alpha" in name or "clear" in name for name in folder.shown)
    grey = [name for name, pixels in folder.shown.items() if (pixels == pixels[:, :, :1]).all()]
    assert found["grey"] == found["grey_kind"] == len(grey)
    assert found["animated"] == [f"train/cat/frames.{suffix}" for suffix in ("png", "tif", "webp")]
    assert found["width"] == [untidy.WIDTH // 2, untidy.WIDTH, untidy.WIDTH]
    assert found["height"] == [untidy.HEIGHT // 2, untidy.HEIGHT, untidy.HEIGHT]
    assert sum(found["kinds"].values()) == sum(sum(row.values()) for row in found["classes"].values())
    assert {"P", "RGBA", "LA", "CMYK", "I;16", "F", "1", "L"} < found["kinds"].keys()


def test_near_duplicates_are_named(folder, told):
    twins = told[0]["near_duplicates"]
    assert {(train, other) for other, train, _ in twins["test"]} == folder.copies
    same = {frozenset(pair[:2]) for pair in twins["validation"]}
    for pair in same:  # the same picture in several kinds of file
        first, second = (folder.shown[name].astype(int) for name in pair)
        assert np.abs(first - second).mean() < 20


def test_it_ends_where_a_training_would(folder, told, tmp_path):
    _, stderr, _ = told
    *_, error = stderr.splitlines()
    assert re.match(r"error: training would stop: 4 images cannot be read: .*; replace or delete them", error)
    for name in folder.damaged:
        assert repr(name) in error
    assert "or leave out what is damaged: --damaged skip" in error
    done = ok("check_data", folder.root, *SIZE, "--sheet", tmp_path / "a.png", "--damaged", "skip")
    assert "cat" in done
    assert "3 images have several frames" in done
    assert "test images are nearly the same as training images: val/dog/copy-1.jpg like train/dog/001.png" in done
    assert "'.ipynb_checkpoints', '__MACOSX'" in done
    assert "1 .heic, 1 .txt" in done
    assert "classes are uneven, from 3 training images of 'owl'" in done


def test_all_that_is_wrong_is_told_at_once(folder, tmp_path):
    root = shutil.copytree(folder.root, tmp_path / "pets")
    shutil.rmtree(root / "val" / "owl")
    for path in sorted((root / "train" / "owl").glob("*.png"))[1:]:
        path.unlink()
    (root / "val" / "emu").mkdir()
    line = refused("check_data", root, *SIZE, "--sheet", tmp_path / "a.png")
    assert f"{root}/val lacks 'owl'; {root}/train lacks 'emu'" in line
    assert f"expected images (.jpg, .png, …) in {root}/val/emu, found none" in line
    assert "at least 2 training images in every class, one of them to validate on: class 'owl' has 1" in line
    assert "4 images cannot be read" in line


def test_the_sheet_shows_every_class_as_training_sees_it(folder, told):
    with Image.open(told[2]) as file:
        pixels = np.asarray(file.convert("RGB")).astype(int)
    rows = sheet.TILE + sheet.GAP
    assert pixels.shape[0] == sheet.TILE // 3 + 3 * rows
    data = sets.open_test("folder", folder.root, resolution=32, channels=3)
    transform = data.transforms[0]
    for row, label in enumerate(untidy.CLASSES):
        top = sheet.TILE // 3 + row * rows
        first = folder.root / "train" / label / "000.png"
        images = FolderImages(first.parent, np.array([b"000.png"]), np.zeros(1, np.int64), *[(0.0,) * 3] * 2,
                              data.size, (transform, transform), 0)  # fmt: skip
        expected = Image.fromarray(next(images.rows(1))[0].numpy()).resize((sheet.TILE, sheet.TILE))
        tile = pixels[top : top + sheet.TILE, sheet.TEXT : sheet.TEXT + sheet.TILE]
        assert np.abs(tile - np.asarray(expected)).max() <= 1
        assert (pixels[top : top + sheet.TILE, : sheet.TEXT] < 128).any()  # the name


def test_what_is_fine_is_followed_by_its_training(folder, tmp_path):
    words = ("--damaged", "skip", "--val-fraction", 0.2)
    printed = ok("check_data", folder.root, *SIZE, *words, "--sheet", tmp_path / "a.png")
    *_, last = printed.splitlines()
    opened = f"--data folder --data-root {folder.root} --damaged skip --resolution 32 --val-fraction 0.2"
    assert last == f"next: python tools/train_supernet.py {opened}"
    assert "grey of 16 bits 2" in printed


def test_a_sheet_that_cannot_be_written_costs_nothing_of_what_was_found(folder, tmp_path):
    done = run("check_data", folder.root, *SIZE, "--sheet", tmp_path)
    assert done.returncode == 2
    assert f"cannot write {tmp_path}: Is a directory" in done.stderr
    assert "grey of 16 bits 2" in done.stdout


def test_a_set_of_one_s_own_is_read_too(own_file, tmp_path):
    code = """
        import numpy as np
        from PIL import Image
        def images():
            draw = lambda i: np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            train = [(draw(i), i % 2) for i in range(20)]
            return train, [(draw(3), 1), (draw(99), 0)]
    """
    name = f"{own_file('checked.py', code)}:images"
    found = json.loads(ok("check_data", "--data", name, "--json", "--quiet", "--sheet", tmp_path / "a.png"))
    assert [twin[:2] for twin in found["near_duplicates"]["test"]] == [["val/0", "train/3"]]
    assert found["classes"]["0"]["test"] == found["classes"]["1"]["test"] == 1
    assert found["problems"] == []


def test_sheets_are_called_as_the_images_are(tmp_path):
    for name, expected in (
        ("folder", "pets"),
        ("hf:beans", "beans"),
        ("hf:data/user/beans", "beans"),
        ("here/mine.py:images", "mine"),
        ("an.installed:one", "an"),
    ):
        assert findings.default_sheet(name, tmp_path / "pets") == Path("runs/data") / f"{expected}.png"


def test_a_sheet_of_many_classes_has_some_of_them(own_file, tmp_path):
    code = """
        import numpy as np
        class Set:
            targets = [i % 90 for i in range(180)]
            classes = [f"class {i}" for i in range(90)]
            def __len__(self): return 180
            def __getitem__(self, i): return np.full((16, 16, 3), i % 90, np.uint8), i % 90
        def images(): return Set(), Set()
    """
    ok("check_data", "--data", f"{own_file('many.py', code)}:images", "--quiet", "--sheet", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as file:
        assert file.height == 2 * (sheet.TILE // 3) + sheet.ROWS * (sheet.TILE + sheet.GAP)


def test_what_cannot_be_checked_is_refused(tmp_path):
    assert "expected a folder with train/ and val/" in refused("check_data")
    assert "a published set: there are no files to check" in refused("check_data", "--data", "digits", "--quiet")
    assert "give one of the two" in refused("check_data", tmp_path, "--data", "digits")
    assert "one folder of images per class; create it" in refused("check_data", tmp_path / "none")
    assert "--fold 1-5: expected the number of a part" in refused("check_data", tmp_path, "--fold", "1-5")
