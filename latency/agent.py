"""Times the files of a bundle on the device that it was copied to. It needs numpy and one runtime, but no torch.

    python agent.py run bundle --cores 4 -o samples.json

Runs on Python 3.8. A bundle holds it with ``measure.py`` and ``errors.py``; tables of this machine are measured with
the same loaders.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ImportError:  # on a device that nothing was installed on yet
    print("error: numpy is not installed here: pip install numpy", file=sys.stderr)
    sys.exit(2)

from latency import measure, trtexec
from supernet.errors import UserError

SCHEMA = 1
TENSORRT = "tensorrt"
SCALARS = {1: "int8", 6: "float32"}  # as PyTorch numbers them
TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}  # as onnxruntime names them


def load_onnxruntime(model: bytes, threads: int) -> Callable[[], Any]:
    """A function that runs ``model`` once, on noise, into outputs allocated before."""
    return open_onnxruntime(model, threads)[1]


def open_onnxruntime(model: bytes, threads: int, **options: Any) -> tuple[Any, Callable[[], Any]]:
    """The session, with ``options`` as further session options, and a function that runs it once."""
    ort = require("onnxruntime")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in options.items():
        setattr(settings, name, value)
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for x in session.get_inputs():
        binding.bind_ortvalue_input(x.name, ort.OrtValue.ortvalue_from_numpy(noise(x.shape, TYPES[x.type])))
    for y in session.get_outputs():
        binding.bind_ortvalue_output(
            y.name, ort.OrtValue.ortvalue_from_shape_and_type(y.shape, np.dtype(TYPES[y.type]).type)
        )
    return session, lambda: session.run_with_iobinding(binding)


def load_litert(model: bytes, threads: int) -> Callable[[], Any]:
    """A function that runs ``model`` once, on noise."""
    interpreter = require("litert").Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    for x in interpreter.get_input_details():
        interpreter.set_tensor(x["index"], noise(x["shape"], x["dtype"]))
    return interpreter.invoke


def load_executorch(model: bytes, threads: int) -> Callable[[], Any]:
    """A function that runs ``model`` once, on noise. It takes torch's tensors, so this runtime does need torch."""
    return open_executorch(model, threads)[1]


def open_executorch(model: bytes, threads: int, **options: Any) -> tuple[Any, Callable[[], Any]]:
    """The program, loaded with ``options``, and a function that runs it once."""
    runtime, torch = require("executorch").Runtime.get(), importlib.import_module("torch")
    # The only way to set the number of threads from Python, despite its name. It must come before the method is loaded:
    # XNNPACK keeps the thread pool of that moment, and a later reset to another number frees it.
    importlib.import_module("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(threads)
    program = runtime.load_program(model, **options)
    method = program.load_method("forward")
    metas = [method.metadata.input_tensor_meta(i) for i in range(method.metadata.num_inputs())]
    inputs = [torch.from_numpy(noise(meta.sizes(), SCALARS[meta.dtype()])) for meta in metas]

    def call(program: Any = program) -> Any:  # the method lives in its program, which nothing else keeps
        return method.execute(inputs)

    return program, call


def load_openvino(model: bytes, threads: int) -> Callable[[], Any]:
    """A function that runs ``model``, an archive of xml and bin, once, on noise; on the CPU in float32."""
    core = require("openvino").Core()
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        read = core.read_model(archive.read("xml"), archive.read("bin"))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(read, "CPU", settings).create_infer_request()
    for i, x in enumerate(read.inputs):
        request.get_input_tensor(i).data[:] = noise(x.shape)
    return request.infer


LOADERS: dict[str, Callable[[bytes, int], Callable[[], Any]]] = {
    "onnxruntime": load_onnxruntime,
    "litert": load_litert,
    "executorch": load_executorch,
    "openvino": load_openvino,
}
# The module to import, the package that has it, what it delegates to.
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime", "CPUExecutionProvider"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert", "XNNPACK"),
    "executorch": ("executorch.runtime", "executorch", "XNNPACK"),
    "openvino": ("openvino", "openvino", "CPU, float32"),
}


def timer(name: str, model: bytes, threads: int) -> measure.Timer:
    """What times ``model``: of a runtime that is a program, the program itself."""
    if name == TENSORRT:
        return trtexec.timer(model)
    call = LOADERS[name](model, threads)
    call()  # what cannot run fails here, not under the clock
    return measure.stopwatch(call, clock(threads))


def require(name: str) -> Any:
    """The module of the runtime ``name``; a UserError if it is not installed."""
    module, package, _ = RUNTIMES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{package} is not installed here: pip install {package}") from error


