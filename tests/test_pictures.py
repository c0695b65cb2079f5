"""Images as they come: every kind of file is read as it was drawn, by every source, in one channel or three."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from supernet.data import folder as folders
from supernet.data import pictures, sets, transforms
from supernet.data.benchmarks import PictureBytes
from supernet.data.folder import FolderImages
from supernet.data.hub import HubImages
from supernet.size import Size
from tests import untidy
from tests.conftest import refused

SIZE = Size(untidy.HEIGHT, untidy.WIDTH)
KINDS = sorted(name for name in ("alpha.png", "alpha.webp", "grey-alpha.png", "inks.jpg", "inks.tif"))  # rounded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return untidy.draw(tmp_path_factory.mktemp("untidy"), damaged=False)


def read(folder, name, mode="RGB"):
    """A file as training reads it, at its own size: uint8 [h, w, c]."""
    path = folder.root / name
    both = (pictures.Fit(SIZE, mode=mode),) * 2
    names = np.array([path.name.encode()])
    images = FolderImages(path.parent, names, np.zeros(1, np.int64), *transforms.IMAGENET, SIZE, both, 0)
    return next(images.rows(1))[0].numpy()


def test_every_file_is_read_as_it_was_drawn(folder):
    for name, expected in folder.shown.items():
        found = read(folder, name).astype(int)
        off = np.abs(found - expected)
        if name in folder.lossy:
            assert off.mean() < 3, name
        else:
            assert off.max() <= (1 if name.rpartition("/")[2] in KINDS else 0), name


def test_a_file_alone_is_read_as_a_set_reads_it(folder):
    """What goes with exported networks: every kind of file, squeezed or the middle, grey or in colour."""
    for name in folder.shown:
        for mode in ("L", "RGB"):
            found = pictures.Fit(SIZE, mode=mode).pixels(folder.root / name)
            assert np.array_equal(found, read(folder, name, mode)), name
    fit, path = pictures.Fit((32, 32), (36, 36)), folder.root / "val/cat/100.png"
    assert fit.pixels(path).shape == (32, 32, 3)
    assert np.array_equal(fit.pixels(path), np.asarray(fit(Image.open(path))))


def test_every_orientation_counts(folder):
    """A picture that lies otherwise differs by far more than JPEG does."""
    for orientation in range(2, 9):
        pixels = folder.shown[f"train/cat/turned-{orientation}.jpg"].astype(int)
        assert np.abs(pixels - pixels[::-1]).mean() > 20
        assert np.abs(pixels - pixels[:, ::-1]).mean() > 20


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("transform", [pictures.Fit, transforms.RandomPart])
def test_a_turned_photograph_is_decoded_small_and_upright(orientation, transform):
    """As the upright picture with the same draws; and no larger than needed."""
    y, x = np.mgrid[:480, :640]
    pixels = np.uint8(np.stack([x * 255 / 640, y * 255 / 480, (x + y) * 255 / 1120], -1))
    stored = untidy.STORED.get(orientation, lambda p: p)(pixels)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "jpeg", quality=95, exif=exif)
    part = transform(Size(60, 80))
    for seed in range(8):
        results = []
        for image in (pictures.lazily(Image.open(file)), Image.fromarray(pixels)):
            __import__("random").seed(seed)
            torch.manual_seed(seed)
            results.append(np.asarray(part(image), dtype=int))
            if image.size != (640, 480) and seed == 0:
                assert transform is transforms.RandomPart or image.width * image.height <= 160 * 120
        assert np.abs(results[0] - results[1]).mean() < 2.5
    assert pictures.size(pictures.lazily(Image.open(file))) == (640, 480)


def test_a_damaged_tag_leaves_the_picture_as_it_lies():
    file = io.BytesIO()
    Image.fromarray(untidy.picture("owl", 1)).save(file, "png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert pictures.orientation(Image.open(file)) == 1
    assert np.array_equal(np.asarray(pictures.plain(Image.open(file))), untidy.picture("owl", 1))


def test_sixteen_bits_span_the_whole_range():
    """Of all values the nearest of 256 even steps."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = np.asarray(pictures.plain(Image.fromarray(values)))
    assert np.array_equal(found, np.floor(values / 65535 * 255 + 0.5).astype(np.uint8))


