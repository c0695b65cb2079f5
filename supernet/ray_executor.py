"""Workers of Ray, on this machine or a cluster's; the nodes see the same files, under the same paths."""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supernet.errors import UserError
from supernet.executor import Results, Terminated, nothing
from supernet.training.faults import held_sigterm

RETRIES = 3  # of a call whose worker was lost


class Ray:
    """Calls as tasks of Ray, one core each. The function is sent once, and kept by the workers until the next one.

    A worker that is lost costs the call that it was at, which is made again elsewhere; an error of the function is
    no reason to repeat it.

    Args:
        at_once: workers of a cluster that is started on this machine; one that runs already says itself how many.
        address: of a cluster: ``auto``, ``HOST:PORT``; None is what RAY_ADDRESS says, else this machine.
        gpus: of each worker; a part of one is shared.

    Raises:
        UserError: Ray is not installed, there is no cluster, or it has no room for a worker.
    """

    def __init__(self, at_once: int = 1, address: str | None = None, gpus: float = 0.0):
        if at_once < 1 or gpus < 0:
            raise UserError(f"{at_once} workers with {gpus} GPUs each: expected at least 1, and no negative number")
        self.workers, self.gpus = at_once, gpus
        self.address = address or os.environ.get("RAY_ADDRESS", "local")
        self._sent: tuple[Any, list] | None = None  # a function and the reference to it

    @property
    def own_devices(self) -> bool:
        """Whether each worker has a GPU."""
        return self.gpus > 0

    @functools.cached_property
    def ray(self) -> Any:
        """The module, connected."""
        try:
            import ray
        except ImportError as error:
            raise UserError("workers of Ray need the extra ray: pip install 'supernet[ray]'") from error
        self._require_somebody()
        # Workers import what this process can, code of one's own too.
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
        with held_sigterm() as terminated:
            try:
                ray.init(
                    self.address,
                    num_cpus=self.workers if self.address == "local" else None,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    ignore_reinit_error=True,
                    runtime_env={"env_vars": {"PYTHONPATH": path}},
                )
            except SystemExit:  # of Ray's own handler, with another exit code
                terminated.append(True)
            except Exception as error:  # Ray's own, of no class: its processes did not start
                raise UserError(f"no cluster of Ray at {self.address}: {error}; expected auto or HOST:PORT") from error
        return ray

    def _require_somebody(self) -> None:
        """A UserError where nobody listens: Ray would try for minutes."""
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if not host:
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, ValueError, OverflowError) as error:
            raise UserError(f"no cluster of Ray at {self.address}: {error}; expected auto or HOST:PORT") from error

    @functools.cached_property
    def at_once(self) -> int:
        """How many workers the cluster has room for."""
        has = self.ray.cluster_resources()
        room = min([has.get("CPU", 0), *([has.get("GPU", 0) / self.gpus] if self.gpus else [])])
        if room < 1:
            found = f"{has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs"
            raise UserError(f"the cluster of Ray has {found}: expected one core and {self.gpus:g} GPUs for a worker")
        return int(room)

    def map(
        self, function: Callable[..., Any], jobs: Mapping[str, tuple], waiting: Callable[[], None] = nothing
    ) -> Results:
        """As ``Executor`` has it."""
        ray, reference = self.ray, self._send(function)
        call = ray.remote(_call).options(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES, retry_exceptions=False)
        names = {call.remote(reference, arguments, os.getcwd()): name for name, arguments in jobs.items()}
        try:
            while names:
                for task in ray.wait(list(names), timeout=1)[0]:
                    name = names.pop(task)
                    yield name, self._result(name, task)
                waiting()
        except SystemExit as error:  # of the handler of SIGTERM; within Ray its code becomes 1
            raise Terminated(143) from error
        finally:
            for task in names:
                ray.cancel(task, force=True)

    def _send(self, function: Callable[..., Any]) -> list:
        """The reference to the function, in a list: Ray would replace it by the function in each call."""
        if self._sent is None or self._sent[0] is not function:
            self._sent = function, [self.ray.put(function)]
        return self._sent[1]

    def _result(self, name: str, task: Any) -> Any:
        try:
            return self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayError as error:
            lost = f"{name}: its worker was lost {RETRIES + 1} times ({type(error).__name__})"
            raise UserError(f"{lost}; see Ray's log for why, often memory") from error


def _call(reference: list, arguments: tuple, folder: str) -> Any:
    """In a worker: call the function that the reference is to, where the paths mean what they mean to the caller."""
    if Path(folder).is_dir():
        os.chdir(folder)
    return _function(reference[0])(*arguments)


@functools.lru_cache(maxsize=1)
def _function(reference: Any) -> Callable[..., Any]:
    """Fetched once by each worker."""
    import ray

    return ray.get(reference)
