"""What face networks are tested on, each with images of its own: pairs, templates, and galleries with distractors.

``NAME.bin``: pairs with their pictures in one file, as insightface packs LFW, CFP-FP, CPLFW, AgeDB, CALFW
(``pair_files``).

``NAME/pairs.txt`` and ``NAME/IDENTITY/*.jpg``: pairs in LFW's format (``faces``).

``NAME/*_face_tid_mid.txt``, ``*_template_pair_label.txt`` and ``images/*``, aligned: templates as of IJB-B and IJB-C,
by lines ``image template medium``, and their pairs, ``template template 0|1``.

``NAME/Probe``, ``Gallery_Match`` and, if there is one, ``Gallery_Distractor``: identification as on TinyFace, where a
file's name begins with its identity, a number before ``_``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from supernet.data import faces, pair_files
from supernet.data.decoding import DecodedImages
from supernet.data.pictures import image_in, is_picture
from supernet.data.transforms import face
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size

DISTRACTOR = -1  # the identity of those that are nobody's match
PARTS = ("Probe", "Gallery_Match", "Gallery_Distractor")


@dataclass(frozen=True)
class Pairs:
    """1:1 verification of images: places of the images of N pairs, int64 [N], and whether they show the same person."""

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class Templates:
    """1:1 verification of templates, each several images of a person, some of them frames of one medium.

    Attributes:
        template, medium: of each image, int64 [M].
        first, second: the templates of N pairs, int64 [N]. same: bool [N].
    """

    template: np.ndarray
    medium: np.ndarray
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray


@dataclass(frozen=True)
class Identification:
    """1:N identification: the identity of each image, and whether it is in the gallery; all others are probes."""

    identity: np.ndarray  # int64 [M]; DISTRACTOR: nobody's match
    gallery: np.ndarray  # bool [M]


@dataclass(frozen=True)
class Benchmark:
    """Images, and by which protocol their embeddings are judged."""

    name: str
    images: DecodedImages
    protocol: Pairs | Templates | Identification

    @property
    def digest(self) -> str:
        """16 hex digits that name the images and what is asked about them."""
        content = hashlib.sha256(self.images.digest().encode())
        for name in sorted(vars(self.protocol)):
            content.update(np.ascontiguousarray(getattr(self.protocol, name)).tobytes())
        return content.hexdigest()[:16]


class PictureBytes(DecodedImages):
    """Encoded pictures in memory."""

    def __init__(self, pictures: Sequence[bytes], source: str, size: Size, workers: int):
        self.pictures, self.source = pictures, source
        grey = (0.5, 0.5, 0.5)
        super().__init__(np.zeros(len(pictures), np.int64), grey, grey, size, face(size), workers)
        self.part = "faces"

    def digest(self) -> str:
        """By the bytes of the pictures."""
        content = hashlib.sha256()
        for picture in self.pictures:
            content.update(hashlib.sha256(picture).digest())
        return content.hexdigest()[:16]

    @contextlib.contextmanager
    def opened(self, index: int) -> Iterator[Image.Image]:
        try:
            yield image_in(io.BytesIO(self.pictures[index]))
        except Exception as error:  # the decoders raise whatever damaged bytes lead to
            raise UserError(f"{self.source}: picture {index} cannot be read ({error})", "damaged") from error


def open_benchmark(path: Path, resolution: int, workers: int = 0) -> Benchmark:
    """The benchmark in a file or folder, by what lies there.

    Raises:
        UserError: it is none of the kinds above, or damaged.
    """
    size = Size.of(resolution)
    if path.suffix == ".bin":
        pictures, same = pair_files.read(path)
        places = np.arange(len(pictures))
        protocol = Pairs(places[::2], places[1::2], np.array(same))
        return Benchmark(path.stem, PictureBytes(pictures, str(path), size, workers), protocol)
    if (path / "pairs.txt").is_file():
        return _of_pairs(path, resolution, workers)
    if (path / "Probe").is_dir():
        return _of_gallery(path, resolution, workers)
    if lists := sorted(path.glob("*_face_tid_mid.txt")):
        return _of_templates(path, lists[0], resolution, workers)
    raise UserError(
        f"{path} is no benchmark of faces: expected NAME.bin, or a folder with pairs.txt, with *_face_tid_mid.txt, or "
        "with Probe and Gallery_Match"
    )


def open_all(paths: Sequence[Path], resolution: int, workers: int = 0) -> list[Benchmark]:
    """The benchmarks; a UserError where two have one name."""
    found = [open_benchmark(path, resolution, workers) for path in paths]
    names = [benchmark.name for benchmark in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two benchmarks are called {twice[0]}: rename one")
    return found


def _of_pairs(path: Path, resolution: int, workers: int) -> Benchmark:
    pairs = faces.open_test(path, path / "pairs.txt")
    names = sorted({name for pair in pairs for name in pair[:2]})
    place = {name: i for i, name in enumerate(names)}
    first, second, same = (
        np.array(column) for column in zip(*((place[a], place[b], c) for a, b, c in pairs), strict=True)
    )
    return Benchmark(path.name, faces.images(path, {"": names}, resolution, workers), Pairs(first, second, same))


def _of_templates(path: Path, images: Path, resolution: int, workers: int) -> Benchmark:
    pairs = path / images.name.replace("_face_tid_mid", "_template_pair_label")
    rows, numbers = _words(images, 3), _words(pairs, 3)
    try:
        template, medium = (np.array([row[column] for row in rows]).astype(np.int64) for column in (1, 2))
        first, second, same = np.array(numbers).astype(np.int64).T
    except ValueError as error:
        raise UserError(f"{images} and {pairs}: expected whole numbers of templates and media ({error})") from error
    if unknown := np.setdiff1d(np.concatenate([first, second]), template).tolist():
        raise UserError(f"{pairs} has the template {unknown[0]}, of which {images} has no image")
    names = [f"images/{row[0]}" for row in rows]
    if missing := [name for name in names if not (path / name).is_file()]:
        lost = several(len(missing), "image that is", "images that are")
        raise UserError(f"{images} names {lost} not there, such as {path / missing[0]}")
    found = faces.images(path, {"": names}, resolution, workers)
    return Benchmark(path.name, found, Templates(template, medium, first, second, same == 1))


def _words(path: Path, count: int) -> list[list[str]]:
    """The words of each line."""
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != count), None)
    if wrong is not None or not rows:
        raise UserError(f"{path}, line {wrong or 1}: expected {count} words")
    return rows


def _of_gallery(path: Path, resolution: int, workers: int) -> Benchmark:
    names, identity, gallery = list[str](), list[int](), list[bool]()
    for part in PARTS:
        folder = path / part
        if not folder.is_dir():
            if part == PARTS[2]:
                continue
            raise UserError(f"expected a folder {folder} of images; create it")
        for entry in sorted(filter(is_picture, os.listdir(folder))):
            number = entry.partition("_")[0]
            if part != PARTS[2] and not number.isdecimal():
                raise UserError(f"{folder / entry}: expected a name that begins with its identity, such as 17_2.jpg")
            names.append(f"{part}/{entry}")
            identity.append(DISTRACTOR if part == PARTS[2] else int(number))
            gallery.append(part != PARTS[0])
    known = {i for i, within in zip(identity, gallery, strict=True) if within and i != DISTRACTOR}
    probes = {i for i, within in zip(identity, gallery, strict=True) if not within}
    if not probes:
        raise UserError(f"found no images in {path / PARTS[0]}: add some")
    if lacking := sorted(probes - known):
        raise UserError(f"{path / PARTS[1]} has no image of the probes' identity {lacking[0]}: add one")
    found = faces.images(path, {"": names}, resolution, workers)
    return Benchmark(path.name, found, Identification(np.array(identity), np.array(gallery)))
