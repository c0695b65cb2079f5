"""Efficient Global NAS on plain networks of Sep and Conv layers: candidates as networks, their training, the result."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from search import greedy_run, priced
from search.drawing import Block, draw
from search.efficient_global import PRESETS, Candidate, Config, EfficientGlobal
from search.greedy_run import Training
from supernet import families, files, metrics, run_files
from supernet.data.images import ImageSet
from supernet.data.sets import TrainVal
from supernet.families import sep_conv
from supernet.metrics import TOP1, Metric
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.quantities import several
from supernet.runs import RunFolder
from supernet.shape import COUNT, SHARE
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.tables import Table
from supernet.training import defaults, standalone
from supernet.training.config import Decays
from supernet.training.evaluation import answers
from supernet.training.measured import Wish

RESULT = {**run_files.RESULT, "params": COUNT, "test_accuracy": SHARE, "test_images": COUNT}
Image = tuple[int, Size, int]  # channels, size, classes
Latency = Callable[[Space, Arch], float]  # ms
SMALL_LIMIT = 10_000  # images of the small preset, which would take hours on more


def configure(preset: str, **given: Any) -> Config:
    """A preset with what is not None of ``given``, fields of ``Config``."""
    return dataclasses.replace(PRESETS[preset], **{k: v for k, v in given.items() if v is not None})


def training(
    preset: str, batch_size: int, lr: float, augment: bool | None, seed: int, decays: Decays = "all"
) -> Training:
    """How networks are trained (§4.1); those of the paper's presets are augmented unless ``augment`` says no."""
    return Training(batch_size, lr, augment if preset == "small" else augment is not False, seed, decays=decays)


