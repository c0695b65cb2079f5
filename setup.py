"""Builds supernet._C: the CPU operators always, the CUDA ones as SUPERNET_CUDA says.

SUPERNET_CUDA=auto  (default) CUDA if there is a toolkit and either a visible GPU or TORCH_CUDA_ARCH_LIST
SUPERNET_CUDA=1     CUDA or an error; without a GPU and without TORCH_CUDA_ARCH_LIST for DEFAULT_ARCHS
SUPERNET_CUDA=0     CPU only

SUPERNET_SANITIZE=1 builds for the address and undefined behaviour sanitizers instead: the CPU's generic kernels alone.

The build must see the installed torch: ``pip install --no-build-isolation -e .``
"""

import glob
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = "8.0;9.0+PTX"
STANDARD = "-std=c++20"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
PREFIX = ("ATen/Dispatch.h", "ATen/core/LegacyTypeDispatch.h", "torch/library.h")
# Python's own flags have -fwrapv, with which signed overflow is no error; torch comes without what vptr reads.
SANITIZERS = [
    "-O1",
    "-g1",
    "-fno-wrapv",
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",
    "-fno-sanitize-recover=all",
]


def wheel_homes() -> list[str]:
    """The toolkit folder that the PyPI wheels share, e.g. site-packages/nvidia/cu13."""
    return sorted(glob.glob(f"{sysconfig.get_path('purelib')}/nvidia/cu[0-9]*"), reverse=True)


def system_homes() -> list[str]:
    return ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), reverse=True)]


def is_toolkit(home: str) -> bool:
    return Path(home, "bin/nvcc").is_file() and Path(home, "include/cuda_runtime.h").is_file()


