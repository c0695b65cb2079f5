"""Runs commands in forks of a process that has PyTorch imported, and kills them before a file operation if asked to.

Reads a line of JSON for each command from stdin, writes one to stdout; ``tests/forks.py`` talks to it. A fork costs no
import, so that a command takes a second. The product knows nothing of it: an audit hook sees the operations.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

KILLED = 137
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.fsync"}
# What the commands import, and what PyTorch imports at the first step of an optimiser and for an export.
IMPORTED = (
    "latency.build",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.stats",
    "search.alone",
    "search.face_run",
    "search.importance",
    "search.pad_nas",
    "search.plain_run",
    "search.ranking",
    "search.stage_wise_run",
    "search.stage_wise_settings",
    "sklearn.cross_decomposition",
    "sklearn.datasets",
    "supernet.export.formats",
    "supernet.methods.dsnas",
    "supernet.methods.nss",
    "supernet.retraining",
    "torch._dynamo",
    "torch.export._trace",
)


def watch(folder: str | None, last: int | None) -> list[int]:
    """Count what changes files below ``folder``; die right before operation number ``last``."""
    count = [0]
    if folder is None:
        return count

    def hook(event: str, arguments: tuple) -> None:
        if event not in OPERATIONS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        # An open descriptor stands for a file of the run; names are relative within a deleted tree.
        named = str(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else folder
        if os.path.isabs(named) and not named.startswith(folder):
            return
        if named.endswith(".lock"):
            return
        if last is not None and count[0] == last:
            os._exit(KILLED)
        count[0] += 1

    sys.addaudithook(hook)
    fsync = os.fsync

    def audited_fsync(descriptor: int) -> None:
        sys.audit("os.fsync", descriptor)
        fsync(descriptor)

    os.fsync = audited_fsync  # type: ignore[assignment]
    return count


def child(request: dict) -> None:
    """The command; leaves the number of its operations in a file."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["where"])
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    sys.argv = [f"tools/{request['tool']}.py", *request["arguments"]]
    count, status = watch(request["folder"], request["last"]), 0
    try:
        importlib.import_module(f"supernet.cli.{request['tool']}").main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()  # as at the end of any process: of loaders and the like
    sys.stdout.flush()
    sys.stderr.flush()
    Path(request["out"] + ".count").write_text(str(count[0]))
    os._exit(status)


def main() -> None:
    """One command after the other."""
    for name in IMPORTED:
        importlib.import_module(name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(request)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    main()
