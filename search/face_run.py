"""Efficient Global NAS for face verification (§4.2): IR-ResNets by 1:1 accuracy, their training and their test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from search import greedy_run, priced, verification
from search.drawing import Block, draw
from search.efficient_global import Candidate, Config, EfficientGlobal
from search.greedy_run import Training
from supernet import families, files
from supernet.data import faces, transforms
from supernet.data.benchmarks import Benchmark, Identification, Templates
from supernet.families import ir_resnet
from supernet.model import Network, load_network
from supernet.progress import Progress, silent
from supernet.quantities import digits, several
from supernet.runs import RunFolder
from supernet.shape import COUNT, SHARE, Number
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults
from supernet.training.config import Decays
from supernet.training.loop import FitConfig, fit
from supernet.training.measured import Wish

RESULT = {
    "accuracy?": SHARE,
    "accuracy_deviation?": Number(0),
    "pairs?": COUNT,
    "tar_at_far?": {str: SHARE},
    "rank?": {str: SHARE},
}
Recipe = Literal["adaface", "search"]  # of the final training
MILESTONES = (12 / 26, 20 / 26, 24 / 26)  # of AdaFace's epochs on CASIA-WebFace
BATCH = 512  # AdaFace's
WIDTHS = {"small": (16, 32), "medium": (16, 64)}  # fewest and most channels of the first stage


class Recogniser(nn.Module):
    """A network and the margin head that it is trained with."""

    def __init__(self, network: Network, identities: int):
        super().__init__()
        self.network = network
        self.head = ir_resnet.AdaFace(network.space.head_channels, identities)

    def forward(self, x: Tensor, arch: Arch | None = None) -> Tensor:
        """Embeddings ``[B, E]``."""
        return self.network(x, arch)

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits ``[B, identities]`` with the margin at the labels ``y``."""
        return self.head(self.network(x), y)


def network(candidate: Candidate, resolution: int) -> tuple[Space, Arch]:
    """The candidate as a space of one network, for RGB images of ``resolution``² pixels."""
    space = ir_resnet.space(ir_resnet.stages(candidate.depth), candidate.width, 3, resolution)
    return space, (0,) * len(space.genes)


def controller(
    depth: tuple[int, int],
    width: tuple[int, int],
    epochs: int,
    resolution: int,
    flops_max: float = math.inf,
    params_max: float = math.inf,
    latency_max: float = math.inf,
    latency: Callable[[Space, Arch], float] | None = None,
) -> EfficientGlobal:
    """The macro search; a step of depth is a block of two layers.

    Args:
        depth: fewest and most layers, even. width: fewest and most channels of the first stage.
        epochs: of the first candidate.
        flops_max, params_max: bounds on multiply-adds and parameters, the margin head left out.
        latency_max: bound on ``latency``, ms; without that there is none.

    Raises:
        UserError: a depth that no IR-ResNet has, or bounds that exclude every candidate.
    """
    for layers in depth:
        ir_resnet.stages(layers)

    def of(candidate: Candidate) -> tuple[Space, Arch]:
        return network(candidate, resolution)

    config = Config(depth=depth, width=width, depth_step=2, epochs=epochs, micro=False)
    bounds = priced.bounded(of, flops_max, params_max, latency_max, latency)
    return EfficientGlobal(config, lambda candidate: families.params(*of(candidate)), *bounds)


def corners(depth: int, width: tuple[int, int], resolution: int) -> list[tuple[Space, Arch]]:
    """Small and large networks of the bounds, to calibrate latencies on."""
    spaces = [
        ir_resnet.space(ir_resnet.stages(layers), channels, 3, resolution)
        for layers, channels in ((depth, width[0]), (depth, width[1]), (2 * depth, width[0]))
    ]
    return [(space, (0,) * len(space.genes)) for space in spaces]


def training(batch_size: int, lr: float, seed: int, decays: Decays = "all") -> Training:
    """How candidates are trained: as on images (§4.2); runs of 0.1 decay weights alone, by AdaFace's 5e-4."""
    return Training(batch_size, lr, seed=seed, weight_decay=3e-4 if decays == "all" else 5e-4, decays=decays)


