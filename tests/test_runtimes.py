"""Runtimes: what they run is what the network runs. No timed assertion."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL_SPACES, refused, tiny_space
from torch import nn

from latency import runtimes
from latency.measure import Clock, Protocol
from latency.runtimes import FileRuntime, Layer, TorchRuntime, time_modules
from supernet.errors import UserError
from supernet.export import formats, onnx, tflite
from supernet.families import layout, lower
from supernet.model import Network


class Probe(nn.Module):
    """Remembers how it was called."""

    calls: list = []  # noqa: RUF012, shared by the copies on purpose

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        Probe.calls.append(
            {
                "shape": tuple(x.shape),
                "training": self.training,
                "inference": torch.is_inference_mode_enabled(),
                "layout": x.is_contiguous(memory_format=torch.channels_last),
                "weights": self.conv.weight.is_contiguous(memory_format=torch.channels_last),
                "threads": torch.get_num_threads(),
            }
        )
        return self.conv(x)


@pytest.fixture
def probe():
    Probe.calls = []
    return Probe()


def test_runs_as_deployed(probe):
    runtime = TorchRuntime(batch=2, threads=2)
    with runtime.session():
        timer = runtime.timer(runtime.prepare(Layer("probe", probe, (2, 5, 7))))
        wall, cpu = timer(3)
    assert wall > 0
    assert cpu is None  # two threads: one thread's clock would lie
    assert len(Probe.calls) == 4  # one to see that it runs
    for call in Probe.calls:
        assert call == {
            "shape": (2, 2, 5, 7),
            "training": False,
            "inference": True,
            "layout": True,
            "weights": True,
            "threads": 2,
        }
    assert torch.get_num_threads() == 1
    assert probe.training
    assert not probe.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_clocks_come_from_outside(probe):
    ticks = iter(range(0, 1000, 5))
    runtime = TorchRuntime(clock=Clock(lambda: next(ticks), lambda: next(ticks)))
    # cpu 0, wall 5, wall 10, cpu 15
    assert runtime.timer(runtime.prepare(Layer("probe", probe, (2, 5, 5))))(1) == (5, 15)


@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_layer_runs_alone(name):
    """The input shape that a spec names is the one that its layer gets in the network."""
    space, runtime = SMALL_SPACES[name](), TorchRuntime()
    for spec in {s.key: s for s in layout(space).every()}.values():
        layer = Layer(spec.key, spec.measured(runtime.kernels), spec.input_shape)
        with torch.inference_mode():
            out = runtime.prepare(layer)()
        image = (1, spec.out_channels, *spec.out_size)
        assert out.shape == ((1, spec.classes) if spec.classes else image)
        assert out.isfinite().all()


def test_time_modules_of_layers_and_networks():
    space = tiny_space()
    arch = (0, 1, 2)
    runtime, protocol = (
        TorchRuntime(),
        Protocol(rounds=2, visit_ms=0.1, warmup_runs=1, warmup_ms=0, attempts=0),
    )
    jobs = [(s.key, s.build(kernels="eager"), s.input_shape) for s in lower(space, arch)]
    jobs.append(("whole", Network(space, arch, kernels="eager"), (1, 14, 14)))
    taken = {}
    samples = time_modules(runtime, jobs, protocol, taken=taken)
    assert set(samples) == {key for key, *_ in jobs} == set(taken)
    assert all(s.median_ms > 0 and s.n == 2 for s in samples.values())


def test_describe_makes_the_runtime_again():
    runtime = TorchRuntime(batch=3)
    text = runtime.describe()
    again = runtimes.get(text["name"], **text["options"], batch=3, threads=1)
    assert again.describe() == text
    assert "BN not folded" in text["form"]
    assert text["version"] == torch.__version__


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kernels": "quick"}, "eager or fused"),
        ({"device": "tpu"}, "cpu, cuda or cuda-graph"),
        ({"batch": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_refuses(options, says):
    with pytest.raises(UserError, match=says):
        TorchRuntime(**options)


def test_unknown_runtime_names_those_there():
    with pytest.raises(UserError, match=r"'abacus': expected one of .*onnxruntime.*torch"):
        runtimes.get("abacus")


def test_fused_without_the_extension(monkeypatch):
    import supernet

    monkeypatch.delattr(supernet, "ops", raising=False)
    monkeypatch.setitem(sys.modules, "supernet.ops", None)
    with pytest.raises(UserError, match="or measure eager modules"):
        TorchRuntime(kernels="fused")


def test_cuda_without_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA"):
        TorchRuntime(device="cuda")


def test_cuda_timer_queues_and_synchronises(monkeypatch):
    """The order of CUDA calls, against a stand-in: there may be no GPU here."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, end):
            return 100.0  # ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))
    timer = runtimes.cuda_timer(lambda: log.append("run"), least=50)
    assert timer(10) == (100e6 * 10 / 50, None)
    assert log == ["idle", "record", *["run"] * 50, "record", "synchronize"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda-graph"])
def test_cuda(device):
    runtime = TorchRuntime(device=device, batch=4)
    timer = runtime.timer(runtime.prepare(Layer("conv", nn.Conv2d(2, 3, 3), (2, 8, 8))))
    wall, cpu = timer(1)
    assert wall > 0
    assert cpu is None


# --- converted files


class Conversions:
    """A stand-in for a converter that counts its calls; the files name the modules."""

    packages = ()
    layout = "NCHW"

    def __init__(self):
        self.calls = []

    def convert(self, modules, shapes, batch):
        self.calls.append(len(modules))
        return [f"{module} {shape} {batch}".encode() for module, shape in zip(modules, shapes, strict=True)]


@pytest.fixture
def conversions(monkeypatch) -> Conversions:
    stand_in = Conversions()
    monkeypatch.setitem(formats.FORMATS, "onnx", stand_in)
    monkeypatch.setattr(runtimes.agent, "LOADERS", {"onnxruntime": lambda file, threads: lambda: (file, threads)})
    return stand_in


def convolutions(*channels: int) -> list[Layer]:
    return [Layer(f"conv{n}", nn.Conv2d(n, n, 1), (n, 4, 4)) for n in channels]


def test_layers_are_converted_together_and_once(conversions, tmp_path):
    runtime = FileRuntime("onnxruntime", threads=2, cache=tmp_path)
    layers = convolutions(*range(1, 16))
    paths = runtime.convert(layers)
    assert conversions.calls == [12, 3]
    assert {path.suffix for path in paths.values()} == {".onnx"}
    again = FileRuntime("onnxruntime", threads=2, cache=tmp_path)
    assert again.convert(layers) == paths
    assert again.prepare(layers[4])() == (f"{layers[4].module} (5, 4, 4) 1".encode(), 2)
    assert conversions.calls == [12, 3]
    paths["conv3"].unlink()
    again.convert(layers)
    assert conversions.calls == [12, 3, 1]


def test_a_converted_file_serves_its_own_layer_only(conversions, tmp_path):
    runtime = FileRuntime("onnxruntime", cache=tmp_path)
    (layer,) = convolutions(2)
    space = tiny_space()
    others = [
        layer._replace(key="other"),
        layer._replace(shape=(2, 5, 5)),
        layer._replace(module=nn.Conv2d(2, 2, 1, bias=False)),
        layer._replace(module=nn.Sequential(nn.Conv2d(2, 2, 1))),
        Layer("0,1,2", Network(space, (0, 1, 2), kernels="eager"), (1, 14, 14)),
    ]
    paths = {
        runtime.path(layer),
        *map(runtime.path, others),
        FileRuntime("onnxruntime", batch=2, cache=tmp_path).path(layer),
    }
    assert len(paths) == 7
    assert runtime.path(layer) == runtime.path(layer._replace(module=nn.Conv2d(2, 2, 1)))  # of other weights
    assert runtime.path(others[-1]).parent.name == "networks"


def test_files_of_another_converter_are_others(monkeypatch, tmp_path):
    """TFLite's lies in an environment of its own, whose versions the form and the names of files tell."""
    (layer,) = convolutions(2)
    kinds = [FileRuntime("litert", cache=tmp_path, precision=kind) for kind in ("float32", "int8")]
    monkeypatch.setattr(tflite, "LITERT_PYTHON", tmp_path / "bin" / "python")
    forms, paths = [kinds[0].form], {kinds[0].path(layer)}
    for converter, quantiser in (("0.9.0", "0.6.0"), ("0.10.0", "0.6.0"), ("0.10.0", "0.7.0")):
        environment = tmp_path / f"{converter}-{quantiser}"
        for name, version in (("litert_torch", converter), ("ai_edge_quantizer", quantiser)):
            about = environment / f"lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA"
            about.parent.mkdir(parents=True)
            about.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        monkeypatch.setattr(tflite, "LITERT_PYTHON", environment / "bin" / "python")
        forms += [runtime.form for runtime in kinds]
        paths |= {runtime.path(layer) for runtime in kinds}
    torch_ = f".tflite by torch {torch.__version__}"
    assert forms[0] == f"{torch_}, litert-torch missing, channels_last, BN folded"
    assert forms[3] == f"{torch_}, litert-torch 0.10.0, channels_last, BN folded"
    assert forms[6] == f"{torch_}, litert-torch 0.10.0, ai-edge-quantizer 0.7.0, channels_last, BN folded, int8"
    assert len(paths) == len(set(forms)) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kernels": "fused"}, "torch runs fused modules on cpu"),
        ({"device": "cuda"}, "torch runs eager modules on cuda"),
        ({"batch": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_file_runtimes_refuse(options, says):
    with pytest.raises(UserError, match=says):
        runtimes.get("onnxruntime", **options)


def test_without_a_cache_files_last_for_a_session(conversions):
    runtime = FileRuntime("onnxruntime")
    with runtime.session():
        paths = runtime.convert(convolutions(1, 2))
        assert all(path.exists() for path in paths.values())
    assert not any(path.exists() for path in paths.values())
    with pytest.raises(ValueError, match="within a session"):
        runtime.convert(convolutions(1))


def test_onnxruntime_is_the_default_where_it_is_whole(monkeypatch):
    for missing, expected in ((None, "onnxruntime"), ("onnxruntime", "torch"), ("onnxscript", "torch")):
        monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name, missing=missing: name != missing)
        assert runtimes.default() == expected


def test_onnxruntime_runs_what_the_network_runs(tmp_path):
    """Every layer of a space, converted at once, gives what the module gives."""
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    space = tiny_space(layers=2, act="hard_swish", squeeze_excite=True)
    runtime = FileRuntime("onnxruntime", batch=2, cache=tmp_path)
    specs = {s.key: s for choices in layout(space).choices for s in choices if s.runs}
    jobs = [Layer(s.key, s.build(kernels="eager").eval(), s.input_shape) for s in specs.values()]
    for job in jobs:
        for module in job.module.modules():
            if isinstance(module, nn.BatchNorm2d):  # that folding is not trivial
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 2)
    files = runtime.convert(jobs)
    for job in jobs:
        x = torch.randn(2, *job.shape)
        got = torch.from_numpy(onnx.FORMAT.run(files[job.key].read_bytes(), x.numpy()))
        with torch.inference_mode():
            torch.testing.assert_close(got, job.module(x), rtol=1e-4, atol=1e-5)
    samples = time_modules(runtime, jobs[:2], Protocol(rounds=2, visit_ms=0.1, warmup_runs=1, warmup_ms=0, attempts=0))
    assert all(sample.median_ms > 0 for sample in samples.values())


def test_executorch_loads_a_method_with_the_threads_set(monkeypatch):
    """XNNPACK keeps the pool of threads that it finds when a method is loaded: a later reset would free it."""
    log = []
    method = SimpleNamespace(metadata=SimpleNamespace(num_inputs=lambda: 0), execute=lambda x: log.append("execute"))
    program = SimpleNamespace(load_method=lambda name: log.append("load") or method)
    runtime = SimpleNamespace(Runtime=SimpleNamespace(get=lambda: SimpleNamespace(load_program=lambda file: program)))
    portable = SimpleNamespace(_unsafe_reset_threadpool=lambda n: log.append(f"{n} threads"))
    monkeypatch.setattr(runtimes.agent, "require", lambda name: runtime)
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings.portable_lib", portable)
    runtimes.agent.load_executorch(b"", 3)()
    assert log == ["3 threads", "load", "execute"]


RUNTIME = """
from latency.runtimes import TorchRuntime


class Twice(TorchRuntime):
    name = "twice"


def twice(kernels="eager", device="cpu", batch=1, threads=1, cache=None):
    return Twice(kernels, device, 2 * batch, threads)


def wrong(**options):
    return options


def fails(**options):
    raise OSError("no such board")
"""


def test_an_installed_runtime_is_known_by_name(installed):
    entries = "".join(f"{name} = my_runtime:{name}\n" for name in ("twice", "wrong", "fails"))
    installed("my_runtime", RUNTIME, f"[supernet.runtimes]\n{entries}")
    runtime = runtimes.get("twice", kernels="eager", device="cpu", batch=3, threads=1, cache=None)
    assert (runtime.batch, runtime.describe()["name"]) == (6, "twice")
    line = refused(runtimes.get, "nope")
    known = "executorch, fails, litert, onnxruntime, openvino, tensorrt, torch, twice"
    assert f"unknown runtime 'nope': expected one of {known}" in line
    assert "wrong (my_runtime:wrong) returned {'batch': 1}, expected a Runtime" in refused(
        runtimes.get, "wrong", batch=1
    )
    assert "fails (my_runtime:fails) raised OSError in line 18: no such board" in refused(runtimes.get, "fails")


def test_a_runtime_is_never_code_that_a_table_names(own_file):
    path = own_file("my_runtime_file.py", "raise RuntimeError('imported')")
    assert "unknown runtime" in refused(runtimes.get, f"{path}:twice")
