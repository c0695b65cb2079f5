"""The benchmarks that ``tools/bench.py`` runs."""

import sys
from pathlib import Path

# The runner of CUDA kernels on the CPU is a part of the tests, not of the library.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
