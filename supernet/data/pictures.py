"""Pictures as they come, from files or code: upright, of eight bits, grey or in colour, and of a network's size.

Every source passes here. It needs NumPy and Pillow alone: a copy of this file goes with exported networks.

- EXIF's orientation is applied.
- 16 bits become 8 over the whole range, 0 to 65,535; floats over 0 to 1. Other numbers are refused.
- What is transparent lies on white.
- Palettes, CMYK and the like become colours; colour profiles are not applied.
- Of several frames or pages the first one counts.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

# What version 0.1 read, in which a run of it goes on; and what was added.
OLD_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SUFFIXES = (*OLD_SUFFIXES, ".apng", ".avif", ".gif", ".jfif", ".jp2", ".jpe", ".pbm", ".pnm")
# What files are read as, whatever their names. PostScript is none of it: it is a program, which Ghostscript would run.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF")
# Pillow warns of larger ones, and takes twice as many for an attack: telephones have 200 million.
Image.MAX_IMAGE_PIXELS = 1 << 28
# Of archivers, servers and systems, besides all whose names begin with a dot.
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
Box = tuple[float, float, float, float]  # left, upper, right, lower
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
GREY_MODES = ("1", "L", "LA", "La")
WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class Fit:
    """How a picture becomes the pixels that a network takes: resized, then the middle of it.

    Args:
        size: height and width of what the network takes.
        cover: height and width that the picture is resized to just cover; None squeezes the whole picture to ``size``.
        mode: ``RGB``, or ``L`` for grey.
        interpolation: ``bicubic`` or ``bilinear``.
        reduced: a JPEG file may be decoded at a part of its size (``resized_part``).
    """

    size: tuple[int, int]
    cover: tuple[int, int] | None = None
    mode: str = "RGB"
    interpolation: str = "bicubic"
    reduced: bool = True

    def __call__(self, image: Image.Image) -> Image.Image:
        """Of a picture as ``lazily`` or ``plain`` has it."""
        (across, down), (height, width) = size(image), self.size
        whole, resample = (0, 0, across, down), Image.Resampling[self.interpolation.upper()]
        if self.cover is None:
            return resized_part(image, whole, (width, height), self.mode, resample)
        lowest, narrowest = self.cover
        if narrowest * down >= lowest * across:  # the width decides: the height is left over
            resized = narrowest, int(narrowest * down / across)
        else:
            resized = int(lowest * across / down), lowest
        image = resized_part(image, whole, resized, self.mode, resample)
        left, upper = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        return image.crop((left, upper, left + width, upper + height))

    def pixels(self, path: str | Path) -> np.ndarray:
        """Of the picture in a file: uint8 [height, width, channels]."""
        with opened(path) as file, image_in(file) as image:
            pixels = np.array(self(lazily(image) if self.reduced else plain(image)))  # PyTorch wants it writable
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def each(self, paths: Iterable[str | Path]) -> Iterator[tuple[Path, str | None, np.ndarray]]:
        """The pixels of what is ``found``; pictures that cannot be read are left out, and told."""
        for path, folder in found(paths):
            try:
                pixels = self.pixels(path)
            except Exception as error:  # the decoders raise whatever damaged bytes lead to
                logging.warning("%s cannot be read: %s", path, error)
                continue
            yield path, folder, pixels


def found(paths: Iterable[str | Path]) -> Iterator[tuple[Path, str | None]]:
    """The files that are named, and the pictures in folders and below them, in order; hidden ones are passed over.

    Each comes with the folder within the named one that it lies in, which is its class where folders are classes.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path, None
            continue
        for where, folders, names in os.walk(path, followlinks=True):
            folders[:] = sorted(name for name in folders if not (is_hidden(name) or is_circular(where, name)))
            within = Path(where).relative_to(path).parts
            for name in sorted(names):
                if is_picture(name):
                    yield Path(where, name), within[0] if within else None


def opened(path: str | Path) -> BinaryIO:
    """A file to be read. What is no file, such as a pipe, is empty, and nobody waits for who writes to it."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def image_in(file: BinaryIO) -> Image.Image:
    """The picture in a file, not decoded yet; an ``UnidentifiedImageError`` where it is none of ``FORMATS``."""
    Image.init()  # once: whatever this Pillow reads
    try:
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError("its content is no image of a known kind") from error


def is_picture(name: str) -> bool:
    """Whether a file has the name of a picture, and is not hidden."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's or a tool's own, not a person's."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_circular(where: str, name: str) -> bool:
    """Whether a folder is a link to one that it was reached by, so that a walk through it would not end."""
    path = os.path.join(os.path.abspath(where), name)
    if not os.path.islink(path):
        return False
    target = Path(os.path.realpath(path))
    return any(Path(os.path.realpath(above)).is_relative_to(target) for above in Path(path).parents)


