"""How evaluation prepares images, for whoever is to do the same elsewhere. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from supernet import files, shape
from supernet.data.pictures import Fit


@dataclass(frozen=True)
class Preparation:
    """From pictures to the values that a network was trained on.

    Args:
        fit: to pixels; None where images of one's own come as floats.
        mean, std: of each channel, for pixels in [0, 1]: what normalises them.
    """

    fit: Fit | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def at(self, size: tuple[int, int]) -> Preparation:
        """For a network that takes another height and width than its images have."""
        if self.fit is None or size == tuple(self.fit.size):
            return self
        cover = self.fit.cover
        if cover is not None:
            (height, width), (before, across) = size, self.fit.size
            cover = cover[0] * height // before, cover[1] * width // across
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, size=size, cover=cover))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return files.plain(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: Any) -> Preparation:
        """From plain values; a ValueError where they are none of a preparation."""
        shape.require(data, PREPARATION)
        if len(data["mean"]) != len(data["std"]):
            raise ValueError("expected as many means as deviations")
        fit = {name: _tuples(value) for name, value in (data["fit"] or {}).items() if name in FIT}
        return cls(Fit(**fit) if fit else None, tuple(data["mean"]), tuple(data["std"]))


def timm_config(prepared: Preparation) -> dict[str, Any]:
    """The same as timm's data configuration has it."""
    known: dict[str, Any] = {"mean": prepared.mean, "std": prepared.std}
    if (fit := prepared.fit) is None:
        return known
    crop = 1.0 if fit.cover is None else next(_crops(fit.size[0], fit.cover[0]))
    mode = "squash" if fit.cover is None else "center"
    return {**known, "interpolation": fit.interpolation, "crop_pct": crop, "crop_mode": mode}


def _crops(side: int, cover: int) -> Iterator[float]:
    """Shares by which timm resizes to ``cover``: it rounds ``side`` by them down."""
    shares = (1.0, 0.875, side / (cover + 0.5))
    return (share for share in shares if math.floor(side / share) == cover)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


SIDES = [shape.POSITIVE, shape.POSITIVE]  # height and width
FIT = {
    "size": SIDES,
    "cover": (None, SIDES),
    "mode": ("L", "RGB"),
    "interpolation": ("bicubic", "bilinear"),
    "reduced": bool,
}
PREPARATION = {"fit": (None, FIT), "mean": [float], "std": [float]}
