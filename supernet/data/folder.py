"""``ROOT/train/CLASS/*`` and ``ROOT/val/CLASS/*``: which files are images, and what else lies there."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from supernet.data import pictures, transforms
from supernet.data.decoding import DecodedImages
from supernet.data.own import Channels
from supernet.data.pictures import OLD_SUFFIXES, SUFFIXES, is_circular, is_hidden, is_picture
from supernet.data.policies import Transform
from supernet.data.split import Files
from supernet.data.words import changed, listed
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size


class FolderImages(DecodedImages):
    """Image files.

    The names are one array of bytes: a list of a million strings would be copied into every worker, page by
    page, as their reference counts change.
    """

    def __init__(
        self,
        folder: Path,
        names: np.ndarray,
        labels: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: Size,
        transforms: tuple[Transform, Transform],
        workers: int,
    ):
        """names: bytes [N], relative to the folder."""
        self.folder, self._names = folder, names
        self._sizes: np.ndarray | None = None
        super().__init__(labels, mean, std, size, transforms, workers)

    @property
    def names(self) -> np.ndarray:
        """Of the files: bytes [N], relative to the folder."""
        return self._names[self.index]

    @property
    def sizes(self) -> np.ndarray:
        """Of the files in bytes when this was first asked for: int64 [N]; -1 where there is none."""
        if self._sizes is None:
            folder = os.fsencode(self.folder)
            paths = (os.path.join(folder, name) for name in self._names.tolist())
            self._sizes = np.fromiter(map(_size, paths), "<i8", len(self._names))
        return self._sizes[self.index]

    def digest(self) -> str:
        """By the names and sizes of the files, and by the labels."""
        content = (super().digest().encode(), self.sizes.tobytes(), *self.names.tolist())
        return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]

    def name(self, index: int) -> str:
        return f"{self.part}/{os.fsdecode(self._names[index])}"

    @contextlib.contextmanager
    def opened(self, index: int) -> Iterator[Image.Image]:
        path = self.folder / os.fsdecode(self._names[index])
        try:
            with pictures.opened(path) as file:
                yield pictures.image_in(file)
        except Exception as error:  # the decoders raise whatever damaged bytes lead to, and every one has its own ways
            raise UserError(
                f"expected an image in {path}, but it cannot be read ({error}); replace or delete it", "damaged"
            ) from error


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


@dataclass(frozen=True)
class Listing:
    """What lies in the class folders of a folder.

    Attributes:
        names: of the image files, relative to the folder, class by class: text.
        labels: their places in ``classes``, int64 [N].
        hidden: folders that were passed over: those of tools and systems, links in a circle, or of no class of these.
        others: numbers of files that are no images, by their suffixes.
        strays: how many images lie beside the class folders.
    """

    folder: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: np.ndarray
    hidden: tuple[str, ...]
    others: dict[str, int]
    strays: int

    @property
    def notes(self) -> list[str]:
        """What a person should know: what was passed over, and that there is nothing to tell apart."""
        found = []
        if self.hidden:
            found.append(f"{self.folder}: folders passed over: {listed(self.hidden)}")
        if self.others:
            counts = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in sorted(self.others.items())]
            found.append(f"{self.folder}: files passed over, as they are no images: {listed(counts, quote=False)}")
        if self.strays:
            one = several(self.strays, "image lies beside the class folders", "images lie beside the class folders")
            found.append(f"{self.folder}: {one}, of no class, and passed over")
        if len(self.classes) == 1:
            found.append(f"{self.folder}: {self.classes[0]!r} is the only class, so that every answer is right")
        return found


def scan(folder: Path, classes: Sequence[str] | None = None, old: bool = False) -> Listing:
    """Lists ``folder/CLASS/**`` once; at a million files that takes seconds, and nothing looks at them again.

    Args:
        classes: list these alone; by default all that there are.
        old: as version 0.1 did, hidden folders and all.

    Raises:
        UserError: it cannot be read, or has no classes.
    """
    suffixes = OLD_SUFFIXES if old else SUFFIXES
    names, labels, hidden, others = list[str](), list[int](), list[str](), collections.Counter[str]()
    try:
        entries = list(os.scandir(folder))
        there = sorted(entry.name for entry in entries if entry.is_dir())
        strays = 0 if old else sum(is_picture(entry.name) and entry.is_file() for entry in entries)
        if classes is None:
            classes = [name for name in there if old or not is_hidden(name)]
        elif not set(classes) <= set(there):
            now = [name for name in there if not is_hidden(name)]
            told = f"{folder} has other classes than the run began with: {changed(classes, now)}"
            raise UserError(f"{told}; restore them, or start over")
        hidden += [name for name in there if name not in classes]
        for label, name in enumerate(classes):
            for where, passed, files in sorted(_walk(os.path.join(folder, name), old)):
                beyond = os.path.relpath(where, folder)
                hidden += [os.path.join(beyond, inner) for inner in passed]
                for file in sorted(files):
                    suffix = os.path.splitext(file)[1].lower()
                    if suffix in suffixes:
                        names.append(os.path.join(beyond, file))
                        labels.append(label)
                    else:
                        others[suffix] += 1
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error}; check the folder") from error
    if not classes:
        raise UserError(f"cannot read {folder}: expected a folder of images for each class, found none; add them")
    array = np.array(labels, dtype=np.int64)
    return Listing(folder, tuple(classes), names, array, tuple(hidden), {} if old else dict(others), strays)


def _walk(folder: str, old: bool) -> Iterator[tuple[str, list[str], list[str]]]:
    """A folder and those below it, in any order: where, folders in it that are passed over, files in it."""

    def refuse(error: OSError) -> None:
        raise error

    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        passed = [name for name in folders if is_circular(where, name) or (not old and is_hidden(name))]
        folders[:] = [name for name in folders if name not in passed]
        yield where, passed, [name for name in files if old or not is_hidden(name)]


def require_names(listing: Listing) -> None:
    """Refuse names of classes that no file of text can hold."""
    if odd := [name for name in listing.classes if name != name.encode(errors="ignore").decode()]:
        raise UserError(f"{listing.folder} has class folders whose names are not UTF-8: {listed(odd)}; rename them")


def require_images(listing: Listing) -> None:
    """Refuse classes without images."""
    size = np.bincount(listing.labels, minlength=len(listing.classes))
    if empty := [str(listing.folder / listing.classes[label]) for label in np.flatnonzero(size == 0)]:
        told = listed(empty, quote=False)
        raise UserError(f"expected images (.jpg, .png, …) in {told}, found none; add some or delete the folder")


def require_same_classes(train: Listing, test: Listing) -> None:
    """Refuse class folders that only one part has, before any training."""
    missing = [name for name in train.classes if name not in test.classes]
    added = [name for name in test.classes if name not in train.classes]
    if not (missing or added):
        return
    lacks = [(test, missing), (train, added)]
    told = "; ".join(f"{part.folder} lacks {listed(names)}" for part, names in lacks if names)
    alike = {_folded(name): name for name in added}
    pairs = [f"{name!r} and {alike[_folded(name)]!r}" for name in missing if _folded(name) in alike]
    hint = f" ({listed(pairs, quote=False)} seem to be one class)" if pairs else ""
    raise UserError(
        f"expected the same class folders for training and test: {told}{hint}; rename or delete folders, or add images"
    )


def _folded(name: str) -> str:
    """A name without what people and file systems write in several ways: case, accents' composition, blanks."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())


def scan_both(root: Path, old: bool = False) -> tuple[Listing, Listing]:
    """The listings of ``root/train`` and ``root/val``; a UserError where one is not there."""
    for folder in (root / "train", root / "val"):
        if not folder.is_dir():
            raise UserError(f"expected a folder {folder} with one folder of images per class; create it")
    return scan(root / "train", old=old), scan(root / "val", old=old)


def open_folder(
    root: Path, part: str, size: Size, workers: int, channels: Channels, old: bool = False
) -> tuple[FolderImages, tuple[str, ...], list[str]]:
    """The images of a part, ``train`` or ``val``; class names; what a person should know of the folder.

    Args:
        channels: decides on the channels.
        old: as version 0.1 read it.

    Raises:
        UserError: the folder is none of this kind.
    """
    train, test = scan_both(root, old)
    require_same_classes(train, test)  # whichever part is asked for: now, not after days of search
    require_names(train)
    require_images(train)
    require_images(test)

    def is_grey(index: int) -> bool:
        with pictures.opened(train.folder / train.names[index]) as file, pictures.image_in(file) as image:
            return pictures.is_grey(image)

    wanted, listing = channels(len(train.names), is_grey), train if part == "train" else test
    images = listing_images(listing, size, workers, wanted)
    return images, listing.classes, [*train.notes, *test.notes]


def reopen_folder(
    root: Path, part: str, size: Size, workers: int, channels: int, files: Files
) -> tuple[FolderImages, list[str]]:
    """The images of a part as a run has them, whatever else lies there now; what has changed since, in words.

    Of the training part, files that are gone keep their places and are among the ``bad`` ones.

    Raises:
        UserError: a class is missing, or most files are.
    """
    listing = scan(root / part, files.classes)
    if part != "train":
        require_images(listing)
        return listing_images(listing, size, workers, channels), []
    images = _images(listing.folder, files.names, files.labels, size, workers, channels)
    was, there_is = files.sizes >= 0, images.sizes >= 0
    gone = np.flatnonzero(~there_is)
    if 2 * len(gone) > len(images):
        there = f"{len(images) - len(gone)} of the {len(images)} images that the run began with"
        raise UserError(f"{listing.folder} has {there}: expected the same folder")
    images.bad |= set(gone.tolist())
    replaced = np.flatnonzero((images.sizes != files.sizes) & was & there_is)
    changes = (
        (
            [files.names[i] for i in gone if was[i]],
            "image is gone, another of its class trains in its place",
            "images are gone, others of their classes train in their places",
        ),
        (
            [files.names[i] for i in replaced],
            "image has been replaced and is used as it is",
            "images have been replaced and are used as they are",
        ),
        (
            sorted(set(listing.names) - set(files.names)),
            "image has been added and is not used",
            "images have been added and are not used",
        ),
    )
    since = f"{listing.folder}: since the run began"
    notes = [f"{since} {several(len(names), one, more)}: {listed(names)}" for names, one, more in changes if names]
    try:  # now, not after days of search
        require_images(scan(root / "val", files.classes))
    except UserError as error:
        notes.append(f"{error}: a network cannot be tested until then")
    if classes := [name for name in listing.hidden if os.path.dirname(name) == "" and not is_hidden(name)]:
        notes.append(f"{since} classes have been added and are not used: {listed(classes)}")
    return images, notes


def listing_images(listing: Listing, size: Size, workers: int, channels: int) -> FolderImages:
    """All images of a listing."""
    return _images(listing.folder, listing.names, listing.labels, size, workers, channels)


def _images(
    folder: Path, names: Sequence[str], labels: np.ndarray, size: Size, workers: int, channels: int
) -> FolderImages:
    mean, std = transforms.GREY if channels == 1 else transforms.IMAGENET
    both = transforms.photograph(size, "L" if channels == 1 else "RGB")
    return FolderImages(folder, np.array(list(map(os.fsencode, names))), labels, mean, std, size, both, workers)