def widest_cutout(images: TrainVal, side: int) -> int:
    """``side`` in pixels, but at most 4/7 of the image."""
    return min(side, min(images.size) * 4 // 7)


def with_cutout(images: TrainVal, side: int) -> TrainVal:
    """The same images, with squares of ``side`` pixels, at most 4/7 of the image, blanked in training."""
    return dataclasses.replace(images, train=images.train.with_cutout(widest_cutout(images, side)))


def network(candidate: Candidate, image: Image) -> tuple[Space, Arch]:
    """The candidate as the rest of the project knows networks."""
    kernels = (*sep_conv.KERNELS, 7) if 7 in candidate.kernels else sep_conv.KERNELS
    space = _space(candidate.depth, candidate.width, image, kernels)
    return space, sep_conv.arch(candidate.ops, candidate.kernels, kernels)


def _space(depth: int, width: int, image: Image, kernels: Sequence[int] = sep_conv.KERNELS) -> Space:
    channels, size, classes = image
    return sep_conv.space(depth, width, channels, size.height, classes, kernels).at(size)


def controller(
    config: Config,
    image: Image,
    flops_max: float = math.inf,
    params_max: float = math.inf,
    latency_max: float = math.inf,
    latency: Latency | None = None,
) -> EfficientGlobal:
    """The search with its costs; without ``latency`` no bound on it."""

    def of(candidate: Candidate) -> tuple[Space, Arch]:
        return network(candidate, image)

    @functools.cache
    def params(candidate: Candidate) -> int:
        return families.params(*of(candidate))

    return EfficientGlobal(config, params, *priced.bounded(of, flops_max, params_max, latency_max, latency))


def corners(config: Config, image: Image) -> list[tuple[Space, Arch]]:
    """Small and large networks of the bounds, to calibrate latencies on."""
    depth, width = config.depth[0], config.width
    sizes = [(depth, width[0]), (depth, width[1]), (2 * depth, width[0])]
    return [(_space(*size, image), (0,) * size[0]) for size in sizes]


@dataclass(frozen=True)
class PlainRun:
    """A search in a run folder; ``metric`` is what its networks are compared by."""

    run: RunFolder
    images: TrainVal
    training: Training
    device: torch.device
    progress: Progress = silent
    told: Callable[[str], None] = lambda line: None
    kernels: Wish = "auto"
    metric: Metric = TOP1

    @property
    def image(self) -> Image:
        return self.images.channels, self.images.size, self.images.classes

    def search(self, controller: EfficientGlobal) -> Candidate:
        """Run to the end, or continue; leaves ``space.json``, ``arch.json`` and a picture of the network."""

        training = self.training.of_search(controller.config.epochs)
        alike = dataclasses.replace(self, training=training)  # else augmentation would come in where epochs grow

        def train(candidate: Candidate, folder: Path, label: str) -> None:
            alike.train(candidate, candidate.epochs, folder, label)

        found = greedy_run.search(controller, self.run, train, self.told, self.metric)
        space, arch = network(found, self.image)
        self.run.write_space(space)
        self.run.write_found(
            space,
            arch,
            found=dataclasses.asdict(found),
            macro=controller.macro and dataclasses.asdict(controller.macro),
            trained=len(controller.records),
            skipped=len(controller.skipped),
            epochs=sum(record.candidate.epochs for record in controller.records),
            params=families.params(space, arch),
            flops=families.flops(space, arch),
        )
        draw(self.run.network_picture, {f"L {found.depth} C {found.width}": drawn(space, arch)})
        return found

    def describe(self, controller: EfficientGlobal, found: Candidate) -> str:
        """What the search has found, in one line."""
        of = network(found, self.image)
        return (
            f"found {found.describe()}: {families.params(*of) / 1e3:.1f} k parameters, "
            f"{families.flops(*of) / 1e6:.2f} M multiply-adds, after "
            f"{several(len(controller.records), 'candidate')}"
        )

    def train(
        self, candidate: Candidate, epochs: int, folder: Path, label: str, train_all: bool = False
    ) -> tuple[Network, dict]:
        """Train one network alone; with ``train_all`` on the validation images, too, so that nothing is validated."""
        images, validate = self.images, None
        if train_all:
            images = dataclasses.replace(images, train=images.train.together(images.val))
            validate = no_validation
        return standalone.train(
            *network(candidate, self.image),
            images,
            self.training.fit(epochs),
            folder,
            self.device,
            kernels=defaults.kernels(self.device, self.kernels),
            label=label,
            progress=self.progress,
            validate=validate,
        )

    def final(
        self,
        found: Candidate,
        epochs: int,
        folder: RunFolder,
        test: Callable[[], ImageSet],
        train_all: bool = False,
    ) -> Mapping[str, Any]:
        """Train the found network from scratch in ``folder``; ``test`` is called once, after its last epoch."""
        if not folder.result_path.exists():
            trained, last = self.train(found, epochs, folder.path, folder.path.name, train_all)
            images = test()
            params = families.params(*network(found, self.image))
            row: dict[str, Any] = {"found": dataclasses.asdict(found), "params": params}
            validated = [metrics.key("val", metric) for metric in metrics.METRICS]
            row |= {"metric": self.metric, **{name: last[name] for name in validated if name in last}}
            row |= answers(trained, images.plain_batches(512)).result("test")
            files.write_json(folder.result_path, row)
        return files.read_json(folder.result_path, "result", expected=RESULT)


def no_validation(network: Network) -> dict:
    """Of a training on all images: its last epoch is taken as it is."""
    return {}


def drawn(space: Space, arch: Arch) -> list[Block]:
    """The layers between stem and head, to be drawn."""
    specs = families.layout(space).pick(arch)[1:-1]
    return [Block(s.out_size, s.out_channels, f"{s.op.capitalize()} {s.kernel}×{s.kernel}") for s in specs]


def phases(controller: EfficientGlobal, image: Image, metric: Metric = TOP1) -> Table:
    """What each phase accepted last; accuracies compare within a phase, where epochs are alike."""
    rows = []
    for name, record in controller.accepted.items():
        trained, epochs = network(record.candidate, image), str(record.candidate.epochs)
        counts = [f"{families.params(*trained) / 1e3:.1f}", f"{families.flops(*trained) / 1e6:.2f}"]
        rows.append([name, record.candidate.describe(), *counts, epochs, f"{record.val_accuracy:.2f}"])
    headings = ["", "network", "k params", "MFLOPs", "epochs", f"{metrics.HEADINGS[metric]}val %"]
    return Table(headings, rows, "accepted at the end of each phase", text=2, wraps=1)
