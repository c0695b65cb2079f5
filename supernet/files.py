"""Files: written whole or not at all, and never trusted when read. No torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from supernet import shape
from supernet.errors import UserError

LONGEST_NUMBER = 64  # digits; the longest of ours are the 39 of a random generator's state


TORCH_WRITERS = ("PytorchStreamWriter", "inline_container")  # named where torch.save could not write


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], ready: Callable[[Path], object] = lambda temporary: None
) -> None:
    """Write to a temporary file beside ``path``, fsync, rename: a reader sees the old file or the new one.

    What a killed process left of the same file is removed.

    Args:
        ready: called with the temporary file before it takes the place of the old one.

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            if not _alive(leftover.name.split(".")[-2]):
                leftover.unlink(missing_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        ready(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if isinstance(error, RuntimeError) and not any(writer in str(error) for writer in TORCH_WRITERS):
            raise
        raise _unwritten(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _alive(pid: str) -> bool:
    """Whether another process on this machine has this number."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        return True
    return int(pid) != os.getpid()


def _unwritten(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or "the disk is full or the file system failed"
    return UserError(f"cannot write {path}: {reason}; choose another folder or free some space")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they outlast a power failure."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlast a power failure, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # not every file system has it
        os.fsync(descriptor)
    os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def parse(text: str | bytes) -> Any:
    """The value of a JSON text from anywhere.

    Raises:
        ValueError: no JSON, or such as we never write: NaN, infinite or very long numbers, thousands of brackets.
    """
    try:
        return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) < float("inf"):
        raise ValueError(f"expected a finite number, found {text[:LONGEST_NUMBER]}")
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def read_json(
    path: Path,
    what: str,
    advice: str = "",
    *,
    expected: Any = None,
    missing: str | None = None,
    damaged: str | None = None,
) -> Any:
    """The JSON in ``path``.

    Args:
        what: what the file should be, for the message.
        advice: what to do if it is missing or unreadable.
        expected: what it should look like (``supernet.shape``).
        missing: attribute of the UserError. damaged: the attribute instead, where it does not help to delete the file.

    Raises:
        UserError: the file is missing, unreadable, or looks otherwise.
    """
    told = f": {advice}" if advice else ""
    try:
        data = parse(path.read_bytes())
        shape.require(data, expected)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no {what} at {path}{told}", missing) from error
    except (OSError, ValueError) as error:
        told = "" if damaged else f": delete it, then {advice}" if advice else ": delete it"
        raise UserError(f"{path} is not a readable {what} ({error}){told}", damaged or missing) from error
    return data


def plain(data: Any) -> Any:
    """``data`` as JSON gives it back: tuples become lists, keys text."""
    return json.loads(json.dumps(data))


class JsonLines:
    """A log of JSON lines, which a resumed run cuts back to its checkpoint.

    Args:
        expected: what a line should look like (``supernet.shape``); others are dropped.
    """

    def __init__(self, path: Path, expected: Any = dict):
        self.path, self.expected = path, expected

    def read(self) -> list[dict]:
        """Every line that is whole and as expected."""
        try:
            found = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        lines = []
        for text in found[:-1]:  # a last one without its end was cut off
            try:
                line = parse(text)
                shape.require(line, self.expected)
            except ValueError:
                continue
            lines.append(line)
        return lines

    def keep(self, wanted: Callable[[dict], bool]) -> None:
        """Drop every line that is not ``wanted``, and what is no line."""
        self.write(line for line in self.read() if wanted(line))

    def write(self, lines: Iterable[dict]) -> None:
        """Make these the lines, if they are not."""
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        if content != (self.path.read_bytes() if self.path.exists() else b""):
            write_bytes(self.path, content)

    def append(self, *lines: dict) -> None:
        """Add lines, each whole or not at all; a UserError if they cannot be written."""
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            make_folder(self.path.parent)
            new = not self.path.exists()
            with self.path.open("ab+", buffering=0) as file:
                end = _end_of_last_line(file)
                file.truncate(end)  # what a kill cut off would be glued to ours
                try:
                    written = 0
                    while written < len(content):
                        written += file.write(content[written:])
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise _unwritten(self.path, error) from error


def _end_of_last_line(file: Any) -> int:
    """Where the last whole line of an open file ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
