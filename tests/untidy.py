"""Draws a folder of images as people have them: every kind of file, systems' litter, damaged files, uneven classes.

What each file shows is known: ``Untidy.shown`` has it as 8-bit RGB, computed here from the drawing and not read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH, BLOCK = 80, 112, 16
CLASSES = {"cat": (200, 40, 40), "dog": (40, 190, 60), "owl": (50, 70, 210)}  # their main colours
COUNTS = {"cat": 24, "dog": 14, "owl": 4}  # plain pictures to train on
# Pixel (y, x) of the upright picture lies at these places of the stored one, [h, w], by EXIF's orientation (its
# table: what the 0th row and column of the stored picture are).
STORED = {
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[::-1],
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: p.transpose(1, 0, 2)[:, ::-1],
}


@dataclass(frozen=True)
class Untidy:
    """The folder.

    Attributes:
        shown: what readable files show, uint8 [HEIGHT, WIDTH, 3], by their names within ``root``; not to the bit where
            they are in ``lossy``.
        damaged: names of files that cannot be read.
        copies: pairs of near-duplicates in training and test.
    """

    root: Path
    shown: dict[str, np.ndarray]
    lossy: frozenset[str]
    damaged: frozenset[str]
    copies: frozenset[tuple[str, str]]


def picture(label: str, number: int) -> np.ndarray:
    """Uint8 [HEIGHT, WIDTH, 3]: blocks around the class's colour, no two pictures alike and none symmetric."""
    rng = np.random.default_rng([*label.encode(), number])
    blocks = rng.integers(-40, 41, (HEIGHT // BLOCK, WIDTH // BLOCK, 3)) + np.array(CLASSES[label])
    pixels = np.clip(blocks, 0, 255).astype(np.uint8).repeat(BLOCK, 0).repeat(BLOCK, 1)
    pixels[4:16, 6:38] = 255 - pixels[4:16, 6:38]
    return pixels


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """Its green channel as grey: uint8 [HEIGHT, WIDTH]."""
    return pixels[:, :, 1]


def draw(root: Path, damaged: bool = True) -> Untidy:
    """Draw it into an empty folder ``root``."""
    shown: dict[str, np.ndarray] = {}
    lossy, bad = set(), set()

    def put(name: str, image: Image.Image, expected: np.ndarray, **options: object) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
        shown[name] = np.broadcast_to(expected if expected.ndim == 3 else expected[:, :, None], (HEIGHT, WIDTH, 3))

    for label, count in COUNTS.items():
        for part, numbers in (("train", range(count)), ("val", range(100, 103))):
            for number in numbers:
                name = f"{part}/{label}/{number:03}.png"
                put(name, Image.fromarray(picture(label, number)), picture(label, number))
    _kinds(put, lossy)
    copies = set()
    for number in (1, 2):  # the test has two training pictures, one smaller and one encoded otherwise
        small = Image.fromarray(picture("dog", number)).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX)
        again = small if number == 1 else Image.fromarray(picture("dog", number))
        path = root / "val" / "dog" / f"copy-{number}.jpg"
        again.save(path, quality=80)
        copies.add((f"train/dog/{number:03}.png", f"val/dog/copy-{number}.jpg"))
    _litter(root)
    if damaged:
        bad = _damage(root)
    return Untidy(root, shown, frozenset(lossy), frozenset(bad), frozenset(copies))


def _kinds(put, lossy: set[str]) -> None:
    """One file of each kind, all cats to train on."""
    for orientation, stored in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "jpg", "tif"):
            pixels = picture("cat", 200 + orientation)
            name = f"train/cat/turned-{orientation}.{suffix}"
            quality = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
            put(name, Image.fromarray(np.ascontiguousarray(stored(pixels))), pixels, exif=exif, **quality)
            lossy |= {name} if quality else set()
    grey = grey_of(picture("cat", 300))
    put("train/cat/deep.png", Image.fromarray(grey.astype(np.uint16) * 257), grey)
    put("train/cat/deep.tif", Image.fromarray(grey.astype(np.uint16) * 257), grey)
    put("train/cat/floats.tif", Image.fromarray(grey.astype(np.float32) / 255), grey)
    put("train/cat/whole-numbers.tif", Image.fromarray(grey.astype(np.int32) * 257), grey)
    put("train/cat/grey.jpg", Image.fromarray(grey), grey, quality=95)
    put("train/cat/bits.png", Image.fromarray(np.where(grey > 60, 255, 0).astype(np.uint8)).convert("1"),
        np.where(grey > 60, 255, 0).astype(np.uint8))  # fmt: skip
    colours = picture("cat", 301)
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[: HEIGHT // 4], alpha[HEIGHT // 4 : HEIGHT // 2] = 255, 128
    opaque = alpha[:, :, None] / 255
    on_white = np.rint(colours * opaque + 255 * (1 - opaque)).astype(np.uint8)
    put("train/cat/alpha.png", Image.fromarray(np.dstack([colours, alpha])), on_white)
    put("train/cat/alpha.webp", Image.fromarray(np.dstack([colours, alpha])), on_white, lossless=True, exact=True)
    shades = np.rint(grey * opaque[:, :, 0] + 255 * (1 - opaque[:, :, 0])).astype(np.uint8)
    put("train/cat/grey-alpha.png", Image.fromarray(np.dstack([grey, alpha])), shades)
    five = np.array([[255, 0, 0], [0, 160, 0], [0, 0, 90], [250, 250, 0], [9, 8, 7]], np.uint8)
    places = (np.add.outer(np.arange(HEIGHT) // 8, np.arange(WIDTH) // 7) % 5).astype(np.uint8)
    palette = Image.fromarray(places)
    palette.putpalette(five.tobytes())
    put("train/cat/palette.png", palette, five[places])
    clear = np.where((places == 3)[:, :, None], 255, five[places])
    put("train/cat/palette-clear.png", palette, clear, transparency=3)
    put("train/cat/palette-clear.gif", palette, clear, transparency=3)
    inks = np.random.default_rng(5).integers(0, 256, (HEIGHT // BLOCK, WIDTH // BLOCK, 4)).astype(np.uint8)
    inks = inks.repeat(BLOCK, 0).repeat(BLOCK, 1)
    printed = np.rint((255.0 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255).astype(np.uint8)
    put("train/cat/inks.tif", Image.fromarray(inks, mode="CMYK"), printed)
    put("train/cat/inks.jpg", Image.fromarray(inks, mode="CMYK"), printed, quality=95)
    frames = [Image.fromarray(picture("cat", number)) for number in (302, 303, 304)]
    for suffix in ("png", "webp", "tif"):
        options = {"lossless": True} if suffix == "webp" else {}
        first = picture("cat", 302)
        put(f"train/cat/frames.{suffix}", frames[0], first, save_all=True, append_images=frames[1:], **options)
    lossy |= {"train/cat/grey.jpg", "train/cat/inks.jpg"}


def _litter(root: Path) -> None:
    """What systems and tools leave."""
    for folder in ("train", "val", "train/dog", "train/dog/deeper"):
        hidden = root / folder / ".ipynb_checkpoints"
        hidden.mkdir(parents=True)
        Image.fromarray(picture("owl", 400)).save(hidden / "000-checkpoint.png")
    (root / "train" / "__MACOSX" / "dog").mkdir(parents=True)
    (root / "train" / "__MACOSX" / "dog" / "._000.png").write_bytes(b"\0\5\26\7resource fork")
    (root / "train" / "dog" / "._001.png").write_bytes(b"\0\5\26\7resource fork")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (root / "train" / "cat" / name).write_bytes(b"of a system")
        (root / "train" / name).write_bytes(b"of a system")
    (root / "train" / "cat" / "notes.txt").write_text("taken in June")
    (root / "train" / "cat" / "phone.heic").write_bytes(b"\0\0\0\30ftypheic")
    Image.fromarray(picture("dog", 50)).save(root / "train" / "dog" / "deeper" / "050.PNG")


def _damage(root: Path) -> set[str]:
    """Files that cannot be read, one of them in the test."""
    bad = {name: root / name for name in ("train/dog/cut.jpg", "train/cat/empty.png", "val/cat/text.jpg")}
    Image.fromarray(picture("dog", 60)).save(bad["train/dog/cut.jpg"], quality=95)
    content = bad["train/dog/cut.jpg"].read_bytes()
    bad["train/dog/cut.jpg"].write_bytes(content[: len(content) // 2])
    bad["train/cat/empty.png"].write_bytes(b"")
    bad["val/cat/text.jpg"].write_text("<html>404 Not Found</html>")
    wild = np.linspace(-3, 812, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    Image.fromarray(wild).save(root / "train/dog/heights.tif")
    return {*bad, "train/dog/heights.tif"}
