"""Images that cannot be read: refused, or left out and remembered by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from supernet import files
from supernet.errors import UserError

SHAPE = {"schema": 1, "images": {str: str}}


class Damaged:
    """What is done about images that cannot be read.

    Args:
        skip: leave them out, and tell so once; else refuse them.
        path: a file that remembers them for others. What it names is left out in any case.

    Attributes:
        known: why each one cannot be read, by names such as ``train/cat/3.jpg`` or, of images that have numbers,
            ``train/17``.
    """

    def __init__(self, skip: bool = False, path: Path | None = None):
        self.skip, self.path, self.known = skip, path, {} if path is None else read(path)

    def found(self, name: str, error: UserError) -> None:
        """Another one.

        Raises:
            UserError: ``error``, where images are not to be skipped, or it is not about a damaged one.
        """
        if not self.skip or error.missing != "damaged":
            raise error
        if name in self.known:
            return
        self.known[name] = str(error)
        logging.getLogger("supernet").warning("left out from here on: %s", error)
        if self.path is not None:
            remember(self.path, {name: str(error)})


def read(path: Path) -> dict[str, str]:
    """Damaged images in a file, which need not be there: why, by name.

    Raises:
        UserError: the file is damaged itself.
    """
    if not path.exists():
        return {}
    return files.read_json(path, "list of damaged images", expected=SHAPE)["images"]


def remember(path: Path, found: Mapping[str, str]) -> None:
    """Add damaged images to a file; several processes may do so at once."""
    files.make_folder(path.parent)
    with FileLock(path.parent / ".damaged.lock"):
        files.write_json(path, {"schema": 1, "images": {**read(path), **found}})
