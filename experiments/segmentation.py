"""PAD-NAS's Table 5: found networks as backbones of semantic segmentation, on Cityscapes or on drawn scenes.

The networks are one with the same operation in every layer, which stands for MobileNetV2, and those that
``experiments.pad_nas`` found with its first seed: of PAD's front and of I's the most accurate one that costs no more
than it, as the paper's does. Each is trained alone to classify, as there, gets the head of MobileNetV3 (LR-ASPP, of
torchvision) on its feature maps, and is trained on scenes whose every pixel has a class. Scenes are twice as wide as
high. Told are the mean IoU on other scenes, the multiply-adds at that size, and paired differences with 95 % intervals.
Every finished training is kept in the results; one that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import LRASPP

from experiments import _common, _report
from experiments._pad_nas import Alone, uniform
from experiments._scenes import Scenes, cityscapes, drawn, mean_iou
from experiments.papers.item import mean
from supernet import files
from supernet.backbone import Backbone, load_backbone
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig, fit

CITY = 19  # classes of Cityscapes
FINER = 4  # the low features have at least so many times smaller strides than the high ones, if there are such


@dataclass(frozen=True)
class Args(Alone):
    output: Path = Path("docs/results/segmentation.json")
    """The results."""
    found: Path = Path("docs/results/pad_nas.json")
    """Results of experiments.pad_nas on the same images, with the networks."""
    by_hand: str = "k3_e4"
    """Operation of the network that has the same one in every layer."""
    train: int = 3_000
    """Training images, stratified; drawn scenes are made of these."""
    scenes: Literal["drawn", "cityscapes"] = "drawn"
    """Images to be segmented: items of the data set on a canvas, or Cityscapes."""
    scenes_root: Path = Path("data/cityscapes")
    """Folder of Cityscapes: leftImg8bit and gtFine."""
    size: str = "56x112"
    """Height and width of the scenes; multiply-adds are counted at this size (the paper: 512x1024)."""
    train_scenes: int = 400
    """Drawn scenes to train on."""
    val_scenes: int = 200
    """Drawn scenes to judge on, of images that nothing is trained on."""
    scene_epochs: int = 6
    """Passes over the scenes."""
    scene_batch: int = 16
    """Scenes per step."""
    scene_lr: float = 0.05
    """Peak learning rate on the scenes."""


class Maps(nn.Module):
    """A backbone as LR-ASPP takes it."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        low, high = self.backbone(x)
        return {"low": low, "high": high}


