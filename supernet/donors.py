"""Donors: deeper trained networks to copy weights from, ours or the ResNets of torchvision and timm."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from supernet import state_dicts
from supernet.errors import UserError
from supernet.families import module_stages
from supernet.model import Network, load_network

# Both libraries' names of the parts of a bottleneck, and ours.
PARTS = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "spatial.conv",
    "bn2": "spatial.bn",
    "conv3": "expand.conv",
    "bn3": "expand.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}
ENDS = {"conv1": "stem.conv", "bn1": "stem.bn", "fc": "head.classifier"}
LIBRARIES = ("torchvision", "timm")


def load(source: str) -> Network:
    """The trained network that ``source`` names.

    Args:
        source: the folder of a network that was trained here; a file of torchvision's or timm's weights (.pth or
            .safetensors); or ``torchvision:resnet101``, ``timm:resnet152.a1h_in1k``, downloaded if not in the cache.

    Raises:
        UserError: no such network, or one without stages of modules.
    """
    library, _, name = source.partition(":")
    if library in LIBRARIES and name:
        return from_resnet(download(library, name), source)
    path = Path(source)
    if path.suffix in (".pth", ".pt", ".safetensors") and path.name != "checkpoint.pt":
        return from_resnet(state_dicts.read(path, [f"{name}.weight" for name in ENDS]), source)
    network = load_network(path.parent if path.name == "checkpoint.pt" else path)
    module_stages.require(network.space)
    return network


def from_resnet(weights: Mapping[str, Tensor], source: str) -> Network:
    """A ResNet of bottlenecks from a state dict with torchvision's names; UserError if it is none."""
    renamed: dict[tuple[int, int, str], Tensor] = {}  # by stage and module; 0, 0 are the stem and the head
    depths: dict[int, int] = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"layer(\d{1,3})\.(\d{1,3})\.([a-z]+(?:\d|\.\d))\.(\w+)", key):
            stage, module, part, tensor = int(match[1]), int(match[2]), match[3], match[4]
            depths[stage] = max(depths.get(stage, 0), module + 1)
            renamed[stage, module, f"{PARTS.get(part, part)}.{tensor}"] = value
        elif match := re.fullmatch(r"(conv1|bn1|fc)\.(\w+)", key):
            renamed[0, 0, f"{ENDS[match[1]]}.{match[2]}"] = value
        else:
            renamed[0, 0, key] = value
    try:
        modules = [depths[i] for i in range(1, max(depths) + 1)]
        width, channels = renamed[0, 0, "stem.conv.weight"].shape[:2]
        classes = len(renamed[0, 0, "head.classifier.weight"])
        options = {"width": width, "stages": len(modules), "stem_stride": 4, "deepest": max(modules)}
        space = module_stages.space("bottleneck", channels, 224, classes, **options)
        starts = [0, *torch.tensor(modules).cumsum(0).tolist()]
        state = {
            f"layers.{starts[stage - 1] + module}.{name}" if stage else name: value
            for (stage, module, name), value in renamed.items()
        }
        network = Network(space, module_stages.arch(space, modules), kernels="eager")
        network.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{source} does not hold the weights of a ResNet of bottlenecks as torchvision names them "
            f"({str(error).splitlines()[0]}): take a resnet50, resnet101 or resnet152"
        ) from error
    return network.eval()


def download(library: str, name: str) -> dict[str, Tensor]:
    """The pretrained weights of a model of torchvision or timm, from the library's cache if it has them."""
    try:
        if library == "timm":
            import timm

            return timm.create_model(name, pretrained=True).state_dict()
        import torchvision

        return torchvision.models.get_model(name, weights="DEFAULT").state_dict()
    except Exception as error:  # an unknown name, no network, a full disk: each library raises errors of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot get {library}'s {name} ({reason}); give the file of its weights instead") from error


def stages(network: Network) -> list[list[nn.Module]]:
    """The modules of each stage."""
    modules = iter(network.layers)
    return [[next(modules) for _ in range(depth)] for depth in module_stages.depths(network.space, network.arch)]


def transfer(network: Network, donor: Network) -> None:
    """Copy the weights of a deeper trained network: the first modules of each of its stages (§III), stem and head.

    A head for another number of classes stays as it is.

    Raises:
        UserError: a stage is deeper than the donor's, or a weight has another shape.
    """
    require_depth(donor, module_stages.depths(network.space, network.arch))
    pairs = [("the stem", network.stem, donor.stem)]
    for number, stage in enumerate(zip(stages(network), stages(donor), strict=True), start=1):
        pairs += [(f"stage {number}", *pair) for pair in zip(*stage, strict=False)]  # ends with the shorter one
    for name, own, given in pairs:
        wanted, weights = own.state_dict(), given.state_dict()
        for key in sorted(wanted.keys() | weights.keys()):
            shapes = [tuple(state[key].shape) if key in state else "nothing" for state in (wanted, weights)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"the donor does not fit: {name} has {key} of shape {shapes[0]} here and {shapes[1]} there; take "
                    "one with the same modules, width and image channels"
                )
        own.load_state_dict(weights)
    if network.space.classes == donor.space.classes:
        network.head.load_state_dict(donor.head.state_dict())


def require_depth(donor: Network, modules: Sequence[int]) -> None:
    """Refuse a donor that has fewer modules in a stage than ``modules`` asks for, with a UserError."""
    given = module_stages.depths(donor.space, donor.arch)
    if len(given) != len(modules) or any(want > have for want, have in zip(modules, given, strict=True)):
        raise UserError(
            f"the donor has stages of {'-'.join(map(str, given))} modules, but {'-'.join(map(str, modules))} are "
            "needed: take a deeper donor, or limit the depth of the stages"
        )