def find_cuda_home() -> str | None:
    """The folder of a toolkit, or None. CUDA_HOME or CUDA_PATH, where set, is the only place looked at.

    The nvcc on PATH may be a wrapper script far from its toolkit, so a place counts only with its headers.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return named if is_toolkit(named) else None
    nvcc = shutil.which("nvcc")
    places = [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    return next(filter(is_toolkit, places + system_homes() + wheel_homes()), None)


def nvcc_version(home: str) -> str:
    text = subprocess.run([f"{home}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", text).group(1)


def cuda_obstacle(home: str | None, torch_cuda: str | None) -> str | None:
    """Why this toolkit cannot build for this PyTorch, or None if it can."""
    if torch_cuda is None:
        return "this PyTorch was built without CUDA"
    if home is None:
        named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        where = f"CUDA_HOME={named} lacks" if named else "no folder found with"
        return f"{where} bin/nvcc and include/cuda_runtime.h"
    if nvcc_version(home).split(".")[0] != torch_cuda.split(".")[0]:
        return f"nvcc in {home} is CUDA {nvcc_version(home)}, PyTorch was built with CUDA {torch_cuda}"
    return None


def resolve_cuda(mode: str, obstacle: str | None, gpu: bool, archs: str | None) -> tuple[bool, str | None]:
    """Decides (build CUDA?, TORCH_CUDA_ARCH_LIST to set) from the mode and what the machine has.

    Raises SystemExit with one line if the mode is unknown or CUDA is forced and cannot be built.
    """
    if mode not in ("auto", "0", "1"):
        raise SystemExit(f"SUPERNET_CUDA should be auto, 0 or 1, got {mode!r}")
    if mode == "0":
        return False, None
    if mode == "1" and obstacle:
        raise SystemExit(
            f"SUPERNET_CUDA=1, but {obstacle}; install a toolkit (and set CUDA_HOME) or use SUPERNET_CUDA=0"
        )
    if mode == "auto" and not obstacle and not gpu and not archs:
        obstacle = "no GPU is visible and TORCH_CUDA_ARCH_LIST is not set"
    if obstacle:
        print(f"supernet: no CUDA: {obstacle}; SUPERNET_CUDA=1 builds it or says what is missing", flush=True)
        return False, None
    return True, archs or (None if gpu else DEFAULT_ARCHS)


def link_dir(home: str) -> str:
    """Where to link libcudart.so from; the wheels have libcudart.so.N only and get a symlink in build/."""
    for lib in (f"{home}/lib64", f"{home}/lib"):
        if Path(lib, "libcudart.so").exists():
            return lib
    folder = ROOT / "build" / "cudart"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "libcudart.so"
    link.unlink(missing_ok=True)
    link.symlink_to(max(glob.glob(f"{home}/lib*/libcudart.so.*"), key=len))
    return str(folder)


def precompile(header: Path, pythons: list[str], ours: list[str], version: str) -> None:
    """Parse the headers of torch that most sources begin with once for all: a quarter of the time of a build.

    A compiler that cannot, or that comes to other flags, reads the header itself.

    Args:
        pythons, ours: flags for C++; ours include the header from now on.
        version: of torch.
    """
    given = ["-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_C"]  # by torch
    command = [os.environ.get("CXX", "c++"), *pythons, *ours, *given, "-x", "c++-header", str(header)]
    text = "".join(f"#include <{name}>\n" for name in PREFIX) + f"// torch {version}: {' '.join(command)}\n"
    if not header.exists() or header.read_text() != text:  # else all that includes it would be compiled again
        header.write_text(text)
        subprocess.run([*command, "-o", f"{header}.gch"], stderr=subprocess.DEVNULL, check=False)
    ours[:0] = ["-include", str(header)]


def main() -> None:
    import torch

    sanitize = os.environ.get("SUPERNET_SANITIZE") == "1"
    mode = "0" if sanitize else os.environ.get("SUPERNET_CUDA", "auto")
    home = find_cuda_home()
    obstacle = None if mode == "0" else cuda_obstacle(home, torch.version.cuda)
    cuda, archs = resolve_cuda(mode, obstacle, torch.cuda.device_count() > 0, os.environ.get("TORCH_CUDA_ARCH_LIST"))
    if cuda:
        os.environ["CUDA_HOME"] = home  # before the import below, which looks for it once
        if archs:
            os.environ["TORCH_CUDA_ARCH_LIST"] = archs

    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension, include_paths

    class Build(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            # pip builds in a fresh folder each time; one that stays makes rebuilding incremental.
            self.build_temp = str(ROOT / "build" / ("sanitized" if sanitize else "cuda" if cuda else "cpu"))
            Path(self.build_temp).mkdir(parents=True, exist_ok=True)

        def build_extensions(self) -> None:
            precompile(Path(self.build_temp, "prefix.h"), self.compiler.compiler_so[1:], flags, torch.__version__)
            super().build_extensions()

    # Headers of others are system headers: our warnings are errors, theirs are theirs.
    system = [*include_paths("cuda" if cuda else "cpu"), sysconfig.get_path("include")]
    if cuda:
        # ATen includes headers of cuBLAS and cuSPARSE, which a small toolkit lacks and torch's wheels have.
        system += [f"{place}/include" for place in wheel_homes()]
    isystem = [flag for folder in system for flag in ("-isystem", folder)]
    macros = [("SUPERNET_WITH_CUDA", None)] if cuda else [("SUPERNET_GENERIC_ONLY", None)] if sanitize else []
    host = [STANDARD, "-O3", "-g0", "-fopenmp", "-fvisibility=hidden", *WARNINGS]
    device = [STANDARD, "-O3", "-lineinfo", "-Werror", "all-warnings", "-Xcompiler", ",".join(["-fopenmp", *WARNINGS])]

    sources = sorted(glob.glob("csrc/**/*.cpp", recursive=True))
    if sanitize:
        host += SANITIZERS
        sources = [path for path in sources if "/isa/" not in path or path.endswith("generic.cpp")]
    if cuda:
        sources += sorted(glob.glob("csrc/**/*.cu", recursive=True))
    flags = host + isystem
    extension = (CUDAExtension if cuda else CppExtension)(
        "supernet._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=macros,
        library_dirs=[link_dir(home)] if cuda else [],
        extra_compile_args={"cxx": flags, "nvcc": device + isystem},
        extra_link_args=["-fopenmp", *(SANITIZERS if sanitize else [])],
    )
    setup(ext_modules=[extension], cmdclass={"build_ext": Build})


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
