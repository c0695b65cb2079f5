"""The weights that a given network begins with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from supernet import files, state_dicts
from supernet.errors import UserError
from supernet.families.given import source, trace
from supernet.families.given.channels import OUTPUT
from supernet.families.given.network import Network
from supernet.size import Size

RANDOM, PRETRAINED = "random", "pretrained"


class Weights(NamedTuple):
    """Parameters and buffers by their names in the network, and the layers that are new for these images."""

    state: Mapping[str, Tensor]
    new: tuple[str, ...]


def read(network: Network, weights: str) -> Weights:
    """The weights of a given network.

    Args:
        weights: ``random``, ``pretrained`` (those that timm or torchvision publishes, which it downloads), or a file as
            ``state_dicts.read`` takes it. A layer that gives the logits may be of other classes, and is new then. What
            does not run in eval mode, such as auxiliary heads, may be missing or of other classes, and how many batches
            a BN has seen may be missing.

    Raises:
        UserError: no such file or download, or it is of another network: the first name that does not fit.
    """
    own = network.new().state_dict()
    if weights == RANDOM:
        return Weights(own, tuple(_heads(network)))
    given = _published(network) if weights == PRETRAINED else state_dicts.read(Path(weights), own)
    return fitted(own, given, network.reference, weights, network.graph.state_dict().keys(), _heads(network))


def fitted(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    reference: str,
    origin: str,
    runs: Collection[str],
    heads: Sequence[str] = (),
) -> Weights:
    """What a network has with given weights.

    Args:
        own: what it has without them. reference, origin: names of the network and of the weights.
        runs: the names of what runs in eval mode: only that, but for how many batches a BN has seen, must fit.
        heads: layers that are new where theirs do not fit.

    Raises:
        UserError: the first name that does not fit.
    """
    both = {name: (given[name], value) for name, value in own.items() if name in given}
    other = {name for name, (theirs, value) in both.items() if theirs.shape != value.shape}
    new = [head for head in heads if any(name.rpartition(".")[0] == head for name in other)]
    other |= {name for name, (theirs, value) in both.items() if theirs.is_floating_point() != value.is_floating_point()}
    state = {}
    for name, value in own.items():
        spare = name not in runs or name.endswith(".num_batches_tracked")
        if name.rpartition(".")[0] in new or (spare and (name not in given or name in other)):
            state[name] = value
        elif name not in given:
            raise UserError(f"{origin} has no {name}, which {reference} has: expected weights of this network")
        elif name in other:
            told = _kind if given[name].shape == value.shape else _text
            what = f"{told(given[name])}, expected {told(value)}"
            raise UserError(f"{origin} has {name} of {what} as {reference} has it for these images")
        else:
            state[name] = given[name]
    if unknown := sorted(given.keys() - own.keys()):
        raise UserError(f"{origin} has {unknown[0]}, which {reference} does not have")
    return Weights(state, tuple(new))


def running(model: nn.Module, reference: str, channels: int, size: Size) -> set[str]:
    """The names of the parameters and buffers of a model in eval mode, but for those of modules that its logits do not
    depend on; it need not be traceable.

    Raises:
        UserError: it does not run on such images.
    """
    learnt = {name: value for name, value in model.named_parameters() if value.requires_grad}
    try:
        logits = model(torch.zeros(1, channels, *size))
    except Exception as error:  # whatever its code raises
        raise UserError(f"{reference} does not run on {channels}×{size} images: {trace.line(error)}") from error
    gradients = torch.autograd.grad(logits.sum(), [*learnt.values()], allow_unused=True)
    idle = {name for name, gradient in zip(learnt, gradients, strict=True) if gradient is None}
    for path, module in model.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if own and own <= idle:
            idle |= {f"{path}.{name}" for name in module.state_dict()}
    return model.state_dict().keys() - idle


def _heads(network: Network) -> list[str]:
    """The layers that give the logits."""
    layers = dict(network.graph.named_modules())  # a function of parameters is none
    return [name for name, reason in network.whole.items() if name in layers and OUTPUT in reason]


def _text(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _published(network: Network) -> Mapping[str, Tensor]:
    try:
        return source.pretrained(network.reference, *network.images).state_dict()
    except UserError:
        raise
    except Exception as error:  # whatever a download raises
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"the published weights of {network.reference} cannot be had ({type(error).__name__}: {reason}): give a "
            "file of them, or random"
        ) from error


def save(path: Path, state: Mapping[str, Tensor]) -> None:
    """Keep weights as .safetensors."""
    import safetensors.torch

    files.write_bytes(path, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
