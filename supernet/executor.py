"""Work that several share: processes or threads of this machine; ``supernet.ray_executor`` has a cluster's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import torch

from supernet.errors import UserError
from supernet.progress import Track
from supernet.quantities import several

Results = Generator[tuple[str, Any], None, None]


class Terminated(SystemExit):
    """SIGTERM came while work was under way: its processes are ended before this one is."""


def nothing() -> None:
    """Nobody wants to know that time passes."""


class Executor(Protocol):
    """Workers that call a function for many arguments; how many there are changes no result."""

    @property
    def at_once(self) -> int:
        """How many calls run in parallel."""
        ...

    @property
    def own_devices(self) -> bool:
        """Whether each worker has a GPU of its own; else GPUs are left to one call at a time."""
        ...

    def map(self, function: Callable[..., Any], jobs: Mapping[str, tuple], waiting: Callable[[], None]) -> Results:
        """``function(*jobs[name])`` for every name: names and results, as they become ready. Close it when done.

        Args:
            function: picklable with its arguments where the workers are processes.
            waiting: called about once a second meanwhile.

        Raises:
            Whatever the function raises first; the other calls are ended.
        """
        ...


@dataclass(frozen=True)
class _Local:
    """Workers of this machine."""

    at_once: int = 1
    own_devices = False

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise UserError(f"{self.at_once} workers: expected at least 1")


class Processes(_Local):
    """Processes of this machine; a single call runs in this one.

    Whatever ends this process, Ctrl-C, SIGTERM or SIGKILL, ends the others too.
    """

    def map(
        self, function: Callable[..., Any], jobs: Mapping[str, tuple], waiting: Callable[[], None] = nothing
    ) -> Results:
        """As ``Executor`` has it."""
        at_once = min(self.at_once, len(jobs))
        if at_once <= 1:
            for name, arguments in jobs.items():
                yield name, function(*arguments)
            return
        others = multiprocessing.active_children()
        pool = ProcessPoolExecutor(
            at_once, mp_context=multiprocessing.get_context("spawn"), initializer=_watch, initargs=(os.getpid(),)
        )
        with _terminates():
            try:
                with _deaf():
                    futures = {pool.submit(function, *jobs[name]): name for name in jobs}
                yield from _ready(futures, waiting)
            except BaseException:
                _end(pool, [process for process in multiprocessing.active_children() if process not in others])
                raise
            pool.shutdown()


class Threads(_Local):
    """Threads of this process, on the CPU of one core each, for functions that several may call at once."""

    def map(
        self, function: Callable[..., Any], jobs: Mapping[str, tuple], waiting: Callable[[], None] = nothing
    ) -> Results:
        """As ``Executor`` has it."""
        threads = torch.get_num_threads()
        start = (lambda: torch.set_num_threads(1)) if self.at_once > 1 else None
        with ThreadPoolExecutor(self.at_once, initializer=start) as pool:
            yield from _ready({pool.submit(function, *jobs[name]): name for name in jobs}, waiting)
        torch.set_num_threads(threads)


def for_device(executor: Executor, device: torch.device) -> Executor:
    """The executor; where its workers would share a GPU, one that makes one call after another in this process."""
    return executor if device.type == "cpu" or executor.own_devices else Processes()


def run(
    executor: Executor,
    function: Callable[..., Any],
    jobs: Mapping[str, tuple],
    bar: Track,
    done: Callable[[], int] | None = None,
    finished: Callable[[str, Any], None] = lambda name, result: None,
) -> dict[str, Any]:
    """The result of every job by name, under one progress bar.

    Args:
        function, jobs: as ``Executor.map`` has them.
        done: units of the bar that are done, read once a second from what the jobs leave in files; None: its units are
            the jobs.
        finished: called with a name and its result as soon as there is one.
    """
    results: dict[str, Any] = {}
    before = bar.count

    def show() -> None:
        if done is None:
            bar.advance(before + len(results) - bar.count)
        else:
            bar.advance(done() - bar.count, text=f"{len(results)}/{several(len(jobs), 'network')}")

    with bar, contextlib.closing(executor.map(function, jobs, show)) as ready:
        for name, result in ready:
            results[name] = result
            finished(name, result)
            show()
    return results


def _ready(names: dict[Future, str], waiting: Callable[[], None]) -> Results:
    """Names and results as the futures end."""
    while names:
        for future in wait(names, timeout=1, return_when=FIRST_COMPLETED)[0]:
            yield names.pop(future), future.result()
        waiting()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits; processes that begin meanwhile never hear it, and leave it to this one to end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch(parent: int) -> None:
    """In a worker: end with the process that began it."""

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
