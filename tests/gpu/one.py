"""Runs one stage in this process, which goes on in its file: ``python -m gpu.one NAME FILE``."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import threading
import time
from pathlib import Path

from gpu.stage import Machine, Results, Unavailable, read


def end_with(parent: int) -> None:
    """End this process group once the process that began it has gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("output", type=Path)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--parent", type=int, help="process without which this one, and what it began, ends")
    given = parser.parse_args()
    if given.parent is not None:
        end_with(given.parent)
    results, began = Results(given.output, read(given.output)), time.monotonic()
    try:
        importlib.import_module(f"gpu.{given.name}").run(Machine(given.dry), results)
        results.data["state"] = "done"
    except Unavailable as error:
        results.data |= {"state": "unavailable", "reason": str(error)}
    except Exception as error:
        results.data |= {"state": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}
        raise
    finally:
        results.data["seconds"] = round(time.monotonic() - began, 1)
        results.write()


if __name__ == "__main__":
    main()
