"""State dicts in files as people keep them: alone or in a checkpoint, with what a wrapper puts before their names."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.errors import CheckpointError, UserError

State = dict[str, Tensor]
DEPTH = 3  # of dictionaries in dictionaries: a file can have one that is in itself


def read(path: Path, names: Collection[str]) -> State:
    """The weights in a file, read without running any code in it.

    Args:
        path: .safetensors, or what ``torch.save`` wrote: a state dict, or a checkpoint that has one under any key.
        names: of the network. Of several state dicts, such as that of an optimiser or of an average, the first one that
            has the most of them is meant. What stands before them in the file is taken off: ``module.`` of what trained
            in parallel, ``_orig_mod.`` of what was compiled, ``model.`` of Lightning. The others there are left.

    Raises:
        UserError: there is no such file, or it holds no weights, or some that are sparse or not finite.
    """
    found = [*_state_dicts(_load(path))]
    if not found:
        raise CheckpointError(f"{path} holds no state dict: expected tensors by their names")
    counted = [(state, *_prefix(state, names)) for state in found]
    state, prefix, _ = max(counted, key=lambda item: item[2])
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    for name, value in state.items():
        if value.layout != torch.strided:
            raise CheckpointError(f"{path} has {name} as a sparse tensor: expected dense ones, by its to_dense()")
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{path} is damaged: {name} has values that are not finite")
    return state


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load(path.read_bytes())
        with torch.serialization.safe_globals([argparse.Namespace]):  # options, as timm's trainer keeps them
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever damaged files raise
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"{code[1]} in it needs code to be read" if code else type(error).__name__
        raise CheckpointError(
            f"{path} holds no weights that can be read ({reason}): expected a .safetensors, or what "
            "torch.save(network.state_dict(), FILE) writes"
        ) from error


def _state_dicts(found: Any, depth: int = DEPTH) -> Iterator[State]:
    """All tensors by their names, of a dictionary and of those in it."""
    if isinstance(found, dict) and depth:
        own = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if own:
            yield own
        for value in found.values():
            yield from _state_dicts(value, depth - 1)


def _prefix(state: State, names: Collection[str]) -> tuple[str, int]:
    """What stands before the most names, and before how many."""
    counts = Counter({"": 0})
    for name in state:
        places = [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
        counts.update(name[:place] for place in places if name[place:] in names)
    return counts.most_common(1)[0]
