"""Drop path in a network alone: now and then a block adds nothing to its input (Huang et al. 2016)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from supernet.errors import UserError
from supernet.model import Network

Kind = Literal["sum", "branch", "layer"]


def places(network: Network) -> list[tuple[nn.Module, int, Kind]]:
    """Modules in which something may be left out, their places on the path, and what they are.

    Blocks add to their input themselves (``adds``: a sum), or name the part that they add (``Block.added``: a branch).
    A layer of a given network that has such sums does it when it is told; where none is known, timm's modules are
    branches that stand where something is to be left out.
    """
    found: list[tuple[nn.Module, int, Kind]] = []
    for place, layer in enumerate(network.path(), 1):
        block: Any = layer
        if getattr(block, "adds", False):
            found.append((block, place, "sum"))
        elif getattr(block, "drops", False):
            found.append((block, place, "layer"))
        elif added := getattr(block, "added", ""):
            found.append((block.get_submodule(added), place, "branch"))
        else:
            marked = (part for name, part in block.named_modules() if name.rpartition("/")[2].startswith("drop_path"))
            found += [(part, place, "branch") for part in marked]
    return found


def require(network: Network) -> None:
    """A UserError where a network has no such places."""
    if not places(network):
        raise UserError(f"drop path: no block of {network.space.name} adds to its input, to be left out")


@contextlib.contextmanager
def dropping(network: Network, rate: float) -> Iterator[None]:
    """In training mode, each image passes the last block by with this probability, and earlier ones by their place."""
    if not rate:
        yield
        return
    depth = len(network.path())
    handles = [_hooked(part, rate * place / depth, kind) for part, place, kind in places(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked(part: nn.Module, rate: float, kind: Kind) -> RemovableHandle:
    from torchvision.ops import stochastic_depth  # seconds to import

    def drop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if kind == "sum":
            return inputs[0] + stochastic_depth(output - inputs[0], rate, "row", module.training)
        return stochastic_depth(output, rate, "row", module.training)

    def tell(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs, rate) if module.training else inputs

    return part.register_forward_pre_hook(tell) if kind == "layer" else part.register_forward_hook(drop)
