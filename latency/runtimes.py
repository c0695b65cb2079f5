"""What runs a layer: one small protocol, spoken by plain PyTorch and by runtimes that take converted files."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from latency import agent, measure
from latency.converter import SUFFIXES, Converter, Layer, require_precision
from latency.measure import Clock, Samples, Timer
from latency.table import LatencyTable
from supernet import lock, plugins
from supernet.errors import UserError
from supernet.export.base import Shape, sample_input
from supernet.export.formats import of
from supernet.footprint import Precision
from supernet.model import Network
from supernet.progress import Progress, Track, counted, silent
from supernet.space import Arch, Space
from supernet.training.bn import recalibrate_bn


class Runtime(Protocol):
    """Turns a module into what the device executes, and times that."""

    name: str
    kernels: str  # how the modules that it is given are built: fused | eager
    batch: int
    threads: int

    def describe(self) -> dict[str, Any]:
        """All that its latencies depend on. ``options`` are the arguments that make this runtime again."""

    def prepare(self, layer: Layer) -> Any:
        """What runs the layer on inputs ``[batch, *shape]``. Leaves the module as it is."""

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
        device: ``cpu``, ``cuda``, or ``cuda-graph``: there a layer is captured once and replayed, free of launches.
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
        if device not in ("cpu", "cuda", "cuda-graph"):
            raise UserError(f"unknown device {device!r}: expected cpu, cuda or cuda-graph")
        if device != "cpu" and not torch.cuda.is_available():
            raise UserError("torch sees no CUDA device here: measure on the CPU")
        if batch < 1 or threads < 1:
            raise UserError(f"expected at least 1 image and 1 thread, got batch {batch} and threads {threads}")
        if kernels == "fused":
            try:
                import supernet.ops  # noqa: F401
            except ImportError as error:
                raise UserError(f"{error}; or measure eager modules") from error
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
        if self.device != "cpu":
            text |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
        return text

    @torch.inference_mode()
    def prepare(self, layer: Layer) -> Callable[[], Any]:
        device = self.device.partition("-")[0]
        module = copy.deepcopy(layer.module).eval().to(device).to(memory_format=torch.channels_last)
        x = sample_input(layer.shape, self.batch).to(device)
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        module(x)  # what cannot run fails here, not under the clock
        if self.device != "cuda-graph":
            return lambda: module(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            module(x)
        return graph.replay

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


class FileRuntime(Converter):
    """A runtime that executes converted files on this machine's CPU: a name among ``SUFFIXES``.

    The same loaders as of ``latency.agent``: what a table says is comparable with a device's.
    """

    def __init__(
        self,
        name: str,
        kernels: str = "eager",
        device: str = "cpu",
        batch: int = 1,
        threads: int = 1,
        cache: Path | None = None,
        precision: Precision = "float32",
    ):
        if (kernels, device) != ("eager", "cpu"):
            raise UserError(f"{name} runs on the CPU with kernels of its own: torch runs {kernels} modules on {device}")
        super().__init__(name, batch, threads, cache, precision)

    def describe(self) -> dict[str, Any]:
        try:
            return {**agent.describe(self.name), "options": self.options, "form": self.form}
        except (UserError, importlib.metadata.PackageNotFoundError) as error:
            if self.name not in EXTRAS:
                raise
            raise UserError(f"{self.name} is not installed: pip install 'supernet[{EXTRAS[self.name]}]'") from error

    def prepare(self, layer: Layer) -> Callable[[], Any]:
        call = agent.LOADERS[self.name](self.convert([layer])[layer.key].read_bytes(), self.threads)
        call()  # what cannot run fails here, not under the clock
        return call

    def timer(self, artefact: Callable[[], Any]) -> Timer:
        return measure.stopwatch(artefact, agent.clock(self.threads))


class TensorRT(FileRuntime):
    """ONNX files on an NVIDIA GPU by TensorRT's ``trtexec``, a program that times them itself."""

    def prepare(self, layer: Layer) -> Timer:  # type: ignore[override]  # what it makes goes to ``timer`` alone
        return agent.timer(self.name, self.convert([layer])[layer.key].read_bytes(), self.threads)

    def timer(self, artefact: Timer) -> Timer:  # type: ignore[override]
        return artefact


EXTRAS = {"onnxruntime": "onnx", "litert": "litert", "executorch": "executorch", "openvino": "openvino"}
PARTS = ("name", "kernels", "batch", "threads", "describe", "prepare", "timer", "session")  # of a Runtime
TORCH = "torch"
RUNTIMES: dict[str, Callable[..., Runtime]] = {
    TORCH: TorchRuntime,
    **{name: partial(TensorRT if name == agent.TENSORRT else FileRuntime, name) for name in SUFFIXES},
}


def default() -> str:
    """onnxruntime where it and the exporter are installed, else torch."""
    there = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    return "onnxruntime" if there else "torch"


