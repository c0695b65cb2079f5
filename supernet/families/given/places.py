"""Operations for which it matters where a channel stands: what goes into them can be neither sorted nor cut."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from supernet.families.given.channels import Along
from supernet.families.given.trace import called_with

NEIGHBOURS = ("LocalResponseNorm", "CrossMapLRN2d")
SHUFFLES = ("ChannelShuffle", "channel_shuffle", "native_channel_shuffle")
POOL = re.compile(r"pool(\d)d", re.IGNORECASE)


def matter(node: fx.Node, name: str, channels: Mapping[fx.Node, Any], module: nn.Module | None = None) -> bool:
    """Whether an operation asks for channels by their number, moves them by it, or mixes those side by side.

    Args:
        name: of the function, or of the class of ``module``.
        channels: what each node gives has these atoms, as in ``Channels.of``.
    """
    first = next(iter(node.all_input_nodes), None)
    value, of = (None, None) if first is None else (first.meta["value"], channels[first])
    if not isinstance(value, Tensor) or not isinstance(of, Along):
        return False
    if name in NEIGHBOURS or name in SHUFFLES:
        return 1 in of.axes
    pool = POOL.search("pool2d" if name == "boolean_dispatch" else name)  # so torch calls some of them
    if pool is not None:
        return of.axes[-1] >= value.ndim - int(pool[1])
    if name == "Unflatten" and isinstance(module, nn.Unflatten):
        return isinstance(module.dim, int) and module.dim % value.ndim in of.axes
    if name == "roll":
        dims = called_with(node, 2, "dims", None)
        return dims is None or any(d % value.ndim in of.axes for d in ([dims] if isinstance(dims, int) else dims))
    if name == "unbind":
        return of.axes == (called_with(node, 1, "dim", 0) % value.ndim,)
    return name == "getitem" and _numbers(node.args[1], of, value.ndim)


def _numbers(index: Any, of: Along, ndim: int) -> bool:
    """Whether an index takes channels by other than slices and lists of numbers."""
    index, axis = index if isinstance(index, tuple) else (index,), 0
    for place, one in enumerate(index):
        if one is Ellipsis:
            axis = ndim - sum(i is not None for i in index[place + 1 :])
        elif one is not None:
            told = isinstance(one, slice) or (isinstance(one, list) and all(type(i) is int for i in one))
            if axis in of.axes and not told and (of.axes == (axis,) or not isinstance(one, int)):
                return True
            axis += 1
    return False
