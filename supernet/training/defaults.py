"""What a training takes where nothing is said: device, kernels, learning rate, augmentation, memory."""

from __future__ import annotations

import ctypes
import os
from typing import Any, get_args

import torch

from supernet.errors import UserError
from supernet.quantities import several
from supernet.training import measured
from supernet.training.config import Optimizer
from supernet.training.measured import Kernels, Wish


def device(name: str | None = None, cuda: Any = torch.cuda) -> torch.device:
    """The device to run on: ``name``, else CUDA where there is one; under torchrun the one of this process's rank.

    It is selected before anything touches a device, so that no process leaves memory on another's.

    Args:
        name: as PyTorch has it. Under torchrun ``cuda`` is the device of LOCAL_RANK; one with a number is taken as it
            is, for launchers that show each process its own device only.
        cuda: what is asked for devices.

    Raises:
        UserError: PyTorch cannot use it here, or there are more processes than devices.
    """
    try:
        chosen = torch.device(name or ("cuda" if cuda.is_available() else "cpu"))
        if chosen.type != "cuda":
            torch.empty(1, device=chosen)
            return chosen
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use the device {name!r}: {str(error).splitlines()[0]}") from error
    count, index = cuda.device_count() if cuda.is_available() else 0, chosen.index
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if index is None and processes > max(count, 1):
        raise UserError(
            f"{processes} processes on this machine share {several(count, 'CUDA device')}: start at most "
            "one for each; or name the device cuda:0 if each process sees its own only"
        )
    if index is None:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise UserError(f"cannot use the device cuda:{index}: PyTorch finds {count} CUDA devices here")
    cuda.set_device(index)
    return torch.device("cuda", index)


def record(device: torch.device) -> dict[str, str]:
    """What a run notes of its device: the kind, and the name of a GPU."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {"device": device.type, **gpu}


def kernels(device: torch.device, wish: Wish = "auto", sync_bn: bool = False) -> Kernels:
    """``wish``; ``auto``: our operators on the CPU, on a GPU what was the faster in a training on one of its name.

    Where nothing was measured that is plain PyTorch.

    Raises:
        UserError: another wish; or ``fused`` with ``sync_bn``, as our operators compute batch statistics within one
            process.
    """
    if sync_bn and wish == "fused":
        raise UserError("synchronised batch statistics need eager kernels, got fused: choose one of the two")
    if wish not in get_args(Wish):
        raise UserError(f"unknown kernels {wish!r}: expected {', '.join(get_args(Wish))}")
    if wish != "auto":
        return wish
    if sync_bn or device.type not in ("cpu", "cuda"):
        return "eager"
    return "fused" if device.type == "cpu" else measured.kernels(torch.cuda.get_device_name(device))


PEAKS = {"sgd": (0.2, 0.5), "adamw": (0.008, 0.02), "lamb": (0.016, 0.04)}  # learning rates at batch 64, at most


def learning_rate(
    batch_size: int, wish: float | None = None, learnt: bool = False, optimizer: Optimizer = "sgd"
) -> float:
    """``wish``, else SPOS's 0.5 at batch 1024, by the square root of the batch, as short runs on small ones want it.

    Of other optimisers likewise. Of weights that have ``learnt`` elsewhere a tenth of it.
    """
    usual, most = PEAKS[optimizer]
    return min(most, usual * (batch_size / 64) ** 0.5) * (0.1 if learnt else 1) if wish is None else wish


def augments(wish: bool | None, epochs: int) -> bool:
    """Whether to augment: crops cost three points after 3 epochs (one architecture of 0.84 MFLOPs, Fashion-MNIST).

    That they pay from 30 epochs on is an assumption.
    """
    return epochs >= 30 if wish is None else wish


def keeps_memory() -> bool:
    """The switch: SUPERNET_KEEP_MEMORY=0 leaves the allocator as it is."""
    return os.environ.get("SUPERNET_KEEP_MEMORY", "1") != "0"


def keep_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it: fresh pages cost more than the kernels that fill them."""
    if not keeps_memory():
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((-1, 2**31 - 1), (-4, 0)):  # M_TRIM_THRESHOLD, M_MMAP_MAX
        mallopt(parameter, value)
