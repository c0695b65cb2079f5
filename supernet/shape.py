"""What plain JSON data should look like, and the first place where it does not. No torch.

A shape is

    str int float bool dict list   a value of that type: ``int`` is no bool, ``float`` may be whole, both are finite
    None                           null; as the whole shape: anything
    {"a": shape, "b?": shape}      an object with these fields, of which ``b`` may be left out; others are free
    {str: shape}                   an object whose values all look like that
    [shape]                        a list of them; [shape, shape]: a list of two, the first like that, …
    (shape, shape)                 either; ("a", "b"): one of these texts
    Number(0, 1)                   a number in a range; ``Number(0, 9, whole=True)``
    any other value                that value
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

TYPES: dict[type | None, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}


@dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``, both included."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} of at least {self.low:g}"
        return f"{kind} from {self.low:g} to {self.high:g}"


COUNT = Number(0, 2**53, whole=True)
POSITIVE = Number(1, 2**53, whole=True)
SHARE = Number(0, 1)
INTERVAL = [SHARE, SHARE]
FINGERPRINT = {"name": str, "fingerprint": str}  # of a space


def require(data: Any, shape: Any) -> None:
    """Raise a ValueError that says where ``data`` is not of this shape, what it is there and what was expected."""
    if shape is not None:
        _require(data, shape, "")


def _require(data: Any, shape: Any, where: str) -> None:
    if isinstance(shape, tuple) and all(isinstance(either, str) for either in shape):
        _expect(data in shape, data, " or ".join(map(repr, shape)), where)
    elif isinstance(shape, tuple):
        for either in shape[:-1]:
            try:
                return _require(data, either, where)
            except ValueError:
                pass
        return _require(data, shape[-1], where)
    elif isinstance(shape, dict):
        _expect(isinstance(data, dict), data, "an object", where)
        for name, inner in shape.items():
            if name is str:
                for key, value in data.items():
                    _require(value, inner, f"{where}.{key:.40}")
            elif name.rstrip("?") in data:
                _require(data[name.rstrip("?")], inner, f"{where}.{name.rstrip('?')}")
            elif not name.endswith("?"):
                raise ValueError(f"{where.lstrip('.') or 'it'} has no {name!r}")
    elif isinstance(shape, list):
        _expect(isinstance(data, list), data, "a list", where)
        _expect(len(shape) == 1 or len(data) == len(shape), data, f"a list of {len(shape)}", where)
        for place, (value, inner) in enumerate(zip(data, itertools.cycle(shape), strict=False)):
            _require(value, inner, f"{where}[{place}]")
    elif isinstance(shape, Number):
        _expect(_is_number(data, shape.whole) and shape.low <= data <= shape.high, data, str(shape), where)
    elif shape in (int, float):
        _expect(_is_number(data, shape is int), data, TYPES[shape], where)
    elif shape is None or isinstance(shape, type):
        _expect(data is None if shape is None else isinstance(data, shape), data, TYPES[shape], where)
    else:
        _expect(type(data) is type(shape) and data == shape, data, repr(shape), where)
    return None


def _is_number(data: Any, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(data, kinds) and not isinstance(data, bool) and abs(data) < math.inf


def _expect(fine: bool, data: Any, expected: str, where: str) -> None:
    if not fine:
        raise ValueError(f"{where.lstrip('.') or 'it'} is {data!r:.60}, expected {expected}")
