"""Spaces by name. No torch until one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from supernet.errors import UserError
from supernet.space import Space


def presets() -> Mapping[str, Callable[..., Space]]:
    """The spaces of every family by name: functions of ``channels``, ``resolution`` and ``classes`` of the images."""
    from supernet.families import FAMILIES  # loads torch

    return {name: make for family in FAMILIES for name, make in family.presets.items()}


def get(name: str, channels: int, resolution: int, classes: int) -> Space:
    """The space ``name`` for images of this shape, or the space in the JSON file that ``name`` names.

    Raises:
        UserError: unknown name, or a file made for other images.
    """
    if name.endswith(".json"):
        space = Space.load(Path(name))
        if (space.channels, space.resolution, space.classes) != (channels, resolution, classes):
            raise UserError(
                f"{name} is for {space.channels}×{space.resolution}² images of {space.classes} classes, the data "
                f"has {channels}×{resolution}² of {classes}"
            )
        return space
    known = presets()
    if name not in known:
        raise UserError(f"unknown space {name!r}: expected one of {', '.join(sorted(known))}, or a space .json file")
    return known[name](channels=channels, resolution=resolution, classes=classes)
