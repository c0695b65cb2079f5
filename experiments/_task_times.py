"""What scoring takes, recorded: each layer on all images, a task besides, and the driver for each task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from search.evaluator import Scorer
from supernet import families
from supernet.executor import nothing
from supernet.model import Supernet
from supernet.space import Arch, Space

BATCH = 128


@dataclass(frozen=True)
class Times:
    """Seconds on one core."""

    layers: dict[str, float]  # by key, on all images
    task: float  # besides its layers
    send: float  # of the driver, for a task

    def group(self, space: Space, archs: Sequence[Arch]) -> float:
        """A task: every distinct prefix of layers runs once."""
        keys = [tuple(spec.key for spec in families.layout(space).pick(arch)) for arch in archs]
        nodes = {key[: i + 1] for key in keys for i in range(len(key))}
        return self.task + sum(self.layers[node[-1]] for node in nodes)


def record(space: Space, images: int, tasks: Sequence[Sequence[Arch]]) -> tuple[Times, list[list[float]]]:
    """Record on random images, and a third as many to recalibrate BN with.

    Args:
        tasks: to be timed whole; what layers take alone is fitted to them.

    Returns:
        The times; of each task the recorded seconds and those that the times add up to.
    """
    alone = Times({spec.key: layer(spec, images) for spec in families.layout(space).every()}, 0.0, 0.0)
    x, y = torch.randn(images, space.channels, *space.input_size), torch.zeros(images, dtype=int)
    validation = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    scorer = Scorer(Supernet(space), list(x[: images // 3].split(BATCH)), validation, "recalibrated")
    scorer(tasks[0])  # warm up
    recorded = [spent(lambda archs=archs: scorer(archs)) for archs in tasks]
    sums = [alone.group(space, archs) for archs in tasks]
    factor, task = np.polyfit(sums, recorded, 1)
    times = Times({key: factor * seconds for key, seconds in alone.layers.items()}, max(task, 0.0), send())
    return times, [[seconds, factor * total + task] for seconds, total in zip(recorded, sums, strict=True)]


def layer(spec, images: int) -> float:
    """Seconds of one layer on the images, and in training on a third of them."""
    module = spec.build(kernels="fused")
    x = torch.randn(BATCH, *spec.input_shape).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def passes() -> None:
        for n, training in ((images // 3, True), (images, False)):
            module.train(training)
            for _ in range(-(-n // BATCH)):
                module(x)

    passes()  # warm up
    return spent(passes)


def spent(call) -> float:
    """Seconds of this thread, whatever else the machine does."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def send(tasks: int = 200) -> float:
    """Seconds of the driver of Ray, by the CPU's clock, for a task that does nothing."""
    from supernet.ray_executor import Ray

    workers = Ray(2)
    list(workers.map(nothing, {"warm up": ()}))
    began = time.process_time()
    list(workers.map(nothing, {str(i): () for i in range(tasks)}))
    return (time.process_time() - began) / tasks
