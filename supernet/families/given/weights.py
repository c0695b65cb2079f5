"""The weights that a given network begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supernet import files
from supernet.errors import CheckpointError, UserError
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
        weights: ``random``, ``pretrained`` (those that timm or torchvision publishes, which it downloads), or a file of
            a state dict: .safetensors, or what ``torch.save`` wrote of tensors. A layer that gives the logits may be
            of other classes, and is new then.

    Raises:
        UserError: no such file or download, or it is of another network: the first name that does not fit.
    """
    model = network.new()
    own = model.state_dict()
    if weights == RANDOM:
        return Weights(own, tuple(_heads(network)))
    given = _published(network) if weights == PRETRAINED else read_file(Path(weights))
    other = {name for name, value in own.items() if name in given and given[name].shape != value.shape}
    new = [head for head in _heads(network) if any(name.rpartition(".")[0] == head for name in other)]
    state = {}
    for name, value in own.items():
        if name.rpartition(".")[0] in new:
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


def read_file(path: Path) -> Mapping[str, Tensor]:
    """The state dict in a file, without the prefix of what trained in parallel."""
    found: Any
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            found = safetensors.torch.load(path.read_bytes())
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror}") from error
    except Exception as error:  # whatever damaged files raise
        raise CheckpointError(
            f"{path} holds no weights ({type(error).__name__}: {str(error).splitlines()[0]:.100})"
        ) from error
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds no state dict: expected tensors by their names")
    return {name.removeprefix("module."): value for name, value in found.items()}


def save(path: Path, state: Mapping[str, Tensor]) -> None:
    """Keep weights as .safetensors."""
    import safetensors.torch

    files.write_bytes(path, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
