"""Times ONNX files on an NVIDIA GPU by TensorRT's ``trtexec``, which must be on PATH there. No torch, no numpy.

Runs on Python 3.8, in a bundle. An engine is built once from each file; a visit is one call of the binary, which prints
the mean time on the GPU of its runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from supernet.errors import UserError

BINARY = "trtexec"
MEAN = re.compile(r"GPU Compute Time: .*?mean = ([0-9.e+-]+) ms")


def timer(model: bytes) -> Callable[[int], tuple[float, None]]:
    """A timer of an ONNX file: nanoseconds of ``n`` runs on the GPU, without copies from and to it."""
    folder = Path(tempfile.mkdtemp())
    path, engine = folder / "model.onnx", folder / "model.engine"

    def timed(n: int) -> tuple[float, None]:
        flags = [f"--iterations={n}", "--duration=0", "--warmUp=100", "--noDataTransfers", "--useSpinWait"]
        return mean_ms(call([f"--loadEngine={engine}", *flags])) * 1e6 * n, None

    weakref.finalize(timed, shutil.rmtree, folder, True)
    path.write_bytes(model)
    call([f"--onnx={path}", f"--saveEngine={engine}", "--iterations=1", "--duration=0", "--warmUp=0"])
    return timed


def version() -> str:
    """Of TensorRT, as the binary tells it."""
    found = re.search(r"\[TensorRT v(\w+)\]", call(["--help"]))
    return found[1] if found else "unknown"


def mean_ms(text: str) -> float:
    """The mean that ``trtexec`` prints; a UserError if it printed none."""
    found = MEAN.findall(text)
    if not found or not float(found[-1]) > 0:
        raise UserError(f"{BINARY} gave no time ({last(text)}): run it by hand on the device")
    return float(found[-1])


def call(flags: Sequence[str]) -> str:
    """What the binary prints."""
    try:
        done = subprocess.run([BINARY, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise UserError(f"{BINARY} is not on PATH here: it comes with TensorRT, in its bin/") from error
    if done.returncode:
        raise UserError(f"{BINARY} failed ({last(done.stdout)}): run it by hand on the device")
    return done.stdout


def last(text: str) -> str:
    """The last line that says something, an error if there is one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "[E]" in line]
    return ([*lines, *errors] or ["nothing"])[-1]
