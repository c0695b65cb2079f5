"""One process at a time in a folder. No torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from supernet import files
from supernet.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that write in it; a UserError where one does, with its number.

    Where the work is refused, the folder is left as it was found.
    """
    path = folder / NAME
    new_folder, new_file = not folder.exists(), not path.exists()
    try:
        files.make_folder(folder)
        lock = FileLock(path)
        lock.acquire(timeout=0)
        path.write_text(str(os.getpid()))
    except Timeout as error:
        pid = path.read_text(errors="replace")
        told = f" (pid {pid})" if pid.isascii() and pid.isdigit() else ""
        raise UserError(f"another process is at work in {folder}{told}: wait for it, or stop it") from error
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
