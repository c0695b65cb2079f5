"""One process at a time: in a folder, or at what a machine can do for one only. No torch."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from supernet import files
from supernet.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path, output: Path | None = None) -> Iterator[None]:
    """Hold a folder against other processes that write in it; a UserError where one does, with its number.

    Where the work is refused, the folder is left as it was found.

    Args:
        output: all that is to be written; where that lies outside the folder, nothing is held.
    """
    if output is not None and not output.resolve().is_relative_to(folder.resolve()):
        yield
        return
    path = folder / NAME
    new_folder, new_file = not folder.exists(), not path.exists()
    try:
        files.make_folder(folder)
        lock = FileLock(path)
        lock.acquire(timeout=0)
        path.write_text(str(os.getpid()))
    except Timeout as error:
        raise UserError(f"another process is at work in {folder}{_holder(path)}: wait for it, or stop it") from error
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose another folder") from error
    try:
        yield
    except UserError:
        if new_file:
            path.unlink(missing_ok=True)
        if new_folder and folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        raise
    finally:
        lock.release()


@contextlib.contextmanager
def awaited(what: str) -> Iterator[None]:
    """Hold what one process of this machine can do at a time, once nobody else does; tells whom it waits for.

    Args:
        what: a verb, such as ``measures``.
    """
    path = Path(tempfile.gettempdir()) / f"supernet-{what}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logging.getLogger("supernet").warning(
            f"another process{_holder(path)} {what} on this machine: waiting until it is done"
        )
        lock.acquire()
    except OSError:  # another user's file, which cannot be waited for
        yield
        return
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """The process that holds a lock, for a message."""
    pid = path.read_text(errors="replace")
    return f" (pid {pid})" if pid.isascii() and pid.isdigit() else ""
