"""Commands as processes that need not import PyTorch: forks of one that has (``tests/fork_server.py``)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Forks:
    """The process that commands are forked from."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fork_server.py")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def answer(self) -> object:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def run(
        self, tool: str, *arguments: object, folder: Path | None = None, last: int | None = None, where: Path = ROOT
    ) -> Result:
        """A command to its end, begun in ``where``, or killed before operation ``last`` on files below ``folder``."""
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place, "out"), Path(place, "err")
            request = {"tool": tool, "arguments": list(map(str, arguments)), "out": str(out), "err": str(err)}
            request |= {"folder": None if folder is None else str(folder), "last": last, "where": str(where)}
            request |= {"environment": {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "MPLBACKEND": "agg"}}
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            code = self.answer()
            assert isinstance(code, int)
            count = Path(f"{out}.count")
            operations = int(count.read_text()) if count.exists() else -1
            return Result(request["arguments"], code, out.read_text("utf-8"), err.read_text("utf-8"), operations)


class Result(subprocess.CompletedProcess):
    """What a command printed, and how many operations on files it made."""

    def __init__(self, args: list[str], returncode: int, stdout: str, stderr: str, operations: int):
        super().__init__(args, returncode, stdout, stderr)
        self.operations = operations


@functools.cache
def forks() -> Forks:
    """The one of this process of tests; it ends with it, when its input does."""
    return Forks()
