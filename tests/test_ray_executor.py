"""Workers of Ray on this machine: the results of one process, a lost worker, errors, what is sent once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from search.alone import StandAlone
from search.ces import CES, CESConfig
from search.costs import AdditiveCost
from search.evaluator import Evaluator
from search.run import SearchRun
from supernet import executor, families, files
from supernet.errors import UserError
from supernet.executor import Terminated, Threads
from supernet.model import Supernet
from supernet.progress import silent
from tests.conftest import refused, tiny_space

ray = pytest.importorskip("ray")

from supernet.ray_executor import Ray, _function  # noqa: E402 -- Ray is there

pytestmark = pytest.mark.slow  # Ray's processes take seconds to start: `make test-ray`


@pytest.fixture(scope="module")
def workers():
    yield Ray(2)
    ray.shutdown()


def die_once(flag: Path) -> None:
    """Kill this process, the first time that anybody comes here."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class Fragile(list):
    """Batches of which the second takes the worker with it, once; a line in a file for each time all were read."""

    def __init__(self, batches, folder: Path):
        super().__init__(batches)
        self.folder = folder

    def __iter__(self):
        for i in range(len(self)):
            if i == 1:
                die_once(self.folder / "died")
            yield self[i]
        with (self.folder / "read").open("a") as file:
            file.write("all\n")

    def __reduce__(self):
        return Fragile, ([self[i] for i in range(len(self))], self.folder)


class Recording:
    """An executor that remembers what it was given."""

    own_devices = False

    def __init__(self, inner):
        self.inner, self.at_once, self.groups = inner, inner.at_once, []

    def map(self, function, jobs, waiting):
        self.groups += [archs for (archs,) in jobs.values()]
        yield from self.inner.map(function, jobs, waiting)


def search(folder: Path, workers, validation) -> SearchRun:
    torch.manual_seed(0)
    space = tiny_space()
    supernet, x = Supernet(space), torch.randn(24, 1, 14, 14)
    evaluator = Evaluator(supernet, [x[:12]], validation, workers)
    cost = AdditiveCost(*families.layout(space).priced(lambda spec: spec.flops))
    ces = CES(space, {"flops": cost}, {}, ["flops"], CESConfig(population=8, iterations=3))
    found = SearchRun(folder, ces, evaluator, {"checkpoint": "random"})
    found.run()
    found.write([], {})
    return found


def test_a_lost_worker_changes_nothing_and_nothing_is_asked_for_twice(workers, tmp_path):
    x, y = torch.randn(24, 1, 14, 14, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 10
    validation = list(zip(x.split(8), y.split(8), strict=True))
    for name in ("one", "ray"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.pt").write_bytes(b"weights")  # fronts name what they were scored with
    alone = search(tmp_path / "one", Threads(1), validation)
    recorded = Recording(workers)
    shared = search(tmp_path / "ray", recorded, Fragile(validation, tmp_path))

    assert (tmp_path / "died").exists()
    for name in ("front.json", "population.jsonl", "search.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert shared.evaluator.scores == alone.evaluator.scores
    scored = [arch for archs in recorded.groups for arch in archs]
    assert len(scored) == len(set(scored)) == len(alone.evaluator.scores)
    assert len(recorded.groups) > 3  # each generation was shared
    # Ray makes a lost call again; one whose answer was under way may be lost with it.
    assert len(recorded.groups) <= (tmp_path / "read").read_text().count("all") <= len(recorded.groups) + 1


def train(folder: Path, arch: tuple[int, ...], seed: int) -> float:
    die_once(folder / "died")
    with (folder / "trained").open("a") as file:
        file.write(f"{arch} {seed}\n")
    return sum(arch) / 100 + seed / 1000


def test_trainings_go_on_after_a_lost_worker(workers, tmp_path):
    def begin(arch, seed):
        return train(tmp_path, arch, seed)

    archs = [(i, 1, 2) for i in range(4)]
    alone = StandAlone(files.JsonLines(tmp_path / "log.jsonl", {"budget": dict}), {"epochs": 1}, begin, workers)
    assert alone(archs, [0, 1]).tolist() == [[sum(a) / 100 + seed / 1000 for seed in (0, 1)] for a in archs]
    alone(archs, [0, 1])
    lines = (tmp_path / "trained").read_text().splitlines()
    assert sorted(lines) == sorted(f"{arch} {seed}" for arch in archs for seed in (0, 1))


def fail(x: int) -> int:
    if x < 0:
        raise UserError(f"{x} is below 0", missing="front")
    return x * x


def test_errors_are_as_they_are_and_end_the_rest(workers):
    bar = silent("squares", 2, unit="numbers")
    assert executor.run(workers, fail, {"a": (2,), "b": (3,)}, bar, lambda: 2) == {"a": 4, "b": 9}
    with pytest.raises(UserError, match=r"^-1 is below 0$") as caught:
        executor.run(workers, fail, {"a": (-1,), "b": (2,)}, bar, lambda: 0)
    assert caught.value.missing == "front"


def always_lost() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_call_that_takes_every_worker_with_it_ends_in_one_line(workers):
    assert "a: its worker was lost 4 times" in refused(list, workers.map(always_lost, {"a": ()}))


def test_a_worker_fetches_the_function_once(workers):
    list(workers.map(fail, {"a": (2,)}))
    sent = workers._send(fail)
    assert workers._send(fail) is sent
    assert _function(sent[0]) is _function(sent[0])
    assert workers._send(train) is not sent


def test_sigterm_ends_the_calls_and_the_process(workers):
    def terminated(*_):
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, terminated)
    timer = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        with pytest.raises(Terminated) as caught:
            list(workers.map(time.sleep, {"a": (60,), "b": (60,)}))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    assert list(workers.map(fail, {"a": (2,)})) == [("a", 4)]  # there is room again


START = """
import os, signal, sys, threading
import ray
from supernet.ray_executor import Ray
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGTERM)).start()
Ray(1).ray
threading.Event().wait(60)
"""


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_sigterm_while_ray_starts_ends_the_process(seconds):
    command = [sys.executable, "-c", START, str(seconds)]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], timeout=60).returncode == 143


def test_refusals(monkeypatch):
    assert "expected at least 1" in refused(Ray, 0)
    assert "no negative number" in refused(Ray, 1, None, -1.0)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'supernet[ray]'" in refused(lambda: Ray(1).at_once)


def test_a_cluster_without_room_says_so(workers):
    crowded = Ray(2, gpus=1.0)
    assert "expected one core and 1 GPUs for a worker" in refused(lambda: workers.at_once and crowded.at_once)


def test_an_address_where_nobody_listens_is_refused_at_once():
    for address in ("127.0.0.1:1", "127.0.0.1:x", "ray://127.0.0.1:1"):
        assert f"no cluster of Ray at {address}" in refused(lambda address=address: Ray(1, address).at_once)
