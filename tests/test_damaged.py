"""Images that cannot be read: refused or left out, before or in the middle of an epoch, the same by every way."""

import json
import logging
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import damaged, findings, inspection, sets, stored
from supernet.data.damaged import Damaged
from supernet.data.split import Draw
from supernet.errors import UserError
from supernet.model import Network
from supernet.runs import RunFolder
from supernet.space import Choice, Gene, Space
from supernet.training.config import FitConfig
from supernet.training.loop import fit
from tests.conftest import refused, whole

EPOCH = {"seed": 1, "epoch": 2, "augment": True, "drop_last": False}
A_BAD, B_BAD = "a/05.png", "b/11.png"


@pytest.fixture
def folder(tmp_path):
    """Two classes of 16 training images of noise, 4 to test on."""
    for part, count in (("train", 16), ("val", 4)):
        for label, name in enumerate("ab"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng([label, i, count]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "images" / part / name / f"{i:02}.png")
    return tmp_path / "images"


def damage(folder, *names, part="train"):
    for name in names:
        path = folder / part / name
        path.write_bytes(path.read_bytes()[:100])


def opened(folder, policy=None, **options):
    given = {"val_fraction": 0.0, "resolution": 12, "damaged": policy or Damaged(), **options}
    return sets.open_train("folder", folder, **given)


def same(left, right):
    pairs = list(zip(left, right, strict=True))
    return len(pairs) > 0 and all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in pairs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [False, True])
def test_the_next_of_the_class_is_served_in_its_place(folder, workers, augment, caplog):
    """As if its file were a copy of the next one's, which is drawn here by hand."""
    epoch = {**EPOCH, "augment": augment}
    intact = opened(folder).train
    originals = {name: (folder / "train" / name).read_bytes() for name in ("a/05.png", "a/06.png", "b/15.png")}
    for name, other in (("a/05.png", "a/07.png"), ("a/06.png", "a/07.png"), ("b/15.png", "b/00.png")):
        (folder / "train" / name).write_bytes((folder / "train" / other).read_bytes())
    expected = list(intact.batches(5, **epoch))
    for name, content in originals.items():
        (folder / "train" / name).write_bytes(content)
    damage(folder, *originals)
    policy = Damaged(skip=True)
    with caplog.at_level(logging.WARNING):
        found = opened(folder, policy, workers=workers).train
        assert same(found.batches(5, **epoch), expected)  # found out in the middle
        assert same(found.batches(5, **epoch), expected)  # known
    told = [record.getMessage() for record in caplog.records]
    assert same(opened(folder, policy, workers=workers).train.batches(5, **epoch), expected)  # known from the start
    assert same(found.batches(5, **epoch, start=3), expected[3:])
    ranks = [list(opened(folder, Damaged(skip=True)).train.batches(3, **epoch, rank=r, world=2)) for r in range(2)]
    alone = list(opened(folder, Damaged(skip=True)).train.batches(6, **epoch))
    for rank in range(2):
        assert same(ranks[rank], [(x[rank::2], y[rank::2]) for x, y in alone])
    assert sorted(policy.known) == [f"train/{name}" for name in sorted(originals)]
    assert len(told) == 3
    assert f"left out from here on: expected an image in {folder}/train/a/05.png, but it cannot be read" in "\n".join(
        told
    )


def test_the_global_generators_are_left_alone(folder):
    damage(folder, A_BAD)

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = state()
    assert len(list(opened(folder, Damaged(skip=True)).train.batches(5, **EPOCH))) == 7
    assert state() == before


def test_a_class_without_any_is_told(folder):
    damage(folder, *(f"b/{i:02}.png" for i in range(16)))
    train = opened(folder, Damaged(skip=True)).train
    assert "no image of the class of train/b/" in refused(list, train.batches(5, **EPOCH))


def test_stop_refuses_and_leaves_nothing(folder, tmp_path):
    damage(folder, A_BAD)
    policy = Damaged(path=tmp_path / "damaged.json")
    with pytest.raises(UserError, match=r"a/05.png, but it cannot be read") as caught:
        list(opened(folder, policy).train.batches(5, **EPOCH))
    assert caught.value.missing == "damaged"
    assert not (tmp_path / "damaged.json").exists()


