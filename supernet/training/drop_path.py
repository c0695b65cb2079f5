"""Drop path in a network alone: now and then a block adds nothing to its input (Huang et al. 2016)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from supernet.errors import UserError
from supernet.model import Network

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


def places(network: Network) -> list[tuple[nn.Module, int, bool]]:
    """Modules whose output may be left out, their places on the path, and whether it holds their input, too.

    Blocks name the part that they add to their input (``Block.added``), or add it themselves (``adds``); timm's
    networks have a module where it is to be left out.
    """
    found: list[tuple[nn.Module, int, bool]] = []
    for place, layer in enumerate(network.path(), 1):
        block: Any = layer
        if getattr(block, "adds", False):
            found.append((block, place, True))
        elif added := getattr(block, "added", ""):
            found.append((block.get_submodule(added), place, False))
        else:
            marked = (part for name, part in block.named_modules() if name.rpartition("/")[2].startswith("drop_path"))
            found += [(part, place, False) for part in marked]
    return found


def require(network: Network) -> None:
    """A UserError where a network has no such places."""
    if not places(network):
        raise UserError(f"drop path: no block of {network.space.name} names what it adds to its input, to be left out")


@contextlib.contextmanager
def dropping(network: Network, rate: float) -> Iterator[None]:
    """In training mode, each image passes the last block by with this probability, and earlier ones by their place."""
    if not rate:
        yield
        return
    depth = len(network.path())
    handles = [part.register_forward_hook(_hook(rate * place / depth, whole)) for part, place, whole in places(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(rate: float, whole: bool) -> Hook:
    from torchvision.ops import stochastic_depth  # seconds to import

    def drop(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if whole:
            return inputs[0] + stochastic_depth(output - inputs[0], rate, "row", module.training)
        return stochastic_depth(output, rate, "row", module.training)

    return drop
