"""Jobs in parallel, in processes of their own, under one progress bar."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.process import BaseProcess
from typing import Any

from supernet.progress import Track


class Terminated(SystemExit):
    """SIGTERM came while work was under way: its processes are ended before this one is."""


def run(
    function: Callable[..., Any],
    jobs: Mapping[str, tuple],
    at_once: int,
    bar: Track,
    done: Callable[[], int],
    finished: Callable[[str, Any], None] = lambda name, result: None,
) -> dict[str, Any]:
    """``function(*jobs[name])`` for every name, ``at_once`` of them at a time; a single one in this process.

    Whatever ends this process, Ctrl-C, SIGTERM or SIGKILL, ends the others too.

    Args:
        done: units of the bar that are done, read once a second from what the jobs leave in files.
        finished: called with a name and its result as soon as there is one.
    """
    results: dict[str, Any] = {}
    if at_once == 1:
        with bar:
            for name, arguments in jobs.items():
                results[name] = function(*arguments)
                finished(name, results[name])
                bar.advance(done() - bar.count)
        return results
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        at_once, mp_context=multiprocessing.get_context("spawn"), initializer=_watch, initargs=(os.getpid(),)
    )
    with _terminates(), bar:
        names: dict[Future, str] = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        try:
            while names:
                ready, _ = wait(names, timeout=1, return_when=FIRST_COMPLETED)
                for future in ready:
                    name = names.pop(future)
                    results[name] = future.result()
                    finished(name, results[name])
                bar.advance(done() - bar.count, text=f"{len(results)}/{len(jobs)} networks")
        except BaseException:
            _end(pool, [process for process in multiprocessing.active_children() if process not in others])
            raise
        pool.shutdown()
    return results


def _watch(parent: int) -> None:
    """In a worker: end with the process that began it, and leave signals of the terminal to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _terminates() -> Iterator[None]:
    """SIGTERM becomes an exception, so that what is under way is ended in order; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_(*_: object) -> None:
        raise Terminated(143)

    before = signal.signal(signal.SIGTERM, raise_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(pool: ProcessPoolExecutor, processes: list[BaseProcess]) -> None:
    """End the workers now: what they write is written whole or not at all."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
