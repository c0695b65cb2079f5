"""Several processes under torchrun: one path for all, gradients averaged on that path alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from supernet import active
from supernet.errors import UserError
from supernet.norm import BatchNorm
from supernet.quantities import several

BUCKET = 2**20  # values that travel together


@functools.cache  # a process opens the images of several networks
def tell(note: str) -> None:
    """Say what is remarkable once, not in every process."""
    if rank() == 0 and multiprocessing.parent_process() is None:
        logging.getLogger("supernet").warning("%s", note)


def launched() -> int:
    """Processes that torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; nothing without torchrun."""
    if launched() > 1 and not dist.is_initialized():
        cuda = device.type == "cuda"
        store, number, processes = next(rendezvous("env://"))
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore(_attempt(), store),
            rank=number,
            world_size=processes,
            device_id=device if cuda else None,
        )


def _attempt() -> str:
    """What tells a restart by torchrun from the one before: its store still has the addresses of the processes then.

    Machines count restarts each for itself, so that several have no number in common: there torchrun must begin a new
    store (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1).
    """
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else "0"


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
    """Until all processes are here; nothing without torchrun.

    Raises:
        UserError: another one has ended, and has told why.
    """
    if not dist.is_initialized():
        return
    try:
        dist.barrier()
    except RuntimeError as error:
        if "by peer" not in str(error):  # "Connection closed by peer", "Connection reset by peer"
            raise
        raise UserError("another process of this training ended; its own line tells why") from None


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Rank 0 goes through the block before the others do, and what it writes they find."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def share(batch_size: int, parts: int = 1) -> int:
    """This process's images of a global batch that every process computes in so many parts.

    Raises:
        UserError: they do not come out even.
    """
    batch, accumulated = several(batch_size, "image"), several(parts, "accumulated part")
    if parts < 1 or batch_size < 1:
        raise UserError(f"a batch of {batch} in {accumulated}: expected at least 1 of each")
    if batch_size % (world() * parts):
        raise UserError(
            f"a batch of {batch} cannot be split evenly over {several(world(), 'process', 'processes')}, "
            f"{accumulated} each: choose a multiple of {world() * parts}"
        )
    return batch_size // world()


def parts(x: Tensor, y: Tensor, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A process's images and labels in ``n`` parts of equal size: image i is in part i mod n, as with ranks."""
    return ((x[k::n], y[k::n]) for k in range(n))


def average(tensors: list[Tensor]) -> None:
    """Average tensors over the ranks, in place, by one all-reduce; every rank gives tensors of the same shapes."""
    if world() > 1 and tensors:
        _Flight(tensors).land()


def total(*values: float, device: torch.device) -> list[float]:
    """Sums over the ranks, in double."""
    if world() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.double, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on every rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


class _Flight:
    """Tensors on their way through one all-reduce."""

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        self.flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.work = dist.all_reduce(self.flat, async_op=True)

    def land(self) -> None:
        """Wait, and put the averages in place."""
        self.work.wait()
        self.flat /= world()
        for tensor, mean in zip(self.tensors, self.flat.split([t.numel() for t in self.tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


class PathReducer:
    """Averages the gradients of a step over the ranks, while the backward pass still computes others.

    All ranks take the same path, so the same gradients become ready in the same order on each: they are put into flat
    buckets as they come, and a full bucket is sent at once. Only the path travels, of each parameter its active part,
    not the supernet as with DDP's ``find_unused_parameters``; parameters off the path keep ``grad is None``. In a step
    of several paths what was on an earlier path only travels last. Running statistics of the BN layers that ran travel
    with the last bucket, so the ranks' models are equal after every step.

    Args:
        bucket: values in a full bucket.
    """

    def __init__(self, model: nn.Module, bucket: int = BUCKET):
        self.bucket, self.armed, self.sent = bucket, False, 0
        self.ready: list[Tensor] = []
        self.filled = 0  # values of what is ready
        self.flights: list[_Flight] = []
        self.norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        self.parameters, self.taken = list(model.parameters()), set[Tensor]()
        if world() > 1:
            for parameter in self.parameters:
                parameter.register_post_accumulate_grad_hook(self._take)

    def _take(self, parameter: Tensor) -> None:
        if self.armed and parameter.grad is not None:
            self.taken.add(parameter)
            self._put_gradient(parameter)
            if self.filled >= self.bucket:
                self._send()

    def _put_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._put(*(active.part(parameter.grad, box) for box in active.moved(parameter)))

    def _put(self, *tensors: Tensor) -> None:
        self.ready += tensors
        self.filled += sum(tensor.numel() for tensor in tensors)

    def _send(self) -> None:
        if self.ready:
            self.flights.append(_Flight(self.ready))
            self.sent += self.filled
            self.ready, self.filled = [], 0

    def arm(self) -> None:
        """Before the backward pass that completes the gradients of a step."""
        self.armed = world() > 1

    def finish(self) -> None:
        """After that backward pass: gradients and running statistics are averages when this returns."""
        if not self.armed:
            return
        self.armed = False
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self.taken:
                self._put_gradient(parameter)
        self.taken.clear()
        for norm in self.norms:
            if norm.ran:
                self._put(norm.running_mean, norm.running_var)
                norm.ran = False
        self._send()
        for flight in self.flights:
            flight.land()
        self.flights = []
