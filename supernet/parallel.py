"""Work side by side in processes of their own, under one bar."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from supernet.progress import Track


def run(
    function: Callable[..., Any],
    jobs: dict[str, tuple],
    at_once: int,
    bar: Track,
    progress: Callable[[], int],
    done: Callable[[str, Any], None] = lambda name, result: None,
) -> dict[str, Any]:
    """``function(*jobs[name])`` for every name, ``at_once`` of them at a time; a single one in this process.

    Args:
        progress: units of the bar that are done, read once a second from what the jobs leave in files.
        done: called with a name and its result as soon as there is one.
    """
    results: dict[str, Any] = {}
    if at_once == 1:
        with bar:
            for name, arguments in jobs.items():
                results[name] = function(*arguments)
                done(name, results[name])
                bar.advance(progress() - bar.count)
        return results
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool, bar:
        names: dict[Future, str] = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        try:
            while names:
                finished, _ = wait(names, timeout=1, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = names.pop(future)
                    results[name] = future.result()
                    done(name, results[name])
                bar.advance(progress() - bar.count, text=f"{len(results)}/{len(jobs)} networks")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results
