"""`pytest -p sanitized`: the operators as built for the sanitizers (`make test-asan`) in place of the usual ones."""

import importlib.util
import sys
from pathlib import Path

import torch  # noqa: F401 - the extension needs its libraries

(path,) = Path("build/sanitized/supernet").glob("_C*.so")
spec = importlib.util.spec_from_file_location("supernet._C", path)
sys.modules["supernet._C"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["supernet._C"])