def get(name: str, **options: Any) -> Runtime:
    """The runtime ``name``: one of ``RUNTIMES``, or an entry point of the group ``supernet.runtimes``.

    An entry point is called with the same ``options`` and gives a ``Runtime`` whose ``describe`` has that name. Code in
    a file is not looked for: tables name their runtime, and what a file names is never imported.

    Args:
        options: of kernels, device, batch, threads, cache, precision.

    Raises:
        UserError: there is none of that name, or it cannot run here.
    """
    require_precision(name, options.get("precision", "float32"))
    if name in RUNTIMES:
        return RUNTIMES[name](**options)
    plugin = None if plugins.is_reference(name) else plugins.find(name, plugins.RUNTIMES)
    if plugin is None:
        known = ", ".join(sorted({*RUNTIMES, *plugins.names(plugins.RUNTIMES)}))
        raise UserError(f"unknown runtime {name!r}: expected one of {known}")
    runtime = plugin(**options)
    if not all(hasattr(runtime, part) for part in PARTS):
        raise UserError(f"{plugin.source} returned {runtime!r:.80}, expected a Runtime, which has {', '.join(PARTS)}")
    return runtime


def that_execute(path: Path) -> list[str]:
    """The runtimes known here that execute files of this suffix."""
    names = [name for name, suffix in SUFFIXES.items() if path.suffix == f".{suffix}"]
    return [TORCH] if path.suffix in (".pt2", ".py") else names


def tells_of(table: LatencyTable, path: Path) -> bool:
    """Whether a table is of a runtime that executes such a file; of one from outside that is not known: it is."""
    name = table.runtime["name"]
    return name in that_execute(path) or name not in RUNTIMES


def of_table(table: LatencyTable) -> Runtime:
    """The runtime that ``table`` was measured with, to measure something else the same way."""
    return get(table.runtime["name"], **table.runtime["options"], batch=table.batch, threads=table.threads)


def whole(space: Space, arch: Arch, kernels: str, seed: int = 0) -> Network:
    """An untrained network whose BN keeps values in range: denormal numbers would take longer."""
    torch.manual_seed(seed)
    network = Network(space, arch, kernels=kernels)
    recalibrate_bn(network, [torch.randn(8, *network.input_shape)])
    return network


def measure_like(
    table: LatencyTable, modules: Callable[[str], Iterable[tuple[str, nn.Module, Shape]]]
) -> dict[str, Samples]:
    """Time modules as the layers of ``table`` were, on its cores, against one another.

    Args:
        modules: gives key, module and shape of its input, each, built with the kernels that it is called with.

    Raises:
        UserError: the table is of another machine, or what it was measured with is not here.
    """
    require_here(table)
    runtime, core = of_table(table), table.device.get("core")
    with nullcontext() if core is None else measure.pin_core(measure.parse_cores(str(core))):
        return time_modules(runtime, modules(runtime.kernels), measure.Protocol(**table.protocol))


def require_here(table: LatencyTable) -> None:
    """Refuse a table of another machine, beside whose latencies those of this one tell nothing."""
    here = measure.host()
    if any(table.device.get(name) != value for name, value in here.items()):
        raise UserError(f"{table.source} was measured on {table.device.get('cpu')}, this is {here['cpu']}")


def measure_networks(
    table: LatencyTable | None,
    space: Space,
    networks: Callable[[str], Mapping[str, Network]],
    note: Callable[[str], None],
) -> dict[str, Samples]:
    """Time whole networks of ``space`` as the layers of ``table`` were; none where that cannot be done here.

    Args:
        table: None where there is none. networks: by name, built with the kernels that it is called with.
        note: told why latency is not measured.
    """
    if table is None:
        return {}
    try:
        return measure_like(table, lambda kernels: [(n, m, m.input_shape) for n, m in networks(kernels).items()])
    except UserError as error:
        note(f"latency is not measured: {error}")
        return {}


def measure_file(path: Path, table: LatencyTable) -> Samples:
    """Time an exported file with the runtime, the threads and the protocol of ``table``, which is of this machine."""
    require_here(table)
    timer = agent.timer(table.runtime["name"], of(path).read(path), table.threads)
    with lock.awaited("measures"), measure.pin_core() if table.threads == 1 else nullcontext():
        return measure.measure({"file": timer}, measure.Protocol(**table.protocol))["file"]


def time_modules(
    runtime: Runtime,
    modules: Iterable[Layer | tuple[str, nn.Module, Shape]],
    protocol: measure.Protocol,
    progress: Progress = silent,
    what: str = "latency",
    **options: Any,
) -> dict[str, Samples]:
    """Time modules against one another, while no other process of this machine does.

    Args:
        modules: key, module and shape of its input, each.
        progress: of converting, and of each pass over ``what`` is measured.
        options: of ``measure.measure``.
    """

    def passes(label: str, total: int, done: int) -> Track:
        return progress(f"{what}: {label}", total, done=done, unit="visits")

    layers: Iterable[Layer] = (Layer(*module) for module in modules)
    with lock.awaited("measures"), runtime.session():
        if isinstance(runtime, Converter):
            converted = list(layers)
            runtime.convert(converted, progress)
            layers = counted(progress, "loading", converted, "layers")
        timers = {layer.key: runtime.timer(runtime.prepare(layer)) for layer in layers}
        return measure.measure(timers, protocol, progress=passes, **options)