def test_what_is_wrong_with_code_is_never_skipped(own_file):
    code = """
        import numpy as np
        class Set:
            targets = [0, 1] * 8
            def __len__(self): return 16
            def __getitem__(self, i): return np.zeros((8, 8), np.uint8), (i + (i == 5)) % 2
        def images(): return Set(), Set()
    """
    name = f"{own_file('wrong_labels.py', code)}:images"
    train = sets.open_train(name, "data", val_fraction=0, damaged=Damaged(skip=True)).train
    assert "item 5 has the label 0, had 1 at first" in refused(list, train.batches(4, **EPOCH))


# Remembered


def begun(folder, tmp_path, policy, **options):
    run = RunFolder(tmp_path / "run", skip_damaged=policy.skip)
    images = opened(folder, policy, val_fraction=0.25, **options)
    settings = {"data": "folder", "data_root": str(folder), "seed": 0, "resolution": 12}
    run.begin(settings, images=images)
    policy.path = run.damaged_path
    return run, images


def test_every_later_tool_skips_the_same(folder, tmp_path):
    content = (folder / "train" / A_BAD).read_bytes()
    damage(folder, A_BAD)
    run, images = begun(folder, tmp_path, Damaged(skip=True), fold=None)
    assert not run.damaged_path.exists()
    first = list(images.train.batches(4, **EPOCH))
    list(images.val.batches(4, **EPOCH))
    damage(folder, "a/01.png", part="val")
    _, y = whole(RunFolder(run.path, skip_damaged=True).test_images())
    known = json.loads(run.damaged_path.read_text())["images"]
    assert sorted(known) == [f"train/{A_BAD}", "val/a/01.png"]
    assert str(folder / "train" / A_BAD) in known[f"train/{A_BAD}"]
    (folder / "train" / A_BAD).write_bytes(content)  # repaired: it stays out of this run
    for later in (RunFolder(run.path), RunFolder(run.path, skip_damaged=True)):
        found = later.images()
        assert same(found.train.batches(4, **EPOCH), first)
        assert len(later.test_images()) == len(y) - 1 == 7
    assert "is not a readable list of damaged images" in refused(damaged.read, spoiled(run.damaged_path))


def spoiled(path):
    path.write_text("{}")
    return path


def test_a_link_to_nothing_is_left_out_by_every_later_tool(folder, tmp_path, caplog):
    for name in ("00.png", "17.png"):  # a class's first place and its last
        (folder / "train/a" / name).unlink(missing_ok=True)
        (folder / "train/a" / name).symlink_to("nowhere.png")
    policy = Damaged(skip=True)
    run, images = begun(folder, tmp_path, policy)
    first = list(images.train.batches(4, **EPOCH))
    list(images.val.batches(4, **EPOCH))
    for name in ("00.png", "17.png"):
        policy.found(f"train/a/{name}", UserError("no such file", "damaged"))
    later = RunFolder(run.path).images()
    assert same(later.train.batches(4, **EPOCH), first)
    assert not later.notes  # they were not there when the run began, either


def test_a_damaged_validation_image_does_not_validate(folder, tmp_path):
    run, images = begun(folder, tmp_path, Damaged(skip=True))
    bad = images.val.names[0].decode()
    damage(folder, bad)
    first = stored.in_file(images.val, run.path)
    assert whole(first)[1].tolist() == images.val.labels.tolist()  # found out just now: the next one takes its place
    x, _ = whole(first)
    assert torch.equal(x[0], x[1])
    later = run.images().val
    assert len(later) == len(images.val) - 1
    assert torch.equal(whole(later)[0], x[1:])