def adaface(epochs: int, batch_size: int | None, lr: float | None, images: int, seed: int) -> FitConfig:
    """AdaFace's recipe for CASIA-WebFace, which the final training follows (§4.2): SGD, a tenth thrice, decay 5e-4.

    Args:
        epochs: 26 there; the rate falls at the same shares of fewer.
        batch_size: by default 512, halved until ``images`` give ten steps, but no further than 16.
        lr: by default .1 for 512 images and in proportion for fewer.
    """
    if batch_size is None:
        batch_size = BATCH
        while batch_size > 16 and images < 10 * batch_size:
            batch_size //= 2
    return FitConfig(
        epochs,
        batch_size,
        0.1 * batch_size / BATCH if lr is None else lr,
        schedule="step",
        milestones=MILESTONES,
        weight_decay=5e-4,
        decays="all but BN",
        label_smoothing=0.0,
        seed=seed,
    )


@dataclass(frozen=True)
class FaceRun:
    """A search in a run folder.

    Args:
        root: a folder of images for each identity. pairs: the pairs file of the test, if there is one.
        opened: what the search may see of them.
        benchmarks: what the final network is tested on besides.
        told: called with a line on each candidate.
    """

    run: RunFolder
    root: Path
    pairs: Path | None
    opened: faces.Faces
    training: Training
    device: torch.device
    progress: Progress = silent
    told: Callable[[str], None] = lambda line: None
    kernels: Wish = "auto"
    benchmarks: Sequence[Benchmark] = ()

    @property
    def resolution(self) -> int:
        return self.opened.train.size.height

    def search(self, controller: EfficientGlobal) -> Candidate:
        """Run to the end, or continue; leaves ``space.json`` and ``arch.json``."""

        def train(candidate: Candidate, folder: Path, label: str) -> None:
            self.train(*network(candidate, self.resolution), self.training.fit(candidate.epochs), folder, label)

        found = greedy_run.search(controller, self.run, train, self.told)
        space, arch = network(found, self.resolution)
        self.run.write_found(
            space,
            arch,
            name=space.name,
            found=dataclasses.asdict(found),
            params=families.params(space, arch),
            flops=families.flops(space, arch),
            trained=len(controller.records),
        )
        self.run.write_space(space)
        draw(self.run.network_picture, {space.name: drawn(space, arch)})
        return found

    def describe(self, controller: EfficientGlobal, found: Candidate) -> str:
        """What the search has found, in one line."""
        space, arch = network(found, self.resolution)
        return (
            f"found {space.name}: {digits(families.params(space, arch) / 1e6)} M parameters without the margin head, "
            f"{digits(families.flops(space, arch) / 1e6, 4)} M multiply-adds, after "
            f"{several(len(controller.records), 'candidate')}"
        )

    def train(
        self, space: Space, arch: Arch, cfg: FitConfig, folder: Path, label: str, opened: faces.Faces | None = None
    ) -> Recogniser:
        """Train a network, or continue; the fitness is the 1:1 accuracy on the validation pairs, if there are some.

        Args:
            opened: in place of what the search sees.
        """
        torch.manual_seed(cfg.seed)
        opened = opened or self.opened
        identities = len(opened.identities)
        kernels = defaults.kernels(self.device, self.kernels)
        model = Recogniser(Network(space, arch, kernels=kernels), identities).to(self.device)

        def validate() -> dict:
            if not opened.pairs:
                return {}
            first, second, same = faces.pair_embeddings(model, self.root, opened.pairs, self.resolution)
            accuracy, _ = verification.accuracy(verification.similarity(first, second), same)
            return {"val_accuracy": accuracy}

        fit(
            model,
            opened.train,
            lambda step: None,
            cfg,
            folder,
            meta={"kind": "recogniser", "space": space.to_json(), "arch": list(arch), "identities": identities},
            forward=lambda step, x, y: model.logits(x, y),
            validate=validate,
            label=label,
            progress=self.progress,
        )
        return model

    def final(
        self,
        space: Space,
        arch: Arch,
        cfg: FitConfig,
        folder: RunFolder,
        recipe: Recipe = "adaface",
        train_all: bool = False,
    ) -> Mapping[str, Any]:
        """Train a network in ``folder``; what it is tested on is embedded once, after its last epoch.

        ``folder/network`` is the network without its margin head, for ``load_network``.

        Args:
            recipe: whose augmentation the images get.
            train_all: the identities that validate are trained on, too.

        Returns:
            The test on the pairs file, if there is one, as ``verification.summary`` has it, and ``benchmarks`` by name.
        """
        if not folder.result_path.exists():
            opened = self.opened.whole() if train_all else self.opened
            if recipe == "adaface":
                augmented = opened.train.augmented_by(transforms.adaface(opened.train.size))
                opened = dataclasses.replace(opened, train=augmented)
            model = self.train(space, arch, cfg, folder.path, folder.path.name, opened)
            meta = {"kind": "network", "space": space.to_json(), "arch": list(arch)}
            state = {"model": model.network.state_dict(), "finished": True, "meta": meta}
            checkpoint.save(folder.headless.checkpoint, state)
            files.write_json(folder.result_path, self.test(model) if self.pairs else {})
        result = dict(files.read_json(folder.result_path, "result", expected=RESULT))
        return {**result, "benchmarks": self.on_benchmarks(folder)}

    def on_benchmarks(self, folder: RunFolder) -> dict[str, Any]:
        """What the trained network gives on each benchmark, by name: ``benchmarks.json`` keeps it."""
        path = folder.path / "benchmarks.json"
        known = files.read_json(path, "benchmarks", expected={str: RESULT}) if path.exists() else {}
        todo = [test for test in self.benchmarks if known.get(test.name, {}).get("digest") != test.digest]
        if todo:
            model = load_network(folder.headless.path, "eager").to(self.device)
            for test in todo:
                known[test.name] = {"digest": test.digest, **judge(model, test)}
                files.write_json(path, known)
        return {benchmark.name: known[benchmark.name] for benchmark in self.benchmarks}

    def test(self, model: Recogniser) -> dict[str, Any]:
        """The protocols of ``verification.summary`` on the pairs file."""
        assert self.pairs is not None
        pairs = self.opened.readable(faces.open_test(self.root, self.pairs))
        first, second, same = faces.pair_embeddings(model, self.root, pairs, self.resolution)
        paths = sorted({path for pair in pairs for path in pair[:2]})
        embeddings = faces.embed(model, self.root, paths, self.resolution)
        identities = [path.partition("/")[0] for path in paths]
        return verification.summary(verification.similarity(first, second), same, embeddings, identities)


def judge(model: nn.Module, benchmark: Benchmark) -> dict[str, Any]:
    """What a benchmark's protocol says of the embeddings that a network gives its images."""
    embeddings, of = faces.embeddings(model, benchmark.images), benchmark.protocol
    if isinstance(of, Identification):
        return verification.identification(embeddings, of.identity, of.gallery)
    if isinstance(of, Templates):
        numbers, pooled = verification.templates(embeddings, of.template, of.medium)
        first, second = (np.searchsorted(numbers, template) for template in (of.first, of.second))
        scores = verification.pair_similarity(pooled, first, second)
        found = {"templates": len(numbers), "pairs": len(scores)}
        return {**found, "tar_at_far": verification.rates(scores, of.same)}
    scores = verification.pair_similarity(embeddings, of.first, of.second)
    mean, deviation = verification.accuracy(scores, of.same)
    accuracies = {"accuracy": mean, "accuracy_deviation": deviation, "pairs": len(scores)}
    return {**accuracies, "tar_at_far": verification.rates(scores, of.same)}


def drawn(space: Space, arch: Arch) -> list[Block]:
    """The blocks, to be drawn."""
    return [Block(s.out_size, s.out_channels, "IR block") for s in families.layout(space).pick(arch)[1:-1]]
