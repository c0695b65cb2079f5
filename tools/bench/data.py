"""Images per second of a folder of JPEG files: ours, and torchvision's ImageFolder with a DataLoader."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from supernet.data import sets
from supernet.data.transforms import IMAGENET
from supernet.progress import Bar
from supernet.tables import Table

CLASSES = 4
WIDTH, HEIGHT = 500, 375  # about ImageNet's mean


def run(images: int, resolution: int, batch: int, workers: int, rounds: int) -> dict[str, Any]:
    """Images per second of each form in every round, interleaved: an epoch to train on, and one to evaluate on."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render(root, images)
        forms = {}
        for kind, augment in (("training", True), ("evaluation", False)):
            forms[kind] = {"ours": ours(root, resolution, batch, workers, augment)}
            forms[kind]["torchvision"] = torchvision(root, resolution, batch, workers, augment)
        speed: dict[str, dict[str, list[float]]] = {k: {name: [] for name in f} for k, f in forms.items()}
        with Bar("data", (rounds + 1) * 2 * len(forms), unit="epochs") as bar:
            for number in range(rounds + 1):
                for kind, epochs in forms.items():
                    for name in sorted(epochs, reverse=number % 2 == 0):
                        began = time.perf_counter()
                        count = sum(len(y) for _, y in epochs[name](number))
                        if number:  # the first round warms up the file cache, and starts our processes
                            speed[kind][name].append(count / (time.perf_counter() - began))
                        bar.advance(1)
    ratios = {kind: statistics.median(np.divide(of["ours"], of["torchvision"]).tolist()) for kind, of in speed.items()}
    return {"resolution": resolution, "workers": workers, "batch_size": batch, "ratios": ratios, "images_per_s": speed}


def table(figures: dict[str, Any]) -> Table:
    """One row per kind of epoch."""
    rows = []
    for kind, speed in figures["images_per_s"].items():
        medians = [f"{statistics.median(speed[name]):.0f}" for name in ("ours", "torchvision")]
        rows.append((kind, *medians, f"{figures['ratios'][kind]:.2f}×"))
    title = f"JPEG of {WIDTH}×{HEIGHT} to {figures['resolution']}², {figures['workers']} workers"
    return Table(("", "ours, images/s", "torchvision, images/s", "ours is faster by"), rows, title)


def render(root: Path, count: int) -> None:
    """``train`` and ``val`` folders of JPEG files with the detail of photographs: noise at every scale."""
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for scale in (1, 2, 4, 8, 16, 32, 64):
            noise = rng.normal(size=(-(-HEIGHT // scale), -(-WIDTH // scale), 3)).astype(np.float32)
            picture += scale**0.8 * noise.repeat(scale, 0).repeat(scale, 1)[:HEIGHT, :WIDTH]
        picture = 128 + 48 * picture / picture.std()
        path = root / "train" / str(i % CLASSES) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    (root / "val").symlink_to(root / "train", target_is_directory=True)


def ours(root: Path, resolution: int, batch: int, workers: int, augment: bool) -> Callable[[int], Iterable]:
    """An epoch by its number."""
    images = sets.open_test("folder", root, resolution=resolution, workers=workers)
    return lambda epoch: images.batches(batch, seed=0, epoch=epoch, augment=augment, drop_last=False)


def torchvision(root: Path, resolution: int, batch: int, workers: int, augment: bool) -> Callable[[int], Iterable]:
    """An epoch of the same transforms, as timm makes them."""
    options = {"is_training": True, "interpolation": "random"} if augment else {"interpolation": "bicubic"}
    mean, std = IMAGENET
    transform = create_transform(resolution, mean=mean, std=std, crop_pct=0.875, **options)
    loader = DataLoader(ImageFolder(str(root / "val"), transform), batch, shuffle=True, num_workers=workers)
    return lambda epoch: loader
