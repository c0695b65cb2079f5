"""Several processes under torchrun: one path for all, gradients averaged on that path alone."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until all processes are here; nothing without torchrun."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(model: nn.Module) -> None:
    """Average the gradients that exist over the ranks.

    All ranks took the same path, so all have the same gradients at hand: one all-reduce of the path, not of the
    supernet (ten times less traffic than DDP with ``find_unused_parameters``).
    """
    average([p.grad for p in model.parameters() if p.grad is not None])


def average(tensors: list[Tensor]) -> None:
    """Average tensors over the ranks, in place, by one all-reduce; every rank gives tensors of the same shapes."""
    if world() == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for t, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(mean.view_as(t))