def test_a_transparent_grey_of_sixteen_bits_is_white():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 514, 515]], np.uint16)).save(file, "png", transparency=514)
    assert np.asarray(pictures.plain(Image.open(file))).tolist() == [[0, 255, 2]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full((4, 4), 1.5, np.float32), "floats from 1.5 to 1.5, expected 0 to 1; scale them"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
        (np.array([[-1, 5]], np.int32), "numbers from -1 to 5, expected 0 to 65535; scale them"),
        (np.array([[0, 70000]], np.int32), "numbers from 0 to 70000"),
    ],
)
def test_numbers_that_nobody_can_tell_the_range_of_are_refused(tmp_path, values, told):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for i in range(2):
            Image.fromarray(values).save(tmp_path / part / "a" / f"{i}.tif")
    data = sets.open_train("folder", tmp_path)
    line = refused(list, data.val.plain_batches(1))
    assert told in line
    assert f"expected an image in {tmp_path}/train/a/" in line


def test_kinds_and_palettes_tell_grey(folder):
    def kind(name):
        with Image.open(folder.root / "train" / "cat" / name) as file:
            return pictures.is_grey(file)

    grey = ("deep.png", "deep.tif", "floats.tif", "whole-numbers.tif", "grey.jpg", "bits.png", "grey-alpha.png")
    assert all(map(kind, grey))
    assert not any(map(kind, ("000.png", "alpha.png", "palette.png", "palette-clear.gif", "inks.jpg")))
    shades = Image.new("P", (2, 2))
    shades.putpalette([7, 7, 7, 90, 90, 90])
    assert pictures.is_grey(shades)


def test_photographs_of_phones_are_not_animated(tmp_path):
    for suffix, animated in (("mpo", False), ("gif", True), ("tif", True), ("png", True), ("webp", True)):
        pages = [Image.fromarray(untidy.picture("cat", i)) for i in range(2)]
        pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
        with Image.open(tmp_path / f"a.{suffix}") as file:
            assert pictures.is_animated(file) == animated, suffix
        pages[0].save(tmp_path / f"b.{suffix}")
        with Image.open(tmp_path / f"b.{suffix}") as file:
            assert not pictures.is_animated(file), suffix


# One channel or three


def shades(root, colourful=()):
    """Grey pictures of two classes, but for those whose numbers are given."""
    for part, count in (("train", 12), ("val", 2)):
        for i in range(count):
            path = root / part / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = untidy.picture("cat", i)
            Image.fromarray(pixels if part == "train" and i in colourful else untidy.grey_of(pixels)).save(path)
    return root


@pytest.mark.parametrize(
    ("colourful", "wanted", "channels"),
    [((), None, 1), ((11,), None, 3), ((0,), None, 3), ((), 3, 3), ((11,), 1, 1)],
)
def test_a_folder_has_one_channel_where_all_files_are_grey(tmp_path, colourful, wanted, channels):
    data = sets.open_train("folder", shades(tmp_path, colourful), channels=wanted, resolution=16)
    test = sets.open_test("folder", tmp_path, channels=wanted, resolution=16)
    assert data.channels == test.channels == data.split.channels == channels
    assert next(data.train.plain_batches(2))[0].shape[1] == channels


def test_a_first_grey_picture_does_not_make_all_grey(own_file, tmp_path):
    code = """
        import numpy as np
        from PIL import Image
        picture = lambda i: Image.fromarray(np.full((12, 12) if i != {} else (12, 12, 3), i, np.uint8))
        def images():
            return [(picture(i), i % 2) for i in range(20)], [(picture(0), 0)]
    """
    for colourful, channels in ((17, 3), (99, 1)):
        name = f"{own_file(f'colours_{colourful}.py', code.format(colourful))}:images"
        assert sets.open_train(name, tmp_path).channels == channels
        assert sets.open_train(name, tmp_path, channels=4 - channels).channels == 4 - channels
        assert sets.open_train(name, tmp_path, old=True).channels == 1  # as version 0.1 took it


