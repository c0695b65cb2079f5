"""The weights that a given network begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from supernet import files, state_dicts
from supernet.errors import UserError
from supernet.families.given import source
from supernet.families.given.network import Network

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
    model = network.new()
    own = model.state_dict()
    if weights == RANDOM:
        return Weights(own, tuple(_heads(network)))
    given = _published(network) if weights == PRETRAINED else state_dicts.read(Path(weights), own)
    other = {name for name, value in own.items() if name in given and given[name].shape != value.shape}
    new = [head for head in _heads(network) if any(name.rpartition(".")[0] == head for name in other)]
    runs, state = network.graph.state_dict().keys(), {}
    for name, value in own.items():
        spare = name not in runs or name.endswith(".num_batches_tracked")
        if name.rpartition(".")[0] in new or (spare and (name not in given or name in other)):
            state[name] = value
        elif name not in given:
            raise UserError(f"{weights} has no {name}, which {network.reference} has: expected weights of this network")
        elif name in other:
            shapes = f"{_text(given[name])}, expected {_text(value)}"
            raise UserError(f"{weights} has {name} of {shapes} as {network.reference} has it for these images")
        else:
            state[name] = given[name]
    if unknown := sorted(given.keys() - own.keys()):
        raise UserError(f"{weights} has {unknown[0]}, which {network.reference} does not have")
    return Weights(state, tuple(new))


def _heads(network: Network) -> list[str]:
    """The layers that give the logits."""
    layers = dict(network.graph.named_modules())  # a function of parameters is none
    return [name for name, reason in network.whole.items() if name in layers and "network's output" in reason]


def _text(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


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
