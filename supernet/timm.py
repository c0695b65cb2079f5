"""Found networks as timm models: importing this module registers ``supernet_<space>`` for every space.

>>> import supernet.timm, timm
>>> timm.create_model("supernet_mobile", arch="runs/default/best/result.json").num_classes
1000

What the file of an architecture knows of images is in the model's ``pretrained_cfg``: their size, mean, deviation,
interpolation, and classes. ``supernet_network`` is for networks of any space, as ``supernet.export.hub`` writes them.
With ``features_only=True`` and ``out_indices`` they give feature maps, and have a ``feature_info``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from timm.models import load_pretrained, register_model
from torch import nn

from supernet import files, spaces
from supernet.backbone import Backbone, backbone
from supernet.data import transforms
from supernet.data.pictures import Fit
from supernet.data.preparation import Preparation, timm_config
from supernet.errors import UserError
from supernet.export import formats, hub
from supernet.export.hub import ARCHITECTURE
from supernet.export.networks import Images, images_of
from supernet.model import Network
from supernet.runs import RunFolder
from supernet.size import Size
from supernet.space import Arch, Space

# Of timm's models that ours do not have.
UNUSED = ("pretrained_cfg_overlay", "cache_dir", "global_pool", "drop_block_rate", "pretrained_model_args")


class Known(NamedTuple):
    """What a file says of the images that its network was trained on; nothing where it is a list of indices."""

    images: Images = Images()
    shape: tuple[int, int, int] | None = None  # of an image: channels, height, width


NOTHING = Known()


class TimmNetwork(Network):
    """A ``Network`` with the attributes and methods that timm's scripts use; its weights have the same names.

    Args:
        known: how images are prepared, and their classes; else what is usual.
    """

    def __init__(self, space: Space, arch: Arch, known: Known = NOTHING, **options: Any):
        super().__init__(space, arch, kernels="eager", **options)
        self.num_classes, self.num_features = space.classes, hub.features(self)
        channels, *sides = self.input_shape
        size, grey = Size(*sides), channels == 1
        usual = Preparation(
            Fit(size, size, "L" if grey else "RGB"), *(transforms.GREY if grey else transforms.IMAGENET)
        )
        self.default_cfg = self.pretrained_cfg = {
            "url": "",
            "num_classes": space.classes,
            "label_names": known.images.classes if len(known.images.classes) == space.classes else None,
            "input_size": self.input_shape,
            "pool_size": None,
            **timm_config((known.images.preparation or usual).at(size)),
            "first_conv": next(name for name, m in self.named_modules() if isinstance(m, nn.Conv2d)),
            "classifier": hub.classifier(self),
        }

    def get_classifier(self) -> nn.Linear:
        """The layer of the logits; a UserError where it is not linear."""
        name = hub.classifier(self)
        if name is None:
            raise UserError(f"a network of {self.space.name} has no linear layer for the logits, which timm asks for")
        return self.get_submodule(name)  # type: ignore[return-value]

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer for ``num_classes`` classes; ``space`` keeps the number that it had."""
        old = self.get_classifier()
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None).to(old.weight.device)
        nn.init.normal_(new.weight, 0, 0.01)
        owner, _, name = str(hub.classifier(self)).rpartition(".")
        setattr(self.get_submodule(owner), name, new)
        self.num_classes = num_classes


def read_arch(arch: str | Path | Sequence[int]) -> tuple[Sequence[int], Known]:
    """Indices as given, or read from a file, with what that knows.

    Args:
        arch: a list; an exported file, or the ``.json`` beside it; a ``result.json``, whose run knows its images;
            another JSON file that holds a list, or an object with ``arch``.
    """
    if not isinstance(arch, str | Path):
        return arch, NOTHING
    path = Path(arch)
    if path.suffix == ".json":
        data = files.read_json(path, "architecture", "export or retrain one")
        found = data.get("arch") if isinstance(data, dict) else data
        if not isinstance(found, list) or not all(type(i) is int for i in found):
            raise UserError(f'{path}: expected a JSON list of indices, or an object with "arch"')
        if not isinstance(data, dict) or "preparation" not in data:
            return found, _of_run(path)
        path = path.with_suffix("")
    card = formats.read_card(path)
    size = card.accuracy.size or card.shape[1:]
    return card.arch, Known(Images(card.preparation, tuple(card.classes)), (card.shape[0], *size))


def _of_run(result: Path) -> Known:
    """What a run knows of its images, by the result of one of its networks."""
    run = RunFolder(result.absolute().parents[1])
    if result.name != "result.json" or not run.config_path.exists():
        return NOTHING
    space = run.space()
    return Known(images_of(run), (space.channels, *space.input_size))


def create(
    name: str,
    arch: str | Path | Sequence[int],
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> TimmNetwork:
    """The network of ``arch`` in the space ``name``, for the images that its file tells of; where it does not, for
    ImageNet, in a small space for Fashion-MNIST.

    Args:
        options: of ``built``.

    Raises:
        UserError: unknown space, or an architecture that it does not allow.
    """
    indices, known = read_arch(arch)
    channels, resolution, classes = spaces.usual_images(name)
    if known.shape is not None:
        channels, resolution = known.shape[0], Size(*known.shape[1:])
    size = Size.of(img_size or resolution)
    space = spaces.get(name, in_chans or channels, size, num_classes or len(known.images.classes) or classes)
    return built(space, indices, known, **options)


def built(
    space: Space,
    arch: Sequence[int],
    known: Known = NOTHING,
    drop_rate: float | None = None,
    bn_eps: float = 1e-5,
    bn_momentum: float | None = None,
) -> TimmNetwork:
    """The network of an architecture; a UserError where the space does not allow it."""
    if drop_rate is not None:
        space = dataclasses.replace(space, dropout=drop_rate)
    network = TimmNetwork(space, space.check(arch), known, eps=bn_eps)
    if bn_momentum is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
    return network


def of_json(
    space: Mapping[str, Any], arch: Sequence[int], num_classes: int | None = None, **options: Any
) -> TimmNetwork:
    """A network of any space, for as many classes as that has."""
    network = built(Space.from_json(space, "the space of the model"), arch, **options)
    if num_classes not in (None, network.num_classes):
        network.reset_classifier(num_classes)
    return network


def _register(name: str, make: Callable[..., TimmNetwork]) -> None:
    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        **options: Any,
    ) -> TimmNetwork | Backbone:
        if options.get("arch") is None:
            raise UserError(f'timm.create_model({name!r}, arch="….json") needs the architecture')
        given = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}
        if pretrained and not given:
            raise UserError(f"{name} has no weights to download: give checkpoint_path=….safetensors")
        network = make(**{key: value for key, value in options.items() if key not in UNUSED})
        network.default_cfg.update(given)
        if pretrained:
            load_pretrained(network, network.default_cfg, network.num_classes, network.space.channels)
        return backbone(network, out_indices) if features_only else network

    entry.__name__ = entry.__qualname__ = name
    register_model(entry)


for _name in spaces.presets():
    _register(f"supernet_{_name.replace('-', '_')}", functools.partial(create, _name))
_register(ARCHITECTURE, of_json)