def test_a_set_of_a_known_depth_takes_no_other(tmp_path):
    assert "digits has images of 1 channel, got 3; leave it out" in refused(
        sets.open_train, "digits", tmp_path, channels=3
    )
    assert "expected 1 or 3 channels, got 2" in refused(sets.open_train, "digits", tmp_path, channels=2)


def test_nobody_waits_for_a_pipe(tmp_path):
    """It is damaged; in a process of its own, as a test that waits does not end."""
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(3):
            Image.new("L", (4, 4), number).save(tmp_path / part / "a" / f"{number}.png")
    os.mkfifo(tmp_path / "train" / "a" / "pipe.jpg")
    code = """
import sys
from pathlib import Path
from supernet.data import pictures, sets
folder = Path(sys.argv[1])
read = [path.name for path, *_ in pictures.Fit((4, 4)).each([folder / "train"])]
images = sets.open_train("folder", folder, resolution=4, val_fraction=0.25)
whole = len(images.train) + len(images.val)
try:
    list(images.train.in_order(1)), list(images.val.in_order(1))
except Exception as error:
    print(read, whole, error)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['0.png', '1.png', '2.png'] 4 expected an image in ")
    assert "pipe.jpg, but it cannot be read" in done.stdout
    assert "pipe.jpg cannot be read" in done.stderr


def test_a_program_is_no_picture_whatever_it_is_called(tmp_path, monkeypatch):
    """PostScript, which Pillow has Ghostscript run: by no source, nor by what goes with exported networks."""
    Image.new("RGB", (4, 4)).save(tmp_path / "program.jpg", "EPS")
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: ran.append(_) or Image.new("RGB", (4, 4)).im)
    with Image.open(tmp_path / "program.jpg") as image:
        image.load()
    assert len(ran) == 1  # by Pillow alone
    program, both = (tmp_path / "program.jpg").read_bytes(), (pictures.Fit((4, 4)),) * 2
    settings = np.zeros(1, np.int64), *transforms.IMAGENET, Size(4, 4), both, 0
    with pytest.raises(UnidentifiedImageError):
        pictures.Fit((4, 4)).pixels(tmp_path / "program.jpg")
    for images in (
        FolderImages(tmp_path, np.array([b"program.jpg"]), *settings),
        HubImages([{"image": {"bytes": program}}], "image", "hf:some", *settings),
        PictureBytes([program], "some.bin", Size(4, 4), 0),
    ):
        assert "image" in refused(list, images.in_order(1))
    assert len(ran) == 1


def test_links_in_a_circle_are_passed_over(tmp_path):
    for name in ("train/a", "train/b", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    (tmp_path / "train/a/up").symlink_to("..")
    (tmp_path / "train/a/self").symlink_to(".")
    (tmp_path / "train/b/more").symlink_to(tmp_path / "elsewhere")  # no circle in itself
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "train/b")
    there = {"a/0.png", "b/0.png", "b/more/0.png"}
    listing = folders.scan(tmp_path / "train")
    assert sorted(listing.names) == sorted(there)
    assert set(listing.hidden) == {"a/up", "a/self", "b/more/back"}
    found = [path for path, _ in pictures.found([tmp_path / "train"])]
    assert sorted(found) == sorted(tmp_path / "train" / name for name in there)


def test_a_single_class_is_told_and_names_that_are_no_text_are_refused(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(2):
            Image.new("L", (4, 4), number).save(tmp_path / part / "a" / f"{number}.png")
    told = f"{tmp_path / 'train'}: 'a' is the only class, so that every answer is right"
    assert told in sets.open_train("folder", tmp_path).notes
    for part in ("train", "val"):
        shutil.copytree(tmp_path / part / "a", tmp_path / part / os.fsdecode(b"\xff"))
    assert "names are not UTF-8: '\\udcff'; rename them" in refused(sets.open_train, "folder", tmp_path)


def test_photographs_of_200_million_pixels_are_no_attack(tmp_path):
    """Telephones have them; Pillow refuses more than 179 million otherwise, and warns, which fails here, from 89 on."""
    path = tmp_path / "telephone.png"
    Image.new("1", (16_320, 12_240)).save(path)
    with pictures.opened(path) as file:
        assert pictures.image_in(file).size == (16_320, 12_240)