def describe(name: str) -> dict[str, Any]:
    """The installed runtime ``name``, as in the header of a table."""
    if name == TENSORRT:
        about = {"version": trtexec.version(), "delegate": "GPU, float32, TF32 where the GPU has it"}
        return {"name": name, "options": {}, **about}
    require(name)
    from importlib.metadata import version

    _, package, delegate = RUNTIMES[name]
    return {"name": name, "options": {}, "version": version(package), "delegate": delegate}


def noise(shape: Sequence[int], dtype: Any = "float32") -> np.ndarray:
    """Noise ``[*shape]``, the same every time: normal floats, or integers of all values."""
    rng, size, dtype = np.random.default_rng(0), [int(n) for n in shape], np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(size, dtype=dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, size, dtype, endpoint=True)


def clock(threads: int) -> measure.Clock:
    """The clocks; this thread's CPU clock shows preemption only if it does all the work."""
    return measure.Clock(cpu=time.thread_time_ns if threads == 1 else None)


def read_bundle(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked bundle, with every file verified.

    Raises:
        UserError: no bundle, an incomplete or damaged one, or one of another schema.
    """
    advice = "copy the bundle again and unpack it with tar xf"
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise UserError(
                f"{folder}: expected a bundle of schema {SCHEMA}, found {manifest['schema']}; emit it again"
            )
        for name, checksum in manifest["files"].items():
            path = folder / Path(name).name
            if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                raise UserError(f"{path} is damaged: {advice}")
        header = manifest["header"]
        manifest["protocol"] = measure.Protocol(**header["protocol"])
        if header["runtime"]["name"] not in (*LOADERS, TENSORRT) or int(header["threads"]) < 1:
            raise ValueError("unknown runtime")
        if not set(manifest["layers"].values()) | set(manifest["networks"].values()) <= set(manifest["files"]):
            raise ValueError("it names files that are not in it")
    except OSError as error:
        raise UserError(f"{folder} is no complete bundle ({error.strerror}: {error.filename}): {advice}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}/manifest.json is damaged ({error!r}): {advice}") from error
    return manifest


def run(folder: Path, cores: set[int] | None, output: Path, quiet: bool = False) -> None:
    """Time layers and networks of a bundle; ``output`` is rewritten after each round, and a stopped run continues."""
    manifest = read_bundle(folder)
    header, runtime = manifest["header"], manifest["header"]["runtime"]
    threads = header["threads"]
    with measure.pin_core(cores) if threads == 1 or cores else nullcontext() as core:
        header["device"] = dict(measure.host(), core=core)
        header["runtime"] = dict(describe(runtime["name"]), **runtime)
        samples = {"schema": SCHEMA, "finished": False, "header": header, "layers": {}, "networks": {}}
        samples = continued(output, samples)

        def save() -> None:
            write(output, samples)

        save()  # an unwritable folder shows before anything is measured
        for part in ("layers", "networks"):
            timers = {}
            for key, name in manifest[part].items():
                timers[key] = timer(runtime["name"], (folder / Path(name).name).read_bytes(), threads)

            def progress(label: str, total: int, done: int, part: str = part) -> Lines:
                return Lines(f"{part}: {label}", total, done, quiet)

            measure.measure(timers, manifest["protocol"], taken=samples[part], save=save, progress=progress)
        samples["finished"] = True
        save()
    print(f"samples -> {output}")


def continued(output: Path, samples: dict[str, Any]) -> dict[str, Any]:
    """The samples in ``output`` if they are of the same bundle, device and runtime, else ``samples``."""
    try:
        old = json.loads(output.read_text())
        if old["header"] == samples["header"] and all(isinstance(old[part], dict) for part in ("layers", "networks")):
            return dict(old, finished=False)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        pass
    return samples


def write(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data))
        os.replace(str(temporary), str(path))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another with -o") from error


class Lines:
    """Progress as a line every ten seconds, with the time left."""

    def __init__(self, label: str, total: int, done: int, quiet: bool):
        self.label, self.total, self.first, self.count, self.quiet = label, total, done, done, quiet
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        self.print()

    def advance(self, n: int) -> None:
        self.count += n
        if time.monotonic() - self.printed > 10:
            self.print()

    def print(self) -> None:
        self.printed = time.monotonic()
        left = (self.printed - self.started) / max(self.count - self.first, 1) * (self.total - self.count)
        if not self.quiet:
            print(f"{self.label}: {self.count}/{self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


def main() -> None:
    """The command line. Bad input ends in one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(description="Time the files of a bundle on this device.")
    command = parser.add_subparsers(dest="command", required=True).add_parser("run")
    command.add_argument("bundle", type=Path, help="the unpacked bundle")
    command.add_argument("--cores", help="cores to stay on: 4, 4-7 or 0,2")
    command.add_argument("-o", "--output", type=Path, default=Path("samples.json"))
    command.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args()
    try:
        cores = measure.parse_cores(args.cores) if args.cores else None
        run(args.bundle, cores, args.output, args.quiet)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