def test_what_is_damaged_is_not_drawn_to_validate(folder):
    """The split is that of the folder without it, as ``supernet data`` tells it; a class that is lost is a problem."""
    bad = [name for name in opened(folder, val_fraction=None).val.names.tolist() if name.startswith(b"a/")]
    damage(folder, *map(bytes.decode, bad))
    policy, source = Damaged(skip=True), sets.Source("folder", folder, 12)
    policy.known |= {f"train/{name.decode()}": "spoiled" for name in bad}
    val = opened(folder, policy, val_fraction=None).val.names.tolist()
    found = findings.read_all(findings.open_all(source, Draw(few=50)), skip=True)
    assert [found.found["train"].name(place) for place in found.val] == [f"train/{name.decode()}" for name in val]
    assert found.problems == []
    for name in bad:
        (folder / "train" / name.decode()).unlink()
    assert val == opened(folder, val_fraction=None).val.names.tolist()
    damage(folder, *(f"a/{path.name}" for path in (folder / "train/a").iterdir()))
    found = findings.read_all(findings.open_all(source, Draw(few=50)), skip=True)
    assert "class 'a' has no training image left that can be read" in "".join(found.problems)


def test_several_at_once_remember_in_one_file(tmp_path):
    names = {f"train/a/{i}.png" for i in range(64)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: damaged.remember(tmp_path / "damaged.json", {name: "spoiled"}), names))
    assert damaged.read(tmp_path / "damaged.json").keys() == names


# In the middle of a training


def train(data, path, epochs=2):
    gene = Gene("layer0", (Choice("ib", 3, 1),), 4, 8, 2)
    space = Space("tiny", 3, 12, 2, 4, 2, 8, "relu6", (gene,), ((0,),))
    torch.manual_seed(0)
    network = Network(space, (0,))
    cfg = FitConfig(epochs, 4, 0.05, augment=True, checkpoint_minutes=1000)
    fit(network, data, lambda step: None, cfg, path, meta={"kind": "network"})
    return network.state_dict()


def equal(left, right):
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_a_training_that_stops_at_a_damaged_image_loses_no_step(folder, tmp_path):
    """Its file is damaged in the second epoch; repaired, the same training ends with the bits of one never stopped."""
    expected = train(opened(folder).train, tmp_path / "whole")
    images, content = opened(folder).train, (folder / "train" / B_BAD).read_bytes()
    batches, served = images.batches, []

    def spoil(*arguments, epoch, **options):
        for batch in batches(*arguments, epoch=epoch, **options):
            served.append(epoch)
            if len(served) == 9:  # of the second epoch one batch is out
                damage(folder, B_BAD)
            yield batch

    images.batches = spoil
    with pytest.raises(UserError, match=r"b/11.png, .*; step (9|1\d) is saved") as caught:
        train(images, tmp_path / "run")
    assert caught.value.missing == "damaged"
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == len(served) >= 9
    (folder / "train" / B_BAD).write_bytes(content)
    assert equal(train(opened(folder).train, tmp_path / "run"), expected)


def test_a_training_goes_on_where_images_are_skipped(folder, tmp_path):
    """With the bits of a training whose file held the next image of the class from the start."""
    content = (folder / "train" / B_BAD).read_bytes()
    (folder / "train" / B_BAD).write_bytes((folder / "train" / "b" / "12.png").read_bytes())
    expected = train(opened(folder).train, tmp_path / "whole")
    (folder / "train" / B_BAD).write_bytes(content)
    damage(folder, B_BAD)
    assert equal(train(opened(folder, Damaged(skip=True)).train, tmp_path / "run"), expected)


# Read before


@pytest.mark.parametrize("workers", [0, 2])
def test_every_file_is_read_once_before(folder, workers):
    damage(folder, A_BAD, "b/00.png")
    damage(folder, "a/03.png", part="val")
    images = opened(folder, workers=workers)
    test = sets.open_test("folder", folder, resolution=12, workers=workers)
    errors, animated = inspection.faults((images.train, images.val, test))
    assert list(errors) == ["train/a/05.png", "train/b/00.png", "val/a/03.png"]
    assert animated == []
    told = inspection.refusal(errors)
    assert str(told) == (
        "3 images cannot be read: 'train/a/05.png', 'train/b/00.png', 'val/a/03.png'; replace or delete them"
    )