class Segmenter(LRASPP):
    """Images ``[B, C, H, W]`` to logits ``[B, classes, H, W]``."""

    def __init__(self, folder: Path, classes: int):
        strides = load_backbone(folder).feature_info.reduction()
        last = len(strides) - 1
        low = max((i for i in range(last) if strides[i] * FINER <= strides[last]), default=0)
        backbone = load_backbone(folder, (low, last))
        channels = backbone.feature_info.channels()
        super().__init__(Maps(backbone), channels[0], channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # of a dict with one entry
        return super().forward(x)["out"]


def run(args: Args) -> None:
    if args.quick:
        small = {"seeds": 2, "alone": 1, "train_scenes": 32, "val_scenes": 16, "scene_epochs": 1}
        args = dataclasses.replace(args, **small)
    clock = _common.Clock(args.run, "segmentation")
    opened, truth = _common.open_images(args.images, args.decoders)
    space, archs = networks(args)
    if (space.channels, space.input_size, space.classes) != (opened.channels, opened.size, opened.classes):
        raise UserError(f"{args.found} is of other images than {args.data}: expected those of its networks")
    size = Size.of(args.size)
    if args.scenes == "cityscapes":
        train, val = (cityscapes(args.scenes_root, part, size, args.jobs) for part in ("train", "val"))
    else:
        train, val = drawn(opened.train, args.train_scenes, size, 0), drawn(truth, args.val_scenes, size, 1)
    if train.channels != space.channels:
        raise UserError(f"scenes of {train.channels} channels, networks for {space.channels}: expected the same")
    kept = _common.Kept(args.output, _common.results("segmentation", args, clock), clock)
    for seed in range(args.seeds):
        for name, arch in archs.items():
            kept.add("networks", name, seed, functools.partial(segmented, args, space, opened, train, val, arch, seed))
        finish(args, kept.found)


def networks(args: Args) -> tuple[Space, dict[str, Arch]]:
    """The space and the networks to be compared, by name.

    Raises:
        UserError: there are none.
    """
    result = files.read_json(args.found, "results of experiments.pad_nas", "run that first", expected=dict)
    first = result["seeds"][0] if result.get("seeds") else {}
    fronts = first.get("fronts", {})
    if "space" not in result or "PAD" not in fronts:
        raise UserError(f"{args.found} names no networks: run python -m experiments.pad_nas first, or --found FILE")
    space = Space.from_json(result["space"], str(args.found))
    hand = uniform(space)
    if args.by_hand not in hand:
        raise UserError(f"--by-hand {args.by_hand}: expected one of {', '.join(hand)}")
    cost = first["by_hand"][args.by_hand]["cost"]
    found = {name: space.check(no_dearer(fronts[name], cost)["arch"]) for name in ("PAD", "I")}
    return space, {**found, f"{args.by_hand} in every layer": hand[args.by_hand]}


def no_dearer(front: Sequence[Mapping[str, Any]], cost: float) -> Mapping[str, Any]:
    """The dearest network of a front that costs at most this, which is the most accurate one; else its cheapest."""
    ordered = sorted(front, key=lambda network: network["cost"])
    return [ordered[0], *(network for network in ordered if network["cost"] <= cost)][-1]


def segmented(
    args: Args, space: Space, images: TrainVal, train: Scenes, val: Scenes, arch: Arch, seed: int
) -> dict[str, Any]:
    """One network, trained to classify and then to segment."""
    device = defaults.device(args.device)
    key = "-".join(map(str, arch))
    folder = args.run / f"segmentation-{Path(args.data).stem}-{space.name}{args.marked}" / f"{key}-{seed}"
    _common.trained(space, arch, images, args.budget.fit(seed), folder / "classifier", device)
    classes = CITY if args.scenes == "cityscapes" else space.classes + 1
    torch.manual_seed(seed)
    model = Segmenter(folder / "classifier", classes).to(device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, space.channels, *val.size, device=device))
    cfg = FitConfig(args.scene_epochs, args.scene_batch, args.scene_lr, label_smoothing=0.0, seed=seed)
    fit(
        model.train(),
        train,
        lambda step: None,
        cfg,
        folder / args.scenes,
        meta={"kind": "segmentation"},
        forward=lambda step, x, y: model(x),
        label=f"segmentation, seed {seed}",
        progress=args.progress,
    )
    return {"flops": counter.get_total_flops() // 2, "miou": mean_iou(model, val, classes)}


def finish(args: Args, result: dict) -> None:
    _report.report(args.output, result, {f"scenes of {result['settings']['size']}": told(result["networks"])}, draw)


def told(rows: Mapping[str, list[dict]]) -> dict[str, dict[str, str]]:
    """Means over the seeds; differences from the network that is made by hand, paired."""
    *_, base = rows.values()

    def minus(seeds: list[dict]) -> str:
        pairs = [row["miou"] - other["miou"] for row, other in zip(seeds, base, strict=False)]
        return mean(pairs, 100, "+") if seeds is not base else ""

    return {
        name: {
            "M multiply-adds": f"{seeds[0]['flops'] / 1e6:.1f}",
            "mean IoU, %": _report.mean_sd([row["miou"] for row in seeds], 100),
            "minus that by hand": minus(seeds),
        }
        for name, seeds in rows.items()
    }


def draw(figure: Figure, result: dict) -> None:
    """Mean IoU over multiply-adds; a point for each seed."""
    axes = figure.add_subplot()
    for name, seeds in result["networks"].items():
        iou = 100 * np.array([row["miou"] for row in seeds])
        axes.plot([row["flops"] / 1e6 for row in seeds], iou, "o", markersize=4, label=name)
    axes.set(xlabel=f"million multiply-adds at {result['settings']['size']}", ylabel="mean IoU (%)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)


if __name__ == "__main__":
    _common.main(run, Args, finish)
