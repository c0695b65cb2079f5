"""The space of the parts of a given network: its widths, depths and kernels."""

from supernet.families.given.family import FAMILY

__all__ = ["FAMILY"]
