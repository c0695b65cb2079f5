"""The kernels that tests/simt/*.cpp name as machine code, compiled once for each content of their sources."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
from simt import runner

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.stem for path in (ROOT / "tests" / "simt").glob("*.cpp") if path.stem != "faults")
ARCHES = ("sm_80", "sm_90")

spec = importlib.util.spec_from_file_location("supernet_setup", ROOT / "setup.py")
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)


@dataclass(frozen=True)
class Compiled:
    """What nvcc and ptxas made of one file."""

    folder: Path

    @property
    def ptx(self) -> str:
        return (self.folder / "kernels.ptx").read_text()

    @property
    def report(self) -> str:
        """What ``ptxas -v`` said."""
        return (self.folder / "report.txt").read_text()

    @property
    def cubin(self) -> Path:
        return self.folder / "kernels.cubin"


@cache
def toolkit() -> tuple[str, str] | None:
    """Its folder and version."""
    home = setup.find_cuda_home()
    return (home, setup.nvcc_version(home)) if home else None


def compiled(file: str, arch: str) -> Compiled:
    home, version = toolkit()
    paths = ["-isystem", str(runner.TORCH_INCLUDE), f"-I{runner.CSRC}", f"-I{runner.HERE}"]
    options = ["-std=c++20", "-O3", "-Werror", "all-warnings", f"-arch={arch}", "-ptx", "-x", "cu"]
    digest = hashlib.sha256(" ".join([version, *options]).encode())
    for path in sorted(runner.sources(runner.HERE / f"{file}.cpp")):
        digest.update(path.read_bytes())
    folder = runner.BUILD / f"{file}-{arch}-{digest.hexdigest()[:16]}"
    runner.BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two files of tests want it, each in a process of its own
        if not folder.exists():
            part = tempfile.mkdtemp(dir=runner.BUILD)
            ptx, cubin = f"{part}/kernels.ptx", f"{part}/kernels.cubin"
            call([f"{home}/bin/nvcc", *options, *paths, str(runner.HERE / f"{file}.cpp"), "-o", ptx])
            report = call([f"{home}/bin/ptxas", "-v", "-O3", f"-arch={arch}", ptx, "-o", cubin])
            Path(part, "report.txt").write_text(report)
            Path(part).rename(folder)
    return Compiled(folder)


def call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def compact(golden: str) -> str:
    """JSON with indents, each kernel in one line."""
    return re.sub(r"\{\n\s+(\"[a-z_]+\": [^{}]+?)\s+\}", lambda m: "{" + re.sub(r"\n\s+", " ", m[1]) + "}", golden)


needs_toolkit = pytest.mark.skipif(toolkit() is None, reason="no CUDA toolkit")
# nvcc optimises a file for a minute: `make test-kernels`
on_arches = pytest.mark.parametrize("arch", [pytest.param(arch, marks=pytest.mark.slow) for arch in ARCHES])
