"""Efficient Global NAS for face verification: depth and width of an IR-ResNet by 1:1 accuracy, then its training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from search import efficient_global_run, verification
from search.efficient_global import Candidate, Config, EfficientGlobal
from supernet import families, files
from supernet.cli import common
from supernet.data import faces
from supernet.errors import UserError
from supernet.families import ir_resnet
from supernet.model import Network
from supernet.progress import shown
from supernet.space import Arch, Space
from supernet.training import checkpoint, defaults
from supernet.training.loop import FitConfig, fit

WIDTHS = {"small": (16, 32), "medium": (16, 64)}
FARS, RANKS = (1e-1, 1e-2, 1e-3, 1e-4), (1, 5, 20)


@dataclass(frozen=True)
class Args:
    faces: Path
    """Folder with a folder of images for each identity, aligned."""
    pairs: Path
    """Pairs file of the test, as LFW has it; the identities that it names are not trained on."""
    run: Path = Path("runs/face-nas")
    """Folder of the run; the same command continues a run that was stopped."""
    preset: Literal["small", "medium"] = "small"
    """Width up to 32 or up to 64 (§4.2)."""
    depth: tuple[int, int] = (12, 100)
    """Fewest and most layers, even: a block has two."""
    width: tuple[int, int] | None = None
    """Fewest and most channels of the first stage; that of the preset."""
    epochs: int = 10
    """Of the first candidate; each block more adds 1, each step of width 2."""
    flops_max: float = math.inf
    """Bound on multiply-adds: a candidate beyond it is not trained."""
    params_max: float = math.inf
    """Bound on parameters, the margin head left out."""
    final_epochs: int = 26
    """Of the found network; 0 leaves the training out."""
    resolution: int = 112
    """Height and width that images are scaled to, pixels."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 0.025
    """Peak learning rate."""
    seed: int = 0
    """Of the split, the weights and the augmentation."""
    workers: int = 0
    """Processes that decode images."""
    device: str | None = None
    """cpu, cuda, …; CUDA where there is one."""
    restart: bool = False
    """Throw the run in --run away and start again."""
    quiet: bool = False
    """No progress."""


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


def run(args: Args) -> None:
    device = defaults.device(args.device)
    if args.final_epochs < 0:
        raise UserError(f"--final-epochs {args.final_epochs}: expected at least 0")
    opened = faces.open_train(args.faces, args.pairs, args.resolution, args.seed, workers=args.workers)
    opened.train.steps(args.batch_size, drop_last=True)
    depth, width = args.depth, args.width or WIDTHS[args.preset]
    for layers in depth:
        ir_resnet.stages(layers)
    config = Config(depth=depth, width=width, depth_step=2, epochs=args.epochs, micro=False)
    costs = {"multiply-adds": lambda c: families.flops(*network(c, args)), "parameters": lambda c: params(c, args)}
    bounds = {"multiply-adds": args.flops_max, "parameters": args.params_max}
    controller = EfficientGlobal(config, lambda c: params(c, args), costs, bounds)

    ignored = ("run", "final_epochs", "workers", "device", "restart", "quiet")
    settings = {k: v for k, v in dataclasses.asdict(args).items() if k not in ignored}
    settings |= {"faces": str(args.faces), "pairs": str(args.pairs), "width": width}
    settings |= {k: v if math.isfinite(v) else None for k, v in settings.items() if k.endswith("_max")}
    efficient_global_run.prepare(args.run, settings, args.restart)
    common.console.print(
        f"{depth[0]} to {depth[1]} layers, {width[0]} to {width[1]} channels: {len(opened.train):,} training images of "
        f"{len(opened.identities):,} identities, {len(opened.pairs)} validation pairs of others; {args.run}",
        highlight=False,
    )

    def train(candidate: Candidate, folder: Path, label: str) -> tuple[float, float]:
        _, log = train_one(args, opened, candidate, folder, label, device)
        return tuple(100 * max(line[key] for line in log) for key in ("accuracy", "val_accuracy"))

    found = efficient_global_run.search(controller, args.run, train)
    space, arch = network(found, args)
    counts = {"params": params(found, args), "flops": families.flops(space, arch)}
    entry = {"schema": 1, "name": space.name, "arch": list(arch), "found": dataclasses.asdict(found), **counts}
    files.write_json(args.run / "arch.json", {**entry, "trained": len(controller.records)})
    files.write_json(args.run / "space.json", space.to_json())
    common.console.print(
        f"found [bold]{space.name}[/bold]: {counts['params'] / 1e6:.3g} M parameters without the margin head, "
        f"{counts['flops'] / 1e6:.4g} M multiply-adds, after {len(controller.records)} candidates",
        highlight=False,
    )
    if args.final_epochs:
        trained = finish(args, opened, found, device)
        common.next_command(f"python tools/export.py --run {args.run} --pick {trained.relative_to(args.run)}")
    else:
        common.next_command(f"python tools/build_lut.py --run {args.run}  # its latency; --final-epochs trains it")


