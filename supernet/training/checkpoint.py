"""Checkpoints: tensors and plain values, loaded without running any code in the file.

A file ends with the SHA-256 of what stands before, so that a bit that has flipped is seen. The previous checkpoint
stays beside the new one and takes its place if that is damaged. Files of version 0.1 have no digest; their parts
have the checksums of a zip archive.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from supernet import shape
from supernet.errors import CheckpointError
from supernet.files import write_atomically

DELETE = ": delete it"
SCHEMA = 1
LABEL = b"\nsha256 "
TRAILER = len(LABEL) + 64
AVERAGE = "average"  # of what is learnt besides the weights: their moving average
END = b"PK\5\6"  # begins the last 22 bytes of a zip archive


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, state: dict, keep: bool = False) -> None:
    """Write a checkpoint and read it back. ``state`` holds tensors and plain values only: ``weights_only`` loads it.

    Args:
        keep: the checkpoint before, as ``previous(path)``.
    """

    def write(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        torch.save(_alike({"schema": SCHEMA, **state}), cast(IO[bytes], hashing))
        file.write(LABEL + hashing.digest.hexdigest().encode())

    def ready(temporary: Path) -> None:
        if not intact(temporary):
            raise OSError(0, "what was written reads otherwise")
        if keep and path.exists() and intact(path):  # a damaged one does not take the place of the one before
            _second_name(path, previous(path))

    write_atomically(path, write, ready)


def exists(path: Path) -> bool:
    """Whether there is a checkpoint to be loaded, if only the one before."""
    return path.exists() or previous(path).exists()


def delete(path: Path) -> None:
    """Remove a checkpoint and the one before."""
    for file in (previous(path), path):
        file.unlink(missing_ok=True)


def intact(path: Path) -> bool:
    """Whether a file is as it was written, by its digest, or by the checksums of its parts if it is of version 0.1."""
    digest, left = hashlib.sha256(), path.stat().st_size - TRAILER
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        if (trailer := file.read(TRAILER)).startswith(LABEL):
            return trailer == LABEL + digest.hexdigest().encode()
    if END not in trailer[-22:]:
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, NotImplementedError, RuntimeError, EOFError):
        return False


def load(path: Path, *, missing: str | None = None) -> dict:
    """Read a checkpoint without running any code in it; the one before if it is damaged, which is logged.

    Raises:
        CheckpointError: missing, damaged, or of another schema.
    """
    try:
        return _load(path, missing)
    except CheckpointError as error:
        if not previous(path).exists():
            raise
        state = _load(previous(path), missing)
        logging.getLogger("supernet").warning("%s; the one before is used", str(error).removesuffix(DELETE))
        return state


def _load(path: Path, missing: str | None) -> dict:
    try:
        if not intact(path):
            raise ValueError("another digest")
        with warnings.catch_warnings():  # torch warns of foreign pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}", missing) from error
    except Exception as error:  # damaged bytes raise whatever they lead to
        raise CheckpointError(f"{path} is damaged or not a checkpoint{_advice(missing)}", missing) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of schema {SCHEMA}, found {found}", missing)
    return state


def require(state: dict, expected: Any, path: Path, *, missing: str | None = None) -> None:
    """Refuse a checkpoint of another shape (``supernet.shape``), or with weights that are no numbers."""
    try:
        shape.require(state, expected)
        for name, value in state["model"].items():
            if not isinstance(value, torch.Tensor) or (value.is_floating_point() and not value.isfinite().all()):
                raise ValueError(f"model.{name} has values that are not finite")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}){_advice(missing)}", missing) from error


def weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is loaded with: the weights, or their average where one was kept."""
    return {**state["model"], **state.get("search", {}).get(AVERAGE, {})}


def _advice(missing: str | None) -> str:
    """What helps, unless that is to begin another run."""
    return "" if missing == "another run" else DELETE


def _second_name(path: Path, other: Path) -> None:
    """Give a file another name; a copy where the file system has one name for each file."""
    temporary = other.with_name(f".{other.name}.tmp")
    temporary.unlink(missing_ok=True)
    if other.exists() and other.samefile(path):  # a kill came in between; to rename a name to its like does nothing
        return
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, other)


def _alike(value: Any) -> Any:
    """The same value, of which the bytes in a file follow: a pickle tells one text from two equal ones."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_alike(key): _alike(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_alike(inner) for inner in value)
    return value


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, block: Any) -> int:
        self.digest.update(block)
        return self.file.write(block)

    def flush(self) -> None:
        self.file.flush()
