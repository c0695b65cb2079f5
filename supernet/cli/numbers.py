"""Numbers on a command line: sizes of images, and those that no command can take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from supernet.errors import UserError
from supernet.size import Size

Pixels = Annotated[
    Size,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="N|HxW",
        instance_from_str=lambda words: Size.of(words[0]),
        is_instance=lambda value: isinstance(value, Size),
        str_from_instance=lambda size: [str(size.plain)],
    ),
]

# Options that count something of which there must be one; of others there may be none.
POSITIVE = {
    "accumulate",
    "batch",
    "batch_size",
    "channels",
    "classes",
    "iterations",
    "jobs",
    "limit",
    "n",
    "population",
    "recalibration",
    "resolution",
}
POSITIVE |= {"alone", "draws", "pairs", "runs", "searches", "seeds", "threads", "trainings", "truth_seeds", "val_limit"}

MOST = 2**31 - 1


def check(args: Any, zero: Collection[str] = ()) -> None:
    """Refuse numbers that no command can take: NaN; counts below 0, below 1 where 0 has no meaning, above ``MOST``.

    Args:
        zero: counts of ``POSITIVE`` that may be 0 after all.
    """
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            flag, least = f"--{field.name.replace('_', '-')} {number}", int(field.name in POSITIVE.difference(zero))
            if isinstance(number, float) and math.isnan(number):
                raise UserError(f"{flag}: expected a number")
            if isinstance(number, int) and number < least:
                raise UserError(f"{flag}: expected at least {least}")
            if isinstance(number, int) and number > MOST and field.name != "seed":
                raise UserError(f"{flag}: expected at most {MOST:,}")
