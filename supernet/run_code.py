"""The code that the space of a run comes from: whether it still gives what the run began with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import supernet
from supernet import families, machine
from supernet.errors import UserError
from supernet.space import Space

NETWORK = "network"  # in what a run records


def record(space: Space | None) -> dict[str, str]:
    """What a run keeps: versions, the processor and, of a network of one's own, of which the space has only genes, its
    digest."""
    versions = {"version": supernet.__version__, "torch": torch.__version__, "cpu": machine.cpu()}
    if space is None or space.make is None:
        return versions
    from supernet.families.given import network

    return {**versions, NETWORK: network.opened(space.model, *space.images, space.make).digest}


def require_same(space: Space, recorded: Mapping[str, Any], run: Path) -> None:
    """A UserError if the network of a space is another one than that which the run has recorded.

    Runs of before have recorded none, and other versions may trace the same network otherwise.
    """
    now = record(space) if recorded.get(NETWORK) and space.make is not None else {}
    alike = all(now.get(name) == recorded.get(name) for name in ("version", "torch"))
    if now and alike and now[NETWORK] != recorded[NETWORK]:
        raise UserError(
            f"{space.model} is another network than the one that {run} was begun with, of other operations or with "
            "other settings: expected its code as it was then, or another run"
        )


def with_code(space: Space, code: str, recorded: Mapping[str, Any], run: Path) -> Space:
    """The space of a run with the operations or the network that ``code``, a reference, gives.

    Raises:
        UserError: the code fails, or gives another space or another network now.
    """
    from supernet import spaces

    own = families.with_resolutions(spaces.get(code, *space.images), families.resolutions.of(space))
    space.require(own.fingerprint, f"the space of {code}")
    require_same(own, recorded, run)
    return dataclasses.replace(space, make=own.make).with_operations(*own.operations)
