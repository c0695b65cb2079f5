"""Sets of Hugging Face, saved to folders by the tests: parquet, a saved set, image folders; refusals."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import inspection, sets
from supernet.data.damaged import Damaged, remember
from supernet.runs import RunFolder
from tests.conftest import refused, whole

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def _no_network():
    """The library asks the hub about names that are no folders."""
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    yield
    patch.undo()


def picture(i, side=20):
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8))


def rows(count, label=lambda i: i % 2, start=0, names=("cat", "dog")):
    """A dataset of PNG images."""
    kinds = datasets.Features({"number": datasets.Value("int32"), "image": datasets.Image()})
    kinds["label"] = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    content = {
        "number": list(range(count)),
        "image": [picture(start + i) for i in range(count)],
        "label": [label(i) for i in range(count)],
    }
    return datasets.Dataset.from_dict(content, features=kinds)


def parts(**options):
    return datasets.DatasetDict(train=rows(20), test=rows(6, start=100), **options)


def saved(folder, content=None):
    (content or parts()).save_to_disk(folder)
    return f"hf:{folder}"


def parquet(folder):
    for name, table in parts().items():
        table.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return f"hf:{folder}"


def image_folder(folder):
    for part, count, start in (("train", 20, 0), ("test", 6, 100)):
        for i in range(count):
            path = folder / part / ("cat", "dog")[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(start + i).save(path)
    return f"hf:{folder}"


@pytest.mark.parametrize("make", [saved, parquet, image_folder])
def test_images_are_those_that_were_saved(tmp_path, make):
    (tmp_path / "set" / "data").mkdir(parents=True)
    name = make(tmp_path / "set")
    data = sets.open_train(name, tmp_path)
    assert (data.classes, data.class_names, data.channels, data.resolution) == (2, ("cat", "dog"), 3, 20)
    assert (len(data.train), len(data.val)) == (18, 2)
    x, y = whole(sets.open_test(name, tmp_path))
    order = [*range(0, 6, 2), *range(1, 6, 2)] if make is image_folder else range(6)
    assert y.tolist() == [i % 2 for i in order]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.val.mean, data.val.std))
    for image, i in zip(x, order, strict=True):
        assert np.allclose((image * std + mean).permute(1, 2, 0) * 255, np.asarray(picture(100 + i)), atol=1e-3)


def test_batches_do_not_depend_on_workers_or_history(tmp_path):
    name = saved(tmp_path / "set")

    def epoch(workers):
        train = sets.open_train(name, tmp_path, workers=workers, resolution=12).train
        return list(train.batches(4, seed=1, epoch=2, augment=True, drop_last=False))

    alone = epoch(0)
    random.seed(5)
    for (x, y), (v, w) in zip(alone, epoch(1), strict=True):
        assert torch.equal(x, v)
        assert torch.equal(y, w)


def test_validation_is_the_test_set_where_labels_of_the_test_are_not_known(tmp_path):
    unknown = rows(4, label=lambda i: -1)
    content = datasets.DatasetDict(train=rows(20), validation=rows(5, start=50), test=unknown)
    assert len(sets.open_test(saved(tmp_path / "set", content), tmp_path)) == 5


def test_numbers_as_labels(tmp_path):
    content = datasets.DatasetDict(train=rows(20, names=()), test=rows(4, names=()))
    assert sets.open_train(saved(tmp_path / "set", content), tmp_path).class_names == ("0", "1")


def test_the_identity_tells_other_images(tmp_path):
    first = sets.open_train(saved(tmp_path / "a" / "set"), tmp_path).identity
    again = sets.open_train(saved(tmp_path / "b" / "set"), tmp_path).identity
    other = datasets.DatasetDict(train=rows(20, start=7), test=rows(6))
    assert first == again != sets.open_train(saved(tmp_path / "c" / "set", other), tmp_path).identity


def test_a_run_on_such_a_set_opens_without_naming_code(tmp_path):
    name = saved(tmp_path / "set")
    run, images = RunFolder(tmp_path / "run"), sets.open_train(name, tmp_path)
    settings = {"data": name, "data_root": str(tmp_path), "seed": 0, "resolution": None}
    run.begin(settings, made_with={"data": images.identity})
    assert len(run.images().val) == 2
    assert len(run.test_images()) == 6


def test_what_cannot_be_used_is_refused(tmp_path, monkeypatch):
    def told(name, content=None):
        source = saved(tmp_path / name, content) if content else f"hf:{tmp_path / name}"
        return refused(sets.open_train, source, tmp_path)

    assert "cannot open" in told("nothing")
    lacking = datasets.DatasetDict(train=rows(4, lambda i: None if i == 2 else 0), test=rows(2))
    assert "part train: row 2 has no label" in told("d", lacking)
    assert "expected train, and test or validation" in told("a", datasets.DatasetDict(test=rows(4)))
    assert "test or validation with labels" in told("b", datasets.DatasetDict(train=rows(4)))
    numbers = datasets.Dataset.from_dict({"x": [1, 2]})
    assert "has the columns x (Value)" in told("c", datasets.DatasetDict(train=numbers, test=numbers))
    beyond = datasets.DatasetDict(train=rows(4, label=lambda i: i - 1, names=()), test=rows(4, names=()))
    assert "expected labels from 0 to 2" in told("d", beyond)


def test_a_damaged_image_is_named(tmp_path):
    file = io.BytesIO()
    picture(0).save(file, "png")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [{"bytes": file.getvalue()[: -200 if i == 3 else None], "path": None} for i in range(4)]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=kinds)
    name = saved(tmp_path / "set", datasets.DatasetDict(train=rows(20), test=table))
    assert "part test: the image of row 3 cannot be read" in refused(whole, sets.open_test(name, tmp_path))


def table(pictures, labels, names=("cat", "dog")):
    """A dataset of encoded images; of bytes as they are."""
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    cells = [{"bytes": encoded(p) if isinstance(p, Image.Image) else p, "path": None} for p in pictures]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=kinds)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "png", **options)
    return file.getvalue()


def test_a_first_grey_image_does_not_make_all_grey(tmp_path):
    grey = [picture(i).convert("L") for i in range(20)]
    for name, colourful, channels in (("grey", (), 1), ("mixed", (13,), 3)):
        pictures = [picture(i) if i in colourful else image for i, image in enumerate(grey)]
        parts = datasets.DatasetDict(train=table(pictures, [i % 2 for i in range(20)]), test=table(grey[:2], [0, 1]))
        source = saved(tmp_path / name, parts)
        assert sets.open_train(source, tmp_path).channels == channels
        assert sets.open_test(source, tmp_path).channels == channels
        assert sets.open_train(source, tmp_path, old=True).channels == 1  # as version 0.1 took it


def test_a_photograph_is_turned_upright(tmp_path):
    exif, drawn = Image.Exif(), np.asarray(picture(3))
    exif[0x0112] = 6  # clockwise by a quarter
    turned = Image.fromarray(np.ascontiguousarray(drawn.transpose(1, 0, 2)[::-1]))
    pictures = [encoded(turned, exif=exif), *(picture(i) for i in range(9))]
    parts = datasets.DatasetDict(train=table(pictures, [0, 1] * 5), test=table(pictures[1:3], [0, 1]))
    data = sets.open_train(saved(tmp_path / "set", parts), tmp_path, val_fraction=0.0)
    x, _ = whole(data.train)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.train.mean, data.train.std))
    assert np.allclose((x[0] * std + mean).permute(1, 2, 0) * 255, drawn, atol=1e-3)


def test_damaged_rows_are_named_and_left_out(tmp_path):
    pictures = [picture(i) for i in range(20)]
    pictures[0], pictures[7] = b"", encoded(picture(7))[:-200]
    parts = datasets.DatasetDict(
        train=table(pictures, [i % 2 for i in range(20)], ("cat", "dog", "owl")),
        test=table([picture(30), b"no image"], [0, 1], ("cat", "dog", "owl")),
    )
    source, policy = saved(tmp_path / "set", parts), Damaged(skip=True)
    data = sets.open_train(source, tmp_path, val_fraction=0.0, workers=1, damaged=policy)
    assert data.notes == ("no test image is of class 'owl'", "no training image is of class 'owl'")
    test = sets.open_test(source, tmp_path, workers=1)
    errors, _ = inspection.faults((data.train, test))
    assert list(errors) == ["train/0", "train/7", "val/1"]
    assert "part train: row 0 is not an image" in errors["train/0"]
    x, y = whole(data.train)
    assert policy.known.keys() == {"train/0", "train/7"}
    assert y.tolist() == [i % 2 for i in range(20)]
    assert torch.equal(x[0], x[2])
    assert torch.equal(x[7], x[9])


def test_a_run_goes_on_without_rows_that_are_damaged_later(tmp_path):
    """Its images are the same; cached scores, which may be others', are told from these."""
    pictures = [picture(i) for i in range(20)]
    parts = datasets.DatasetDict(train=table(pictures, [0, 1] * 10), test=table(pictures[:2], [0, 1]))
    name = saved(tmp_path / "set", parts)
    run, images = RunFolder(tmp_path / "run"), sets.open_train(name, tmp_path, val_fraction=0.3)
    run.begin({"data": name, "data_root": str(tmp_path), "seed": 0, "resolution": None}, images=images)
    bad = [f"train/{images.val.index[0]}", f"train/{images.train.index[0]}"]
    remember(run.damaged_path, dict.fromkeys(bad, "spoiled"))
    later = run.images()
    assert len(later.val) == len(images.val) - 1
    assert len(later.train) == len(images.train)
    assert later.identity == {**images.identity, "left_out": sorted(bad, key=lambda n: int(n[6:]))}


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert "pip install 'supernet[hf]'" in refused(sets.open_train, "hf:somewhere", tmp_path)
