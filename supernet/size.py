"""The height and width of images. No torch."""

from __future__ import annotations

import re
from typing import NamedTuple

from supernet.errors import UserError


class Size(NamedTuple):
    """Pixels of an image down and across.

    >>> Size.of(28), Size.of("96x160").strided(32)
    (Size(height=28, width=28), Size(height=3, width=5))
    """

    height: int
    width: int

    @classmethod
    def of(cls, value: int | str | tuple[int, int]) -> Size:
        """One number for a square, or both: ``28``, ``"96x160"``, ``(96, 160)``.

        Raises:
            UserError: a text of another form.
        """
        if isinstance(value, str):
            found = re.fullmatch(r"(\d+)(?:x(\d+))?", value, re.ASCII)
            if found is None:
                raise UserError(f"a size of {value!r:.40}: expected pixels such as 96, or HEIGHTxWIDTH such as 96x160")
            return cls(int(found[1]), int(found[2] or found[1]))
        return cls(value, value) if isinstance(value, int) else cls(*value)

    @property
    def plain(self) -> int | str:
        """As ``of`` takes it, for files and command lines: a number for a square."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def strided(self, stride: int) -> Size:
        """What a layer of this stride leaves: sizes that it does not divide are rounded up."""
        return Size(-(-self.height // stride), -(-self.width // stride))

    def scaled(self, height: int) -> Size:
        """Of the same shape at another height; the width is rounded to whole pixels."""
        return Size(height, max(1, round(self.width * height / self.height)))

    def __str__(self) -> str:
        """For people: ``28²``, ``96×160``."""
        return f"{self.height}²" if self.height == self.width else f"{self.height}×{self.width}"


PIXEL = Size(1, 1)
