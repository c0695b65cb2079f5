"""What commands need from the system beside Python packages: where it is, or how to get it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

CUDA = "/usr/local/cuda"


class Part(NamedTuple):
    """A part of the system.

    Args:
        purpose: what needs it. command: what gets it, or where it is told.
        find: its path, None where it is missing. optional: the rest works without it.
    """

    name: str
    purpose: str
    command: str
    find: Callable[[str], str | None] = shutil.which
    optional: bool = True


def headers(name: str) -> str | None:
    """Python's own C header."""
    path = Path(sysconfig.get_path("include"), name)
    return str(path) if path.exists() else None


def of_cuda(name: str) -> str | None:
    """A program of the CUDA toolkit: where CUDA_HOME says, on PATH, at its usual place, among Python's packages."""
    if named := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return shutil.which(name, path=f"{named}/bin")
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu[0-9]*/bin"), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join([f"{CUDA}/bin", *map(str, wheels)]))


def converter(name: str) -> str | None:
    """The environment that ``make litert`` makes."""
    from supernet.export.tflite import LITERT_PYTHON

    return str(LITERT_PYTHON) if LITERT_PYTHON.exists() else None


BUILD = "building the operators"
PARTS = (
    Part("g++", BUILD, "apt-get install g++", optional=False),
    Part("Python.h", BUILD, "apt-get install python3-dev", headers, optional=False),
    Part("make", "make quickstart, make test", "apt-get install make"),
    Part("nvcc", "building them for GPUs", "the CUDA toolkit of PyTorch's CUDA version; CUDA_HOME names it", of_cuda),
    Part("ssh", "build_lut.py --device ssh://…", "apt-get install openssh-client"),
    Part("scp", "build_lut.py --device ssh://…", "apt-get install openssh-client"),
    Part("adb", "build_lut.py --device adb", "apt-get install adb"),
    Part("trtexec", "build_lut.py --runtime tensorrt", "comes with TensorRT, in its bin/: add it to PATH"),
    Part("litert-torch", ".tflite files, --runtime litert", "make litert, in a clone", converter),
)


def parts() -> Iterator[dict[str, Any]]:
    """Each part with its path, or the command that gets it where it is missing."""
    for part in PARTS:
        path = part.find(part.name)
        told = {"path": path, "command": None if path else part.command}
        yield {"name": part.name, "purpose": part.purpose, "optional": part.optional, **told}
