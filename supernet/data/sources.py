"""Where the small image sets come from: read from disk, checked, fetched where they are missing."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supernet.errors import UserError
from supernet.files import write_bytes
from supernet.quantities import several

PACKAGE = "dataset-fashion-mnist"  # Debian's and Ubuntu's; Expat licence
INSTALLED = Path("/usr/share/datasets/fashion-mnist")  # where that package puts its four .gz files
# SHA-256 of the uncompressed files. Debian's compressed streams are, byte for byte, those of the archives
# that the authors published in August 2017 and torchvision pins by MD5: only the gzip headers differ.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AssertionError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Raw:
    """One part, train or test, of a data set.

    Attributes:
        images: uint8 [N, side, side, channels].
        labels: int64 [N].
        mirror: a mirrored image is still of its class.
    """

    images: Tensor
    labels: np.ndarray
    class_names: tuple[str, ...]
    mirror: bool


def digits(root: Path, train: bool) -> Raw:
    """scikit-learn's 1797 digits, enlarged from 8x8 to 28x28.

    They have no official test part: 360 are set aside, the same ones always. ``root`` is not used.
    """
    from sklearn.datasets import (
        load_digits,
    )  # here, since it takes a second that the other sets need not wait for
    from sklearn.model_selection import train_test_split

    data = load_digits()
    parts = train_test_split(np.arange(len(data.target)), test_size=360, stratify=data.target, random_state=0)
    index = np.sort(parts[0] if train else parts[1])
    images = torch.from_numpy(data.images[index]).unsqueeze(1) * (255 / 16)  # [N, 1, 8, 8], 0 to 255
    images = torch.nn.functional.interpolate(images, size=28, mode="bilinear").round().byte()
    names = tuple(str(name) for name in data.target_names)
    return Raw(images.permute(0, 2, 3, 1), data.target[index].astype(np.int64), names, mirror=False)


def fashion_mnist(root: Path, train: bool) -> Raw:
    """Zalando's 60,000 + 10,000 pictures of clothes, 28x28 grey, from ``root/FashionMNIST/raw``.

    Raises:
        UserError: it is not there and cannot be fetched; a file is damaged.
    """
    fetch_fashion_mnist(root)
    part = root / "FashionMNIST" / "raw" / ("train" if train else "t10k")
    # Parsed from the very bytes that were hashed: torchvision's reader would open the file again, or even
    # another one (an old processed/training.pt goes first). 16 and 8 bytes are the idx headers, which the
    # hash covers.
    images = np.frombuffer(_verified(Path(f"{part}-images-idx3-ubyte")), np.uint8, offset=16)
    labels = np.frombuffer(_verified(Path(f"{part}-labels-idx1-ubyte")), np.uint8, offset=8)
    return Raw(
        torch.from_numpy(images.reshape(-1, 28, 28, 1).copy()),
        labels.astype(np.int64),
        FASHION_CLASSES,
        mirror=True,
    )


def fetch_fashion_mnist(root: Path, network: bool = True) -> None:
    """Puts the missing ones of its files into ``root/FashionMNIST/raw``, each whole and checked, or none.

    Sources, in turn: the installed Debian package; the same package by ``apt-get download``, which needs no
    root; and, with ``network``, torchvision's download.

    Raises:
        UserError: every source failed (the message says how), or the folder cannot be written.
    """
    raw = root / "FashionMNIST" / "raw"
    missing = [name for name in FASHION_MNIST if not (raw / name).exists()]
    if not missing:
        return
    failures = []
    for what, source in (("package", _installed), ("apt", _apt), ("download", _download))[: 3 if network else 2]:
        try:
            with tempfile.TemporaryDirectory() as scratch:
                folder = source(Path(scratch))
                found = {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in missing}
            for name, data in found.items():
                if hashlib.sha256(data).hexdigest() != FASHION_MNIST[name]:
                    raise ValueError(f"{name}.gz is not the published file")
        except (*DAMAGE, RuntimeError, subprocess.SubprocessError) as error:
            failures.append(f"{what}: {_reason(error)}")
            continue
        for name, data in found.items():
            write_bytes(raw / name, data)
        return
    raise UserError(
        f"fashion-mnist is not in {raw} and cannot be fetched ({'; '.join(failures)}); "
        f"put {', '.join(missing)} there, uncompressed, or use digits"
    )


def _installed(scratch: Path) -> Path:
    if not INSTALLED.is_dir():
        raise FileNotFoundError(f"{PACKAGE} is not installed")
    return INSTALLED


def _apt(scratch: Path) -> Path:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FileNotFoundError("no apt-get and dpkg on this system")
    patience = [
        "-o",
        "Acquire::Retries=1",
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Acquire::https::Timeout=20",
    ]
    _command(scratch, "apt-get", "--quiet", *patience, "download", PACKAGE)
    (archive,) = scratch.glob("*.deb")
    _command(scratch, "dpkg", "-x", archive.name, "unpacked")
    return scratch / "unpacked" / INSTALLED.relative_to("/")


def _command(folder: Path, *words: str) -> None:
    subprocess.run(
        words,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )


def _download(scratch: Path) -> Path:
    import torchvision

    torchvision.datasets.FashionMNIST(scratch, download=True)
    return scratch / "FashionMNIST" / "raw"


def _verified(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable or delete it") from error
    if hashlib.sha256(data).hexdigest() != FASHION_MNIST[path.name]:
        raise UserError(f"{path} is damaged (its SHA-256 is not the published one); delete it, it is fetched again")
    return data


def kmnist(root: Path, train: bool) -> Raw:
    """Kuzushiji-MNIST: 60,000 + 10,000 Japanese characters of 10 classes, 28x28 grey."""
    where = "the four uncompressed idx files into {root}/KMNIST/raw"
    data = _torchvision("KMNIST", root, train, where)
    return _checked(data.data.unsqueeze(-1), data.targets, data.classes, 28, 1, False, root / "KMNIST")


def emnist(root: Path, train: bool) -> Raw:
    """EMNIST balanced: 112,800 + 18,800 letters and digits of 47 classes, 28x28 grey."""
    where = "the uncompressed emnist-balanced-* idx files into {root}/EMNIST/raw"
    data = _torchvision("EMNIST", root, train, where, split="balanced")
    images = data.data.unsqueeze(-1).transpose(1, 2).contiguous()  # the files hold columns where MNIST's hold rows
    return _checked(images, data.targets, data.classes, 28, 1, False, root / "EMNIST")


def cifar10(root: Path, train: bool) -> Raw:
    """CIFAR-10: 50,000 + 10,000 photographs of 10 classes, 32x32 RGB."""
    return _cifar("CIFAR10", root, train)


def cifar100(root: Path, train: bool) -> Raw:
    """CIFAR-100: 50,000 + 10,000 photographs of 100 classes, 32x32 RGB."""
    return _cifar("CIFAR100", root, train)


def _cifar(name: str, root: Path, train: bool) -> Raw:
    # Its files are pickles. torchvision compares each with a pinned MD5 before it unpickles any.
    data = _torchvision(name, root, train, "the unpacked {dataset.filename} into {root}")
    folder = root / data.base_folder
    return _checked(torch.from_numpy(data.data), data.targets, data.classes, 32, 3, True, folder)


def _torchvision(name: str, root: Path, train: bool, where: str, **options: str) -> Any:
    """The data set, downloaded if need be; ``where`` says what to put where if that fails."""
    import torchvision  # takes two seconds, so only who needs it waits

    dataset = getattr(torchvision.datasets, name)
    try:
        return dataset(root, train=train, download=True, **options)  # downloads only what is not there
    except (*DAMAGE, RuntimeError) as error:
        raise UserError(
            f"{dataset.__name__} in {root} is missing or damaged and no download helped ({_reason(error)}); "
            f"delete what is damaged, put {where.format(root=root, dataset=dataset)}, or use digits"
        ) from error


def _checked(
    images: Tensor,
    targets: Tensor | Sequence[int],
    names: list[str],
    side: int,
    channels: int,
    mirror: bool,
    folder: Path,
) -> Raw:
    """Nothing vouches for files that were put there by hand."""
    labels = np.asarray(targets, dtype=np.int64)
    if not (
        images.dtype == torch.uint8
        and images.shape == (len(labels), side, side, channels)
        and np.array_equal(np.unique(labels), np.arange(len(names)))
    ):
        raise UserError(
            f"{folder} is damaged: expected {side}x{side}x{channels} images of {len(names)} classes, each "
            f"with a label, got images {tuple(images.shape)} and {several(len(labels), 'label')} of "
            f"{several(len(np.unique(labels)), 'class', 'classes')}; delete the folder, it is fetched again"
        )
    return Raw(images, labels, tuple(names), mirror)


def _reason(error: Exception) -> str:
    """The line of an error that says why: the last one, which for a command is the last of its own."""
    text = getattr(error, "stderr", None) or str(error)
    return text.strip().splitlines()[-1].strip() if text.strip() else type(error).__name__
