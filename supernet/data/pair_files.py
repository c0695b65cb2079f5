"""Pairs of pictures in one ``.bin`` file, as insightface packs LFW, CFP-FP, AgeDB and others: read, never unpickled.

Such a file is a pickle of two lists: the bytes of 2N encoded pictures, and N times whether two of them show the same
person. A pickle is a program for a machine that may import and call anything. Here Python's ``pickletools`` takes it
apart, which runs nothing, and of its instructions those that build lists, tuples, bytes and truths are followed by
hand. Any other one is refused, among them all that name, call or set up an object.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from supernet.errors import UserError

MARK = object()
CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"}  # Python 2 wrote text
NUMBERS = {"INT", "BININT", "BININT1", "BININT2"}  # some files have 1 and 0 for true and false
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
GETS = {"GET", "BINGET", "LONG_BINGET"}


def read(path: Path) -> tuple[list[bytes], list[bool]]:
    """The encoded pictures, two for each pair in turn, and whether the two of a pair show the same person.

    Raises:
        UserError: the file cannot be read, has an instruction that is refused, or holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the pairs file {path}: {error}") from error
    try:
        pictures, same = _lists(content)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of pairs as insightface packs them: {error}") from error
    return pictures, same


def _lists(content: bytes) -> tuple[list[bytes], list[bool]]:
    found = _built(content)
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(part, list) for part in found):
        raise ValueError("expected two lists, of pictures and of truths")
    pictures, same = found
    if not all(isinstance(picture, bytes) for picture in pictures):
        raise ValueError("expected the first list to have the bytes of pictures alone")
    if not all(isinstance(truth, int) and truth in (0, 1) for truth in same):  # a bool is an int
        raise ValueError("expected the second list to have truths alone")
    if not same or len(pictures) != 2 * len(same):
        raise ValueError(f"expected two pictures for each pair, got {len(pictures)} for {len(same)}")
    return pictures, [bool(truth) for truth in same]


def _built(content: bytes) -> Any:
    """What the pickle builds.

    Raises:
        ValueError: an instruction that is refused, or a damaged file. IndexError, KeyError, TypeError: a program that
            takes what it has not.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for instruction, argument, position in pickletools.genops(content):
        name = instruction.name
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in BYTES:
            stack.append(argument.encode("latin-1") if isinstance(argument, str) else argument)
        elif name in NUMBERS:
            stack.append(argument)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            stack.append(MARK)
        elif name in ("LIST", "TUPLE"):
            items = _since_mark(stack)
            stack.append(items if name == "LIST" else tuple(items))
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item])
        elif name == "APPENDS":
            items = _since_mark(stack)
            _extend(stack[-1], items)
        elif name in PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in GETS:
            stack.append(memo[argument])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its instruction {name} at byte {position} is refused: it may build more than lists")
    raise ValueError("it has no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, taken off with it."""
    place = next((i for i in reversed(range(len(stack))) if stack[i] is MARK), None)
    if place is None:
        raise IndexError("it takes more than there is")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise TypeError("it appends to what is no list")
    target.extend(items)
