"""Efficient Global NAS for face verification (§4.2): IR-ResNets by 1:1 accuracy, their training and their test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search import greedy_run, verification
from search.efficient_global import Candidate, Config, EfficientGlobal
from search.greedy_run import Training
from supernet import families, files
from supernet.data import faces
from supernet.families import ir_resnet
from supernet.model import Network
from supernet.progress import Progress, silent
from supernet.runs import RunFolder
from supernet.shape import COUNT, SHARE, Number
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults
from supernet.training.loop import fit
from supernet.training.measured import Wish

RESULT = {
    "accuracy": SHARE,
    "accuracy_deviation": Number(0),
    "pairs": COUNT,
    "tar_at_far": {str: SHARE},
    "rank": {str: SHARE},
}
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
) -> EfficientGlobal:
    """The macro search; a step of depth is a block of two layers.

    Args:
        depth: fewest and most layers, even. width: fewest and most channels of the first stage.
        epochs: of the first candidate.
        flops_max, params_max: bounds on multiply-adds and parameters, the margin head left out.

    Raises:
        UserError: a depth that no IR-ResNet has, or bounds that exclude every candidate.
    """
    for layers in depth:
        ir_resnet.stages(layers)

    def params(candidate: Candidate) -> int:
        return families.params(*network(candidate, resolution))

    config = Config(depth=depth, width=width, depth_step=2, epochs=epochs, micro=False)
    costs: dict[str, Callable[[Candidate], float]] = {
        "multiply-adds": lambda c: families.flops(*network(c, resolution)),
        "parameters": params,
    }
    return EfficientGlobal(config, params, costs, {"multiply-adds": flops_max, "parameters": params_max})


def training(batch_size: int, lr: float, seed: int) -> Training:
    """How networks are trained."""
    return Training(batch_size, lr, seed=seed, weight_decay=5e-4)


@dataclass(frozen=True)
class FaceRun:
    """A search in a run folder.

    Args:
        root: a folder of images for each identity. pairs: the pairs file of the test.
        opened: what the search may see of them.
        told: called with a line on each candidate.
    """

    run: RunFolder
    root: Path
    pairs: Path
    opened: faces.Faces
    training: Training
    device: torch.device
    progress: Progress = silent
    told: Callable[[str], None] = lambda line: None
    kernels: Wish = "auto"

    @property
    def resolution(self) -> int:
        return self.opened.train.size.height

    def search(self, controller: EfficientGlobal) -> Candidate:
        """Run to the end, or continue; leaves ``space.json`` and ``arch.json``."""

        def train(candidate: Candidate, folder: Path, label: str) -> None:
            self.train(candidate, candidate.epochs, folder, label)

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
        return found

    def describe(self, controller: EfficientGlobal, found: Candidate) -> str:
        """What the search has found, in one line."""
        space, arch = network(found, self.resolution)
        return (
            f"found {space.name}: {families.params(space, arch) / 1e6:.3g} M parameters without the margin head, "
            f"{families.flops(space, arch) / 1e6:.4g} M multiply-adds, after {len(controller.records)} candidates"
        )

    def train(self, candidate: Candidate, epochs: int, folder: Path, label: str) -> Recogniser:
        """Train a network, or continue; the fitness is the 1:1 accuracy on the validation pairs."""
        torch.manual_seed(self.training.seed)
        space, arch = network(candidate, self.resolution)
        identities = len(self.opened.identities)
        kernels = defaults.kernels(self.device, self.kernels)
        model = Recogniser(Network(space, arch, kernels=kernels), identities).to(self.device)

        def validate() -> dict:
            first, second, same = faces.pair_embeddings(model, self.root, self.opened.pairs, self.resolution)
            accuracy, _ = verification.accuracy(verification.similarity(first, second), same)
            return {"val_accuracy": accuracy}

        fit(
            model,
            self.opened.train,
            lambda step: None,
            self.training.fit(epochs),
            folder,
            meta={"kind": "recogniser", "space": space.to_json(), "arch": list(arch), "identities": identities},
            forward=lambda step, x, y: model.logits(x, y),
            validate=validate,
            label=label,
            progress=self.progress,
        )
        return model

    def final(self, found: Candidate, epochs: int) -> Mapping[str, Any]:
        """Train the found network in ``RUN/final-N``; the test pairs are embedded once, after its last epoch.

        ``final-N/network`` is the network without its margin head, for ``load_network``.
        """
        folder = self.run.final(epochs)
        if not folder.result_path.exists():
            model = self.train(found, epochs, folder.path, folder.path.name)
            space, arch = network(found, self.resolution)
            meta = {"kind": "network", "space": space.to_json(), "arch": list(arch)}
            state = {"model": model.network.state_dict(), "finished": True, "meta": meta}
            checkpoint.save(folder.headless.checkpoint, state)
            files.write_json(folder.result_path, self.test(model))
        return files.read_json(folder.result_path, "result", expected=RESULT)

    def test(self, model: Recogniser) -> dict[str, Any]:
        """The protocols of ``verification.summary`` on the pairs file."""
        pairs = self.opened.readable(faces.open_test(self.root, self.pairs))
        first, second, same = faces.pair_embeddings(model, self.root, pairs, self.resolution)
        paths = sorted({path for pair in pairs for path in pair[:2]})
        embeddings = faces.embed(model, self.root, paths, self.resolution)
        identities = [path.partition("/")[0] for path in paths]
        return verification.summary(verification.similarity(first, second), same, embeddings, identities)
