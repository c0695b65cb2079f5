"""What goes wrong while a network is trained, each told in one line; and SIGTERM, which waits for the end of a step."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from supernet import files
from supernet.errors import UserError, dead_loader
from supernet.quantities import several
from supernet.space import Arch

STUCK = 0.01  # share of ln(classes) within which a loss counts as not moved from there,
EPOCHS = 3  # for so many epochs
Item = TypeVar("Item")


@contextlib.contextmanager
def held_sigterm() -> Iterator[list[bool]]:
    """SIGTERM fills the list, and does what it would have done once the context is left. In the main thread only."""
    came: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(True))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        signal.raise_signal(signal.SIGTERM)
        raise SystemExit(143)  # nobody else took it


@contextlib.contextmanager
def memory(doing: Callable[[], str], x: Tensor, advice: str) -> Iterator[None]:
    """Out of memory, on the device or here, becomes a UserError.

    Args:
        doing: what was under way, such as ``step 3``, and on which path. x: its images ``[B, C, H, W]``.
        advice: what to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        images = f"{several(len(x), 'image')} of {'×'.join(map(str, x.shape[1:]))}"
        raise UserError(f"out of memory in {doing()}, with {images} on {x.device}: {advice}") from error


def loaded(batches: Iterator[Item]) -> Iterator[Item]:
    """The batches; a process that decodes images and dies becomes a UserError."""
    try:
        yield from batches
    except RuntimeError as error:
        if (told := dead_loader(error)) is None:
            raise
        raise told from error


def first_bad(losses: Sequence[Tensor]) -> int | None:
    """Place of the first loss that is not finite; None where all are."""
    bad = [] if not losses else (~torch.isfinite(torch.stack(list(losses)))).nonzero().flatten().tolist()
    return bad[0] if bad else None


def refuse_loss(loss: float, step: int, arch: Arch | None, lr: float, path: Path | None, saved: bool) -> NoReturn:
    """Stop with a UserError before a loss that is not finite gets into a checkpoint.

    Args:
        path: of a file that keeps step and path. saved: whether there is a checkpoint.
    """
    if path is not None:
        record = {"step": step, "arch": None if arch is None else list(arch), "loss": str(loss), "lr": lr}
        files.write_json(path, record)
    told = "" if path is None else f" (kept in {path})"
    raise UserError(
        f"the loss became {loss} in step {step}{on(arch)}{told}: lower the learning rate (now {lr:g}) or "
        f"clip gradients, as at a norm of 5{'; the last checkpoint is intact' if saved else ''}"
    )


def collapsed(lines: Sequence[Mapping[str, Any]], classes: int) -> bool:
    """Whether the loss of the last epochs is that of a network that gives every class the same probability."""
    chance, last = math.log(max(classes, 2)), lines[-EPOCHS:]
    return len(last) == EPOCHS and all(abs(line["loss"] / chance - 1) < STUCK for line in last)


def tell_collapse(classes: int, lr: float) -> None:
    """Warn of it."""
    logging.getLogger("supernet").warning(
        f"the loss has not moved from ln({classes}) = {math.log(classes):.3f} for {EPOCHS} epochs: the training has "
        f"collapsed; change the learning rate (now {lr:g}), warm it up, or clip gradients"
    )


def on(arch: Arch | None) -> str:
    """The path, for a message."""
    return "" if arch is None else f" on the path {','.join(map(str, arch))}"
