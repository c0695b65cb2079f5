"""Faces: a folder of identities and a pairs file, split by identity into training, validation and test.

``ROOT/IDENTITY/*.jpg`` (or .png, .pgm, …). The pairs file is LFW's: ``name i j`` for a pair of the same identity,
``name1 i name2 j`` for a different one, separated by blanks; i counts the identity's sorted files from 1, and a first
line of numbers only is skipped. Identities of the pairs file are the test and are never trained on; a share of the
others is held out for the search.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from supernet.data.damaged import Damaged
from supernet.data.folder import FolderImages
from supernet.data.images import SPLIT, ImageSet, generator
from supernet.data.pictures import is_hidden, is_picture
from supernet.data.split import Files, Split
from supernet.data.transforms import face
from supernet.data.words import listed
from supernet.errors import UserError
from supernet.quantities import several
from supernet.size import Size

PART = "faces"  # before the names of images, which are in no part of a set
Pair = tuple[str, str, bool]  # two paths within the root, and whether they show the same identity


@dataclass(frozen=True)
class Faces:
    """What a search may see: images to train on, and pairs of identities that they do not show."""

    train: FolderImages
    pairs: tuple[Pair, ...]  # of held-out identities
    identities: tuple[str, ...]  # of the training images, by label
    split: Split | None = None
    notes: tuple[str, ...] = ()

    def readable(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Those of which both images can be read, as far as is known."""
        bad = self.train.damaged.known
        return tuple(pair for pair in pairs if not any(f"{PART}/{name}" in bad for name in pair[:2]))

    def whole(self) -> Faces:
        """The same with the identities that validate among those that train, so that nothing validates."""
        assert self.split is not None
        assert self.split.files is not None
        files, by_identity = self.split.files, dict[str, list[str]]()
        for name, label in zip(files.names, files.labels, strict=True):
            by_identity.setdefault(files.classes[label], []).append(name)
        train = images(self.train.folder, by_identity, self.train.size.height, self.train.workers)
        train.damaged = self.train.damaged
        there = {name for names in scan(self.train.folder).values() for name in names}
        train.leave_out({f"{PART}/{name}" for name in files.names if name not in there} | train.damaged.known.keys())
        return Faces(train, (), tuple(by_identity), self.split)


def open_train(
    root: Path,
    pairs: Path | None,
    resolution: int,
    seed: int = 0,
    val_fraction: float = 0.1,
    workers: int = 0,
    split: Split | None = None,
    damaged: Damaged | None = None,
) -> Faces:
    """Training images and validation pairs; nothing of the identities in the pairs file, if there is one.

    Validation has at least four identities, and as many pairs of the same as of different ones, in turn.

    Args:
        split: which identities train and which validate, and their files, as a run drew them.
        damaged: what is done about images that cannot be read; pairs go without those that are known.

    Raises:
        UserError: folders or files that are missing or damaged, too few identities, a wrong pairs file.
    """
    there = scan(root)
    if split is None:
        split = _split(root, pairs, there, seed, val_fraction)
    if split.files is None:
        raise UserError("the split of the run is not one of files: start over")
    training: dict[str, list[str]] = {}
    validation: dict[str, list[str]] = {}
    validates = np.isin(np.arange(split.images), split.val)
    for name, label, held in zip(split.files.names, split.files.labels, validates, strict=True):
        (validation if held else training).setdefault(split.files.classes[label], []).append(name)
    train = images(root, training, resolution, workers)
    train.damaged = damaged or Damaged()
    gone = set(split.files.names).difference(*there.values())
    train.leave_out({f"{PART}/{name}" for name in gone} | train.damaged.known.keys())
    drawn = tuple(pair for pair in draw_pairs(validation, seed) if not gone.intersection(pair[:2]))
    lost = f"{several(len(gone), 'image is', 'images are')} gone: {listed(sorted(gone))}"
    notes = (f"{root}: since the run began {lost}",) if gone else ()
    opened = Faces(train, drawn, tuple(training), split, notes)
    return dataclasses.replace(opened, pairs=opened.readable(drawn))


def _split(root: Path, pairs: Path | None, files: dict[str, list[str]], seed: int, val_fraction: float) -> Split:
    """Identities drawn to validate, and all others that the pairs file does not name, with their files."""
    tested = {name.partition("/")[0] for pair in (open_test(root, pairs) if pairs else ()) for name in pair[:2]}
    rest = sorted(name for name, paths in files.items() if name not in tested and len(paths) > 1)
    held = max(4, round(val_fraction * len(rest)))
    if len(rest) < held + 2:
        others = f" that {pairs} does not name" if pairs else ""
        raise UserError(
            f"{root} has {several(len(rest), 'identity', 'identities')} with two images or more{others}: expected at "
            f"least {held + 2}, of which {held} are held out"
        )
    order = torch.randperm(len(rest), generator=generator(SPLIT, seed)).tolist()
    names = [name for identity in rest for name in files[identity]]
    labels = np.repeat(np.arange(len(rest)), [len(files[identity]) for identity in rest])
    sizes = np.array([(root / name).stat().st_size for name in names])
    val = np.flatnonzero(np.isin(labels, order[:held]))
    return Split(3, len(names), val, Files(tuple(rest), names, labels, sizes))


