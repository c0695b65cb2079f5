"""The space of the parts of a given network: its widths, depths and kernels; the largest architecture is the network.

A supernet has the network's own layers with its weights, and every architecture runs slices of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from supernet.families.base import Shared
from supernet.families.given.layer import given_name
from supernet.families.given.layout import GivenLayout, layout_of
from supernet.space import Arch, Space
from supernet.spec import BuildOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Given:
    """The family of given networks."""

    ops: frozenset[str] = frozenset()  # a space says itself which network it is of
    presets: Mapping[str, Callable[..., Space]] = field(default_factory=dict)

    def layout(self, space: Space) -> GivenLayout:
        """The units of ``space``; a UserError if the network has other parts now."""
        return layout_of(space)

    def share(self, layout: GivenLayout, **build: Unpack[BuildOptions]) -> Shared:
        """Every unit with all its channels, and the weights of a new network."""
        first, *others, last = (spec.build(**build) for spec in layout.units())
        shared = Shared(first, nn.ModuleList(others), last)
        load(shared, layout.network.new().state_dict())
        return shared

    def path(self, layout: GivenLayout, shared: Shared, arch: Arch) -> list[nn.Module]:
        """The slices of the units that run for ``arch``."""
        modules: list[Any] = shared.all()
        running = (module for place, module in enumerate(modules) if layout.runs(place, arch))
        return [module.slice(spec) for module, spec in zip(running, layout.pick(arch), strict=True)]


@torch.no_grad()
def load(shared: Shared, state: Mapping[str, Tensor]) -> None:
    """Give the units of a supernet the weights of the network, by the names that they have there."""
    for layer in shared.all():
        for name, tensor in layer.state_dict(keep_vars=True).items():
            given = given_name(name)
            if given in state or isinstance(tensor, nn.Parameter):  # constants need not be in files
                tensor.copy_(state[given])


FAMILY = Given()
