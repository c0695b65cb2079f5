"""Files: written whole or not at all, and never trusted when read. No torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from supernet.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write to a temporary file beside ``path``, fsync, rename: a reader sees the old file or the new one.

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full or the file system failed"
        raise UserError(f"cannot write {path}: {reason}; choose another folder or free some space") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, atomically."""
    write_atomically(path, lambda file: file.write(content))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as indented JSON, atomically."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path, what: str, advice: str = "", *, missing: str | None = None) -> Any:
    """The JSON in ``path``.

    Args:
        what: what the file should be, for the message.
        advice: what to do if it is missing or unreadable.
        missing: attribute of the UserError.

    Raises:
        UserError: the file is missing or unreadable.
    """
    told = f": {advice}" if advice else ""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}{told}", missing) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        told = f"delete it, then {advice}" if advice else "delete it"
        raise UserError(f"{path} is not a readable {what} ({error}): {told}", missing) from error


def plain(data: Any) -> Any:
    """``data`` as JSON gives it back: tuples become lists, keys text."""
    return json.loads(json.dumps(data))


class JsonLines:
    """A log of JSON lines, which a resumed run cuts back to its checkpoint."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict]:
        """Every complete line; a last one that a kill cut off is dropped."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def keep(self, wanted: Callable[[dict], bool]) -> None:
        """Drop every line that is not ``wanted``."""
        text = "".join(json.dumps(line) + "\n" for line in self.read() if wanted(line))
        write_bytes(self.path, text.encode())

    def append(self, line: dict) -> None:
        """Add one line; a UserError if it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space, then run again") from error