def network(candidate: Candidate, args: Args) -> tuple[Space, Arch]:
    """The candidate as a space of one network."""
    space = ir_resnet.space(ir_resnet.stages(candidate.depth), candidate.width, 3, args.resolution)
    return space, (0,) * len(space.genes)


def params(candidate: Candidate, args: Args) -> int:
    return families.params(*network(candidate, args))


def train_one(
    args: Args, opened: faces.Faces, candidate: Candidate, folder: Path, label: str, device: torch.device
) -> tuple[Recogniser, list[dict]]:
    """Train a candidate, or continue; the fitness is the 1:1 accuracy on the validation pairs (§4.2)."""
    torch.manual_seed(args.seed)
    space, arch = network(candidate, args)
    model = Recogniser(Network(space, arch, kernels=defaults.kernels(device)), len(opened.identities)).to(device)
    cfg = FitConfig(
        candidate.epochs,
        args.batch_size,
        args.lr,
        schedule="cosine",
        weight_decay=5e-4,
        label_smoothing=0.0,
        clip=5.0,
        seed=args.seed,
    )

    def validate() -> dict:
        first, second, same = faces.pair_embeddings(model, args.faces, opened.pairs, args.resolution)
        accuracy, _ = verification.accuracy(verification.similarity(first, second), same)
        return {"val_accuracy": accuracy}

    meta = {"kind": "recogniser", "space": space.to_json(), "arch": list(arch), "identities": len(opened.identities)}
    options = {
        "meta": meta,
        "forward": lambda step, x, y: model.logits(x, y),
        "validate": validate,
        "label": label,
        "progress": shown(not args.quiet),
    }
    return model, fit(model, opened.train, lambda step: None, cfg, folder, **options)


def finish(args: Args, opened: faces.Faces, found: Candidate, device: torch.device) -> Path:
    """Train the found network; the test pairs are embedded once, after its last epoch.

    Returns:
        The folder of the network without its margin head, for ``load_network``.
    """
    folder = args.run / f"final-{args.final_epochs}"
    result = folder / "result.json"
    if not result.exists():
        final = dataclasses.replace(found, epochs=args.final_epochs)
        model, _ = train_one(args, opened, final, folder, folder.name, device)
        space, arch = network(final, args)
        meta = {"kind": "network", "space": space.to_json(), "arch": list(arch)}
        state = {"model": model.network.state_dict(), "finished": True, "meta": meta}
        checkpoint.save(folder / "network" / "checkpoint.pt", state)
        files.write_json(result, test(model, args))
    row = files.read_json(result, "result", "delete it and run the same command again")
    rates = [f"TAR {100 * tar:.1f} % at FAR {float(far):g}" for far, tar in row["tar_at_far"].items()]
    rates += [f"rank-{k} {100 * share:.1f} %" for k, share in row["rank"].items()]
    common.console.print(
        f"test: 1:1 accuracy [bold]{100 * row['accuracy']:.2f}[/bold] ± {100 * row['accuracy_deviation']:.2f} % of "
        f"{row['pairs']} pairs, {', '.join(rates)} → {folder}",
        highlight=False,
        soft_wrap=True,
    )
    return folder / "network"


def test(model: Recogniser, args: Args) -> dict[str, Any]:
    """1:1 accuracy, TAR at the FARs that the pairs can show, rank-k: first images the gallery, the others probes."""
    pairs = faces.open_test(args.faces, args.pairs)
    first, second, same = faces.pair_embeddings(model, args.faces, pairs, args.resolution)
    scores = verification.similarity(first, second)
    accuracy, deviation = verification.accuracy(scores, same)
    paths = sorted({path for pair in pairs for path in pair[:2]})
    embeddings = faces.embed(model, args.faces, paths, args.resolution)
    names, identity = np.unique([path.partition("/")[0] for path in paths], return_inverse=True)
    _, gallery = np.unique(identity, return_index=True)
    probes = np.setdiff1d(np.arange(len(paths)), gallery)
    sets = (embeddings[probes], identity[probes], embeddings[gallery], identity[gallery])
    return {
        "accuracy": accuracy,
        "accuracy_deviation": deviation,
        "pairs": len(pairs),
        "identities": len(names),
        "tar_at_far": {
            str(far): verification.tar_at_far(scores, same, far) for far in FARS if far * (~same).sum() >= 1
        },
        "rank": {str(k): verification.rank_k(*sets, k) for k in RANKS if len(probes) and k < len(gallery)},
    }


def main() -> None:
    """The command line."""
    common.main(run, Args)