def lazily(image: Image.Image) -> Image.Image:
    """As ``plain`` has it; but a JPEG file stays undecoded, so that ``resized_part`` may decode a reduced one."""
    return image if isinstance(image, JpegImageFile) else plain(image)


def plain(image: Image.Image) -> Image.Image:
    """A picture upright, as ``L`` or ``RGB``.

    Raises:
        ValueError: numbers or colours that are not known how to show.
    """
    image.load()
    turn = TURN.get(orientation(image))  # now: loading a TIFF file turns it
    mode = "L" if is_grey(image) else "RGB"
    if is_numbers(image):
        values, clear = np.asarray(image), image.info.get("transparency")  # of PNG: a grey that is transparent
        image = Image.fromarray(np.where(values == clear, np.uint8(255), _eight_bits(values)))
    elif image.has_transparency_data:
        below = Image.new("RGBA", image.size, WHITE)
        below.alpha_composite(image.convert("RGBA"))
        image = below
    if image.mode != mode:
        image = image.convert(mode)
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF's, from 1, which is upright, to 8; 1 where the tag is missing or damaged."""
    with contextlib.suppress(Exception):  # the bytes are anybody's, and the pixels may be fine
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def size(image: Image.Image) -> tuple[int, int]:
    """Across and down, upright: a JPEG file that was not decoded may still lie on its side."""
    across, down = image.size
    return (down, across) if isinstance(image, JpegImageFile) and orientation(image) in SIDEWAYS else (across, down)


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has shades of grey alone by its kind, or by its palette; its pixels are not looked at."""
    if image.mode in ("P", "PA"):
        colours = np.array(image.getpalette("RGB") or (), dtype=np.uint8).reshape(-1, 3)
        return bool((colours == colours[:, :1]).all())
    return image.mode in GREY_MODES or is_numbers(image)


def is_numbers(image: Image.Image) -> bool:
    """Whether the pixels have more than eight bits."""
    return image.mode.startswith(("I", "F"))


def is_animated(image: Image.Image) -> bool:
    """Whether a file has several frames or pages. Pictures behind a photograph (MPO, of phones) do not count."""
    return not isinstance(image, JpegImageFile) and getattr(image, "is_animated", False)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # so written, NaN is refused, too
            raise ValueError(f"its pixels are floats from {low:g} to {high:g}, expected 0 to 1; scale them")
        return np.rint(values * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"its pixels are numbers from {low:.0f} to {high:.0f}, expected 0 to 65535; scale them")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def resized_part(
    image: Image.Image, box: Box, size: tuple[int, int], mode: str, resample: Image.Resampling
) -> Image.Image:
    """The part ``box`` of a picture, in pixels of the whole upright one, as ``mode`` and of ``size`` (across, down).

    A JPEG file is decoded at a half, a quarter or an eighth of its size where the part keeps at least as many pixels
    as it is resized to (libjpeg's scaling, by ``Image.draft``). Its pixels differ a little from those by way of the
    full size; those of files that are not reduced are the same to the bit.
    """
    if isinstance(image, JpegImageFile):
        image, box = _decoded(image, box, size)
    left, upper = math.floor(box[0]), math.floor(box[1])
    right, lower = min(math.ceil(box[2]), image.width), min(math.ceil(box[3]), image.height)
    if (left, upper, right, lower) != (0, 0, *image.size):
        image = image.crop((left, upper, right, lower))
    if image.mode != mode:
        image = image.convert(mode)
    inner = (box[0] - left, box[1] - upper, min(box[2] - left, image.width), min(box[3] - upper, image.height))
    return image.resize(size, resample, inner)


def _decoded(image: JpegImageFile, box: Box, size: tuple[int, int]) -> tuple[Image.Image, Box]:
    """A JPEG file no larger than needed, upright, and the box in its pixels."""
    turned, whole = orientation(image), image.size
    across, down = ((end - start) // wanted for start, end, wanted in zip(box[:2], box[2:], size, strict=True))
    scale = max((scale for scale in (2, 4, 8) if scale <= min(across, down)), default=1)
    drafted = image.draft(None, (whole[0] // scale, whole[1] // scale)) if scale > 1 else None
    if drafted is not None:  # its second value says what the whole image has become
        across, down = (end / before for end, before in zip(drafted[1][2:], whole, strict=True))
        if turned in SIDEWAYS:
            across, down = down, across
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return (image.transpose(TURN[turned]) if turned in TURN else image), box
