"""``pytest -m gpu``: the operators against references, on the device. Dry: a test file on the CPU."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from gpu.stage import Machine, Mistake, Results, Unavailable

ROOT = Path(__file__).resolve().parents[2]
FILES = ("test_cuda_kernels.py", "test_ops.py", "test_batch_norm_act.py", "test_runtimes.py")
COUNTS = ("tests", "failures", "errors", "skipped")


def run(machine: Machine, results: Results) -> None:
    machine.require()
    if not find_spec("pytest"):
        raise Unavailable("pytest is not installed")
    # Releases of PyTorch differ in what they warn of; that is not what is tested here.
    options = ["-q", "-p", "no:cacheprovider", "-W", "default", "-m", "not gpu" if machine.dry else "gpu"]
    wrong = []
    for file in FILES[2:3] if machine.dry else FILES:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", *options, f"--junit-xml={report}", f"tests/{file}"]
            code = subprocess.run(command, cwd=ROOT).returncode
            suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
        found = {} if suite is None else {name: int(suite.get(name, 0)) for name in COUNTS}
        failed = [] if suite is None else [case for case in suite if case.find("failure") is not None]
        names = [f"{case.get('name')}: {case.find('failure').get('message', '')[:200]}" for case in failed[:20]]
        results.add({"file": file, "exit": code, **found, "failed": names})
        if code:
            wrong.append(file)
    if wrong:
        raise Mistake(f"pytest is not content with {', '.join(wrong)}")
