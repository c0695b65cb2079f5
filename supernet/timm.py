"""Found networks as timm models: importing this module registers ``supernet_<space>`` for every space.

>>> import supernet.timm, timm
>>> timm.create_model("supernet_mobile", arch="runs/default/best/result.json").num_classes
1000

With ``features_only=True`` and ``out_indices`` they give feature maps, and have a ``feature_info``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from torch import nn

from supernet import files, spaces
from supernet.backbone import Backbone, backbone
from supernet.errors import UserError
from supernet.model import Network
from supernet.size import Size
from supernet.space import Arch, Space


class TimmNetwork(Network):
    """A ``Network`` with the attributes and methods that timm's scripts use; its weights have the same names."""

    def __init__(self, space: Space, arch: Arch, **options: Any):
        super().__init__(space, arch, kernels="eager", **options)
        self.num_classes, self.num_features = space.classes, space.head_channels
        self.default_cfg = self.pretrained_cfg = {
            "url": "",
            "num_classes": space.classes,
            "input_size": self.input_shape,
            "pool_size": None,
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN if space.channels == 3 else (0.5,) * space.channels,
            "std": IMAGENET_DEFAULT_STD if space.channels == 3 else (0.5,) * space.channels,
            "first_conv": "stem.conv",
            "classifier": "head.classifier",
        }

    def get_classifier(self) -> nn.Module:
        return self.head.get_submodule("classifier")

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for ``num_classes`` classes; ``space`` keeps the number that it had."""
        old = self.get_classifier()
        assert isinstance(old, nn.Linear)  # in every preset
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None).to(old.weight.device)
        nn.init.normal_(new.weight, 0, 0.01)
        self.head.classifier, self.num_classes = new, num_classes


def read_arch(arch: str | Path | Sequence[int]) -> Sequence[int]:
    """Indices as given, or read from a JSON file: a list, or an object with ``arch`` such as a ``result.json``."""
    if not isinstance(arch, str | Path):
        return arch
    path = Path(arch)
    data = files.read_json(path, "architecture", "export or retrain one")
    found = data.get("arch") if isinstance(data, dict) else data
    if not isinstance(found, list) or not all(type(i) is int for i in found):
        raise UserError(f'{path}: expected a JSON list of indices, or an object with "arch"')
    return found


def create(
    name: str,
    arch: str | Path | Sequence[int],
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    drop_rate: float | None = None,
    bn_eps: float = 1e-5,
    bn_momentum: float | None = None,
) -> TimmNetwork:
    """The network of ``arch`` in the space ``name``, by default for ImageNet; in a small space for Fashion-MNIST.

    Raises:
        UserError: unknown space, or an architecture that it does not allow.
    """
    channels, resolution, classes = spaces.usual_images(name)
    space = spaces.get(name, in_chans or channels, Size.of(img_size or resolution), num_classes or classes)
    if drop_rate is not None:
        space = dataclasses.replace(space, dropout=drop_rate)
    network = TimmNetwork(space, space.check(read_arch(arch)), eps=bn_eps)
    if bn_momentum is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
    return network


def _register(name: str) -> None:
    def entry(
        pretrained: bool = False,
        arch: Any = None,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        **options: Any,
    ) -> TimmNetwork | Backbone:
        if arch is None:
            raise UserError(f'timm.create_model({entry.__name__!r}, arch="….json") needs the architecture')
        if pretrained:
            raise UserError(f"{entry.__name__} has no weights to download: give checkpoint_path=….safetensors")
        unused = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "global_pool", "drop_block_rate")
        network = create(name, arch, **{key: value for key, value in options.items() if key not in unused})
        return backbone(network, out_indices) if features_only else network

    entry.__name__ = entry.__qualname__ = f"supernet_{name.replace('-', '_')}"
    register_model(entry)


for _name in spaces.presets():
    _register(_name)
