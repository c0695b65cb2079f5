"""Runs one stage in this process, which goes on in its file: ``python -m gpu.one NAME FILE``."""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from gpu.stage import Machine, Results, Unavailable, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("output", type=Path)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
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
