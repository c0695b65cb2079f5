"""Which device a process takes, told by a layer that records what is asked of it."""

from __future__ import annotations

import pytest
import torch
from conftest import refused

from supernet.training import defaults


class Cuda:
    """As many devices as there are said to be."""

    def __init__(self, count: int):
        self.count, self.calls = count, []

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def set_device(self, index: int) -> None:
        self.calls.append(index)


def launch(monkeypatch, local_rank: int, processes: int) -> None:
    for name, value in {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


def test_alone_it_is_the_first_device_or_the_one_that_was_named():
    for name, index in ((None, 0), ("cuda", 0), ("cuda:1", 1)):
        cuda = Cuda(2)
        assert defaults.device(name, cuda) == torch.device("cuda", index)
        assert cuda.calls == [index]
    assert defaults.device(None, Cuda(0)) == torch.device("cpu")


@pytest.mark.parametrize("local_rank", range(4))
def test_under_torchrun_each_process_selects_the_device_of_its_local_rank(monkeypatch, local_rank):
    launch(monkeypatch, local_rank, 4)
    cuda = Cuda(4)
    assert defaults.device(None, cuda) == torch.device("cuda", local_rank)
    assert cuda.calls == [local_rank]


def test_more_processes_than_devices_are_refused_on_every_rank(monkeypatch):
    for local_rank in range(3):
        launch(monkeypatch, local_rank, 3)
        cuda = Cuda(2)
        assert "3 processes on this machine share 2 CUDA devices" in refused(defaults.device, None, cuda)
        assert cuda.calls == []


def test_a_process_that_sees_its_own_device_only_takes_it_by_number(monkeypatch):
    launch(monkeypatch, 3, 4)
    cuda = Cuda(1)
    assert defaults.device("cuda:0", cuda) == torch.device("cuda", 0)
    assert cuda.calls == [0]


def test_a_device_that_is_not_there_is_refused():
    assert "finds 1 CUDA devices" in refused(defaults.device, "cuda:3", Cuda(1))
    assert "finds 0 CUDA devices" in refused(defaults.device, "cuda", Cuda(0))
    assert "cannot use the device 'nonsense'" in refused(defaults.device, "nonsense", Cuda(1))


def test_processes_on_the_cpu_need_no_device(monkeypatch):
    launch(monkeypatch, 1, 2)
    cuda = Cuda(0)
    assert defaults.device(None, cuda) == torch.device("cpu")
    assert cuda.calls == []


def test_kernels_follow_the_wish_then_what_was_measured(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", {cpu: "none", gpu: "Fast"}.get)
    monkeypatch.setattr(defaults.measured, "kernels", {"Fast": "fused"}.get)
    assert [defaults.kernels(device) for device in (cpu, gpu, torch.device("meta"))] == ["fused", "fused", "eager"]
    assert [defaults.kernels(gpu, wish) for wish in ("fused", "eager")] == ["fused", "eager"]
    assert [defaults.kernels(device, sync_bn=True) for device in (cpu, gpu)] == ["eager", "eager"]
    assert "need eager kernels" in refused(defaults.kernels, gpu, "fused", True)
    assert "unknown kernels 'fussed': expected auto, fused, eager" in refused(defaults.kernels, cpu, "fussed")


def test_a_device_is_recorded_with_the_name_of_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert defaults.record(torch.device("cpu")) == {"device": "cpu"}
    assert defaults.record(torch.device("cuda", 1)) == {"device": "cuda", "gpu": "GPU 1"}
