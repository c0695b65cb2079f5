"""Images decoded once: the same batches from memory and from a file, which is whole, recognised, and never resident."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.data import sets, stored
from supernet.data.folder import FolderImages
from supernet.data.images import Batches, Inputs
from supernet.errors import UserError
from supernet.progress import silent
from tests.conftest import whole


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / ("val" if i < 4 else "train") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def opened(folder, resolution=16, **options):
    return sets.open_train("folder", folder, val_per_class=4, resolution=resolution, **options).val


def same(a, b):
    pairs = list(zip(a, b, strict=True))
    return len(pairs) > 0 and all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in pairs)


def files(folder):
    return sorted(path.name for path in folder.glob("validation-*.npy"))


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded."""
    count, pixels = [], FolderImages.pixels
    monkeypatch.setattr(FolderImages, "pixels", lambda *args: (count.append(1), pixels(*args))[1])
    return count


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_from_file_and_memory_are_those_decoded(folder, tmp_path, workers):
    images = opened(folder, workers=workers)
    for kept in (stored.in_file(images, tmp_path / "run"), stored.in_memory(images)):
        assert kept.preparation == images.preparation
        assert same(kept.plain_batches(3), images.plain_batches(3))
        some = np.array([5, 1, 2])
        assert same([whole(kept.take(some))], [whole(images.take(some))])
        half = kept.subset(4, seed=1)
        assert same([whole(half)], [whole(images.subset(4, seed=1))])
        assert same([whole(half.take(np.array([2])))], [whole(images.subset(4, seed=1).take(np.array([2])))])
        with pytest.raises(ValueError, match="augment=False"):
            next(kept.batches(2, seed=0, epoch=0, augment=True, drop_last=False))


def test_the_file_is_made_once_and_used_again(folder, tmp_path, decoded):
    run = tmp_path / "run"
    bars = []

    def progress(*args, **named):
        bars.append(silent(*args, **named))
        return bars[-1]

    kept = stored.in_file(opened(folder), run, progress)
    assert [bar.count for bar in bars] == [8]
    (name,) = files(run)
    assert np.load(run / name)["pixels"].shape == (8, 16, 16, 3)
    decoded.clear()
    whole(kept)
    assert not decoded
    whole(stored.in_file(opened(folder), run))
    assert len(decoded) <= stored.PROBES
    assert files(run) == [name]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_copy_for_another_process_serves_the_same(folder, tmp_path, workers):
    """Workers of a cluster get what has decoded images already."""
    kept = stored.in_file(opened(folder, workers=workers), tmp_path / "run")
    copy = pickle.loads(pickle.dumps(kept))
    assert same(copy.plain_batches(3), kept.plain_batches(3))
    train = sets.open_train("folder", folder, val_per_class=4, resolution=16, workers=workers).train
    expected = [whole(train)]
    assert same([whole(pickle.loads(pickle.dumps(train)))], expected)


def test_a_stale_file_is_replaced(folder, tmp_path):
    run, names = tmp_path / "run", []

    def serve(**options):
        images = opened(folder, **options)
        assert same([whole(stored.in_file(images, run))], [whole(images)])
        names.extend(files(run))

    serve()
    serve(resolution=12)
    picture = folder / "train" / "a" / "10.png"
    shutil.copy(folder / "train" / "a" / "12.png", picture)
    serve()
    serve(seed=1)  # another split
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-500] + bytes([content[-500] ^ 4]) + content[-499:],  # one bit, of the last image
    ],
)
def test_a_damaged_file_is_made_anew(folder, tmp_path, damage):
    images, run = opened(folder), tmp_path / "run"
    whole(stored.in_file(images, run))
    path = run / files(run)[0]
    content = path.read_bytes()
    path.write_bytes(damage(content))
    (run / f".{path.name}.x").write_bytes(b"left by a killed process")
    assert same([whole(stored.in_file(images, run))], [whole(images)])
    assert path.read_bytes() == content
    assert not (run / f".{path.name}.x").exists()


def test_nothing_is_left_of_a_file_that_cannot_be_made(folder, tmp_path):
    images, run = opened(folder), tmp_path / "run"
    bad = folder / "train" / os.fsdecode(images.names[5])
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=bad.name):
        stored.in_file(images, run)
    assert not [path for path in run.glob("*") if path.suffix != ".lock"]


def test_several_at_once_make_one_file(folder, tmp_path):
    images = opened(folder)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: whole(stored.in_file(images, tmp_path / "run")), range(4)))
    assert all(same([part], [whole(images)]) for part in parts)
    assert len(files(tmp_path / "run")) == 1


def test_sets_in_memory_stay_as_they_are(tmp_path):
    digits = sets.open_train("digits", tmp_path).val
    assert stored.in_file(digits, tmp_path) is digits
    assert stored.in_memory(digits) is digits


def test_batches_can_be_iterated_again(tmp_path):
    batches = Batches(sets.open_train("digits", tmp_path).val, 50)
    assert len(batches) == 3
    assert same(batches, batches)
    inputs = Inputs(batches)
    assert len(inputs) == 3
    assert all(torch.equal(x, v) for x, (v, _) in zip(inputs, batches, strict=True))


MEASURE = """
    import numpy as np, resource, sys
    from pathlib import Path
    from search.evaluator import Evaluator
    from search.run import Scoring
    from supernet.data import stored
    from supernet.data.decoding import DecodedImages
    from supernet.model import Supernet
    from supernet.space import Choice, Gene, Space

    count, side = int(sys.argv[2]), 224

    class Sparse(DecodedImages):  # stands for images that were decoded; labels alternate
        def opened(self, index):
            raise AssertionError("decoded again")

    labels = np.arange(count) % 10
    images = Sparse(labels, (0.5,) * 3, (0.5,) * 3, side, (None, None), 0)
    path = Path(sys.argv[1])
    shape = (count, side, side, 3)
    with path.open("wb") as file:  # all rows are black, and take no space on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + count * side * side * 3)
    kept = stored.StoredImages(images, lambda places: np.lib.format.open_memmap(path, mode="r")[places])
    gene = Gene("layer0", (Choice("ib", 3, 1), Choice("ib", 5, 1)), 4, 8, 2)
    space = Space("tiny", 3, side, 10, 4, 4, 16, "relu6", (gene,), ((0, 1),))
    supernet = Supernet(space)
    evaluator = Evaluator(supernet, [], Scoring("inherited", memory=2**28).batches(supernet, kept), mode="inherited")
    print(evaluator([(0,)])[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def peak_gib(tmp_path, count):
    """Accuracy and peak resident memory of a process that scores a network on ``count`` images of 224 by 224."""
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), tmp_path / "validation.npy", str(count)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return tuple(map(float, told.stdout.split()))


def test_memory_does_not_grow_with_the_images(tmp_path):
    _, few = peak_gib(tmp_path, 1000)
    accuracy, peak = peak_gib(tmp_path, 3000)  # 0.3 GB more of pixels, 1.2 GB as float32
    assert accuracy == pytest.approx(0.1)  # one class is always named
    assert peak < few + 0.1


@pytest.mark.slow  # takes minutes: 7.5 GB of pixels
def test_scoring_on_fifty_thousand_images_stays_below_two_gigabytes(tmp_path):
    accuracy, peak = peak_gib(tmp_path, 50_000)
    assert accuracy == pytest.approx(0.1)
    assert peak < 2e9 / 2**30
