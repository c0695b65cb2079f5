"""Gradients of the path alone against DistributedDataParallel with unused parameters: bytes and time of a step."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from supernet import spaces
from supernet.model import Supernet
from supernet.space import Arch
from supernet.tables import Table
from supernet.training import defaults, distributed
from supernet.training.config import FitConfig
from supernet.training.optimizers import make


def run(space: str, resolution: int, classes: int, batch: int, rounds: int, processes: int) -> dict[str, Any]:
    """Seconds and bytes of a step by form, medians over ``rounds`` paths that both take in turn.

    Args:
        batch: images per process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        shape = space, resolution, classes, batch
        jobs = [pool.submit(one, rank, processes, port, shape, rounds) for rank in range(processes)]
        figures, *_ = [job.result() for job in jobs]
    ratios = {
        kind: statistics.median(np.divide(figures["path"][kind], figures["DDP"][kind])) for kind in ("bytes", "seconds")
    }
    return {
        "space": space,
        "resolution": resolution,
        "classes": classes,
        "batch_per_process": batch,
        "processes": processes,
        "ratios": ratios,
        **figures,
    }


def one(rank: int, world: int, port: int, shape: tuple[str, int, int, int], rounds: int) -> dict[str, dict[str, list]]:
    """What a process measures, as one of ``world``."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in address.items()})
    defaults.keep_memory()
    torch.set_num_threads(1)
    distributed.start(torch.device("cpu"))
    name, resolution, classes, batch = shape
    space = spaces.get(name, 3, resolution, classes)
    torch.manual_seed(0)
    steps = {form: step(Supernet(space, kernels="eager")) for form, step in FORMS.items()}
    torch.manual_seed(rank)
    x, y = torch.randn(batch, 3, resolution, resolution), torch.randint(classes, (batch,))
    found: dict[str, dict[str, list]] = {form: {"seconds": [], "bytes": []} for form in FORMS}
    for turn in range(-2, rounds):  # two to warm up
        arch = space.sample(np.random.default_rng(turn + 2))
        for form in sorted(FORMS, reverse=bool(turn % 2)):
            dist.barrier()
            began = time.perf_counter()
            sent = steps[form](x, y, arch)
            took = time.perf_counter() - began
            if turn >= 0:
                found[form]["seconds"].append(took)
                found[form]["bytes"].append(sent)
    distributed.stop()
    return found


Step = Callable[[Tensor, Tensor, Arch], int]


def path_step(model: Supernet) -> Step:
    """Ours: a step, which returns the bytes of its all-reduces."""
    optimizer, reducer = make(model.train(), FitConfig(1, lr=0.01)), distributed.PathReducer(model)

    def step(x: Tensor, y: Tensor, arch: Arch) -> int:
        reducer.sent = 0
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x, arch), y)
        reducer.arm()
        loss.backward()
        reducer.finish()
        optimizer.step()
        return 4 * reducer.sent

    return step


def ddp_step(model: Supernet) -> Step:
    """PyTorch's: the same step in DistributedDataParallel, whose bytes a copy with a communication hook has counted."""
    optimizer, bytes_of_all = make(model.train(), FitConfig(1, lr=0.01)), counted(copy.deepcopy(model))
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)

    def step(x: Tensor, y: Tensor, arch: Arch) -> int:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(wrapped(x, arch), y).backward()
        optimizer.step()
        return bytes_of_all

    return step


def counted(model: Supernet) -> int:
    """Bytes that DistributedDataParallel sends in a step: those of every parameter, on the path or not."""
    wrapped, sent = DistributedDataParallel(model, find_unused_parameters=True), 0

    def count(_, bucket):  # without annotations, which PyTorch would compare by identity
        nonlocal sent
        sent += bucket.buffer().numel() * bucket.buffer().element_size()
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])

    wrapped.register_comm_hook(None, count)
    space = model.space
    x = torch.randn(2, space.channels, *space.input_size)
    wrapped(x, space.sample(np.random.default_rng(0))).sum().backward()
    return sent


FORMS = {"path": path_step, "DDP": ddp_step}


def table(figures: dict[str, Any]) -> Table:
    """One row for each form."""
    title = f"{figures['space']} at {figures['resolution']}, {figures['processes']} processes"
    rows = []
    for form in FORMS:
        size, seconds = (statistics.median(figures[form][kind]) for kind in ("bytes", "seconds"))
        ratios = (
            [f"{figures['ratios'][kind]:.2f}" for kind in ("bytes", "seconds")] if form == "path" else ["1.00", "1.00"]
        )
        rows.append((form, f"{size / 1e6:.1f}", f"{1e3 * seconds:.0f}", *ratios))
    title += f", {figures['batch_per_process']} images each"
    return Table(("gradients", "MB a step", "ms a step", "bytes", "time"), rows, title)