def open_test(root: Path, pairs: Path) -> tuple[Pair, ...]:
    """The pairs of the pairs file.

    Raises:
        UserError: a line that is no pair, or names an identity or image that the folder does not have.
    """
    files = scan(root)
    try:
        lines = pairs.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the pairs file {pairs}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or (number == 1 and all(word.isdigit() for word in words)):
            continue
        if len(words) == 3:
            first, second = (words[0], words[1]), (words[0], words[2])
        elif len(words) == 4:
            first, second = (words[0], words[1]), (words[2], words[3])
        else:
            raise UserError(f"{pairs}, line {number}: expected 'name i j' or 'name1 i name2 j', got {line!r}")
        paths = []
        for name, index in (first, second):
            if name not in files:
                raise UserError(f"{pairs}, line {number}: no identity {name!r} in {root}")
            if not index.isdigit() or not 1 <= int(index) <= len(files[name]):
                raise UserError(f"{pairs}, line {number}: {name} has images 1 to {len(files[name])}, got {index}")
            paths.append(files[name][int(index) - 1])
        found.append((paths[0], paths[1], first[0] == second[0]))
    if len({same for *_, same in found}) < 2:
        raise UserError(
            f"{pairs}: expected pairs of the same and of different identities, got {len(found)} of one kind"
        )
    return tuple(found)


def scan(root: Path) -> dict[str, list[str]]:
    """Sorted image paths within ``root`` by identity."""
    if not root.is_dir():
        raise UserError(f"expected a folder {root} with a folder of images for each identity; create it")
    files = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and not is_hidden(entry.name):
            files[entry.name] = [f"{entry.name}/{name}" for name in sorted(filter(is_picture, os.listdir(entry)))]
    if not any(files.values()):
        raise UserError(f"found no images in the folders of {root}: expected {root}/IDENTITY/*.jpg (or .png, .pgm, …)")
    return files


def draw_pairs(files: dict[str, list[str]], seed: int, most: int = 600) -> tuple[Pair, ...]:
    """Up to ``most`` pairs, the same and different identities in turn; no pair twice."""
    rng = np.random.default_rng([seed, 3])
    names = sorted(files)
    same = [(a, b, True) for name in names for i, a in enumerate(files[name]) for b in files[name][i + 1 :]]
    count = min(most // 2, len(same))
    different: set[Pair] = set()
    possible = sum(len(files[a]) * len(files[b]) for i, a in enumerate(names) for b in names[i + 1 :])
    count = min(count, possible)
    while len(different) < count:
        a, b = sorted(rng.choice(len(names), 2, replace=False))
        left, right = files[names[a]], files[names[b]]
        different.add((left[rng.integers(len(left))], right[rng.integers(len(right))], False))
    drawn = [same[i] for i in rng.permutation(len(same))[:count]]
    others = sorted(different)
    others = [others[i] for i in rng.permutation(count)]
    return tuple(pair for both in zip(drawn, others, strict=True) for pair in both)


def images(root: Path, files: dict[str, list[str]], resolution: int, workers: int = 0) -> FolderImages:
    """The files as RGB images in [-1, 1], labelled by the order of ``files``; flipped at random when augmented."""
    names = np.array([os.fsencode(path) for paths in files.values() for path in paths])
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
    mean = std = (0.5, 0.5, 0.5)
    found = FolderImages(
        root, names, labels.astype(np.int64), mean, std, Size.of(resolution), face(Size.of(resolution)), workers
    )
    found.part = PART
    return found


def embed(model: nn.Module, root: Path, paths: Sequence[str], resolution: int) -> np.ndarray:
    """Embeddings ``[N, E]`` of files."""
    return embeddings(model, images(root, {"": list(paths)}, resolution))


@torch.inference_mode()
def embeddings(model: nn.Module, pictures: ImageSet, batch_size: int = 64) -> np.ndarray:
    """Embeddings ``[N, E]`` in eval mode; an image and its mirror image are added, as the protocols of LFW do."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    rows = []
    try:
        for x, _ in pictures.in_order(batch_size):
            x = x.to(device)
            rows.append((model(x) + model(x.flip(3))).cpu())
    finally:
        model.train(training)
    return torch.cat(rows).numpy()


def pair_embeddings(
    model: nn.Module, root: Path, pairs: Sequence[Pair], resolution: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings ``[N, E]`` of the pairs' first and second images, and whether they are the same: ``[N]``."""
    paths = sorted({path for pair in pairs for path in pair[:2]})
    row = {path: i for i, path in enumerate(paths)}
    rows = embed(model, root, paths, resolution)
    first, second = rows[[row[a] for a, _, _ in pairs]], rows[[row[b] for _, b, _ in pairs]]
    return first, second, np.array([same for _, _, same in pairs])
