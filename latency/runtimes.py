"""What runs a layer: one small protocol, and plain PyTorch as the first to speak it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from latency import measure
from latency.measure import Clock, Samples, Timer
from latency.table import LatencyTable
from supernet.errors import UserError

Shape = tuple[int, int, int]  # of one image or feature map: channels, height, width


class Runtime(Protocol):
    """Turns a module into what the device executes, and times that."""

    name: str
    kernels: str  # how the modules that it is given are built: fused | eager
    batch: int
    threads: int

    def describe(self) -> dict[str, Any]:
        """All that its latencies depend on. ``options`` are the arguments that make this runtime again."""

    def prepare(self, module: nn.Module, shape: Shape) -> Any:
        """What runs ``module`` on inputs ``[batch, *shape]``. Leaves the module as it is."""

    def timer(self, artefact: Any) -> Timer:
        """A timer of what ``prepare`` made."""

    def session(self) -> AbstractContextManager:
        """Surrounds preparing and timing: the number of threads, and what else is global."""


class TorchRuntime:
    """PyTorch modules in eval mode under inference_mode, channels_last, called one by one.

    They run as ``Supernet.extract`` gives them: with ``kernels="eager"`` BN is an operation of its own, not
    folded into the convolution, because that is what loading a retrained network and calling it runs.

    Args:
        kernels: ``eager`` plain PyTorch, ``fused`` our operators.
        device: ``cpu`` or ``cuda``.
        batch: images in one run.
        threads: of the CPU. With one, time that the process did not get the CPU can be told and left out.
        clock: of the CPU; times on CUDA come from its events.
    """

    name = "torch"

    def __init__(
        self,
        kernels: str = "eager",
        device: str = "cpu",
        batch: int = 1,
        threads: int = 1,
        clock: Clock | None = None,
    ):
        if kernels not in ("eager", "fused"):
            raise UserError(f"unknown kernels {kernels!r}: expected eager or fused")
        if device not in ("cpu", "cuda"):
            raise UserError(f"unknown device {device!r}: expected cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("torch sees no CUDA device here: measure with --device cpu")
        if batch < 1 or threads < 1:
            raise UserError(f"expected at least 1 image and 1 thread, got batch {batch} and threads {threads}")
        if kernels == "fused":
            try:
                import supernet.ops  # noqa: F401
            except ImportError as error:
                raise UserError(f"{error}; or measure with --kernels eager") from error
        self.kernels, self.device, self.batch, self.threads = kernels, device, batch, threads
        self.clock = clock or Clock(cpu=Clock.cpu if threads == 1 else None)

    def describe(self) -> dict[str, Any]:
        text: dict[str, Any] = {
            "name": self.name,
            "options": {"kernels": self.kernels, "device": self.device},
            "version": torch.__version__,
            "form": "eager modules, BN not folded, channels_last",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "onednn": torch.backends.mkldnn.is_available(),
        }
        if self.device == "cuda":
            text |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
        return text

    @torch.inference_mode()
    def prepare(self, module: nn.Module, shape: Shape) -> Callable[[], Any]:
        module = copy.deepcopy(module).eval().to(self.device, memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, *shape, generator=generator).to(self.device, memory_format=torch.channels_last)
        module(x)  # what cannot run fails here, not under the clock
        return lambda: module(x)

    def timer(self, artefact: Callable[[], Any]) -> Timer:
        host = measure.stopwatch(artefact, self.clock)
        return torch.inference_mode()(host if self.device == "cpu" else cuda_timer(artefact))

    @contextmanager
    def session(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def cuda_timer(call: Callable[[], Any], least: int = 50) -> Timer:
    """Time on the GPU between two events around at least ``least`` queued runs, given for ``n``.

    Short layers are bound by their launches, as they are in an eager network.
    """

    def timer(n: int) -> tuple[float, None]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        repeats = max(n, least)
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e6 * n / repeats, None

    return timer


RUNTIMES: dict[str, Callable[..., Runtime]] = {"torch": TorchRuntime}


def get(name: str, **options: Any) -> Runtime:
    """The runtime ``name``.

    Raises:
        UserError: there is none of that name, or it cannot run here.
    """
    if name not in RUNTIMES:
        raise UserError(f"unknown runtime {name!r}: expected one of {', '.join(sorted(RUNTIMES))}")
    return RUNTIMES[name](**options)


def of_table(table: LatencyTable) -> Runtime:
    """The runtime that ``table`` was measured with, to measure something else the same way."""
    return get(table.runtime["name"], **table.runtime["options"], batch=table.batch, threads=table.threads)


def time_modules(
    runtime: Runtime,
    modules: Iterable[tuple[str, nn.Module, Shape]],
    protocol: measure.Protocol,
    **options: Any,
) -> dict[str, Samples]:
    """Time modules against one another.

    Args:
        modules: key, module and shape of its input, each.
        options: of ``measure.measure``.
    """
    with runtime.session():
        timers = {key: runtime.timer(runtime.prepare(module, shape)) for key, module, shape in modules}
        return measure.measure(timers, protocol, **options)
