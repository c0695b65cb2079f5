"""Checkpoints: tensors and plain values, loaded without running any code in the file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch

from supernet.errors import CheckpointError
from supernet.files import write_atomically

SCHEMA = 1


def save(path: Path, state: dict) -> None:
    """Write a checkpoint. ``state`` holds tensors and plain values only, so that it loads with ``weights_only``."""
    write_atomically(path, lambda file: torch.save({"schema": SCHEMA, **state}, file))


def load(path: Path, *, missing: str | None = None) -> dict:
    """Read a checkpoint without running any code in it.

    Raises:
        CheckpointError: missing, damaged, or of another schema.
    """
    try:
        with warnings.catch_warnings():  # torch warns of foreign pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}", missing) from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: delete it", missing) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of schema {SCHEMA}, found {found}", missing)
    return state
