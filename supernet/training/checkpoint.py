"""Checkpoints: tensors and plain values, loaded without running any code in the file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch

from supernet.errors import UserError
from supernet.files import write_atomically

SCHEMA = 1


def save(path: Path, state: dict) -> None:
    """Write a checkpoint. ``state`` holds tensors and plain values only, so that it loads with ``weights_only``."""
    write_atomically(path, lambda file: torch.save({"schema": SCHEMA, **state}, file))


def load(path: Path, advice: str) -> dict:
    """Read a checkpoint without running any code in it.

    Raises:
        UserError: missing, damaged, or of another schema; ends in ``advice``.
    """
    try:
        with warnings.catch_warnings():  # torch warns of foreign pickles before it refuses them
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"no checkpoint at {path}: {advice}") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or not a checkpoint: delete it, then {advice}") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path}: expected a checkpoint of schema {SCHEMA}, found {found}; {advice}")
    return state
