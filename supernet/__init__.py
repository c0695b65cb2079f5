"""Weight-sharing neural architecture search with kernels of its own, for your images and your device.

``Space``, ``Supernet``, ``Network``, ``load_network``, ``load_backbone``, ``Block``, ``spaces`` and the exceptions load
when they are first used, so that what needs no PyTorch does not wait for it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet import spaces as spaces
    from supernet.backbone import load_backbone as load_backbone
    from supernet.errors import CheckpointError as CheckpointError
    from supernet.errors import SpaceMismatch as SpaceMismatch
    from supernet.errors import UserError as UserError
    from supernet.model import Network as Network
    from supernet.model import Supernet as Supernet
    from supernet.model import load_network as load_network
    from supernet.space import Space as Space
    from supernet.spec import Block as Block

__version__ = "0.2.0"

# Threads that wait by spinning starve each other once anything else runs: a step on two of two busy cores took over
# ten times as long. Read when OpenMP is loaded, so set before torch is.
TORCH_CAME_FIRST = "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ  # then it is too late
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Space": "supernet.space",
    "Block": "supernet.spec",
    "UserError": "supernet.errors",
    "SpaceMismatch": "supernet.errors",
    "CheckpointError": "supernet.errors",
    "Supernet": "supernet.model",
    "Network": "supernet.model",
    "load_network": "supernet.model",
    "load_backbone": "supernet.backbone",
}
__all__ = [*sorted(_HOMES), "__version__", "spaces"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "spaces":
        return importlib.import_module("supernet.spaces")
    raise AttributeError(f"module 'supernet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
