"""Durations, sizes, counts and measured numbers as people read them. No torch."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def duration(seconds: float) -> str:
    """``12.3 s``, ``12.3 min``, ``12.3 h``."""
    for unit, length in (("s", 1), ("min", 60)):
        if seconds < 59.95 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:,.1f} h"


def size(count: int) -> str:
    """Bytes, in powers of 1000: ``1.23 GB``."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def digits(value: float, most: int = 3, form: str = ",f") -> str:
    """A finite number in so many significant digits, never as a power of ten: ``1,020``, ``0.0042``.

    Args:
        form: ``f`` leaves the commas away, for what may be typed as an option.
    """
    return format(Decimal(f"{value:.{most}g}"), form)


def several(number: int, one: str, more: str = "", form: Callable[[int], str] = "{:,}".format) -> str:
    """``1 layer``, ``2 layers``; ``more`` where an s is not all that changes; ``form`` such as ``count``."""
    return f"{form(number)} {one if number == 1 else more or f'{one}s'}"


def count(number: int) -> str:
    """Whole below a million; one that may be astronomical as ``7.37 · 10¹⁹``."""
    if number < 10**6:
        return f"{number:,}"
    power = len(str(number)) - 1
    first = f"{Decimal(number).scaleb(-power):.2f}"
    if first == "10.00":
        first, power = "1.00", power + 1
    return f"{first} · 10{str(power).translate(RAISED)}"
