"""The processor, cores and memory that a process may use, on machines that the tests make up."""

import os

import pytest

from supernet.errors import UserError
from supernet.machine import cores, cpu, free_memory, memory_size

AVAILABLE = 8 * 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes files below a root; 16 cores in the affinity, 8 GiB available."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    def write(**files):
        for name, text in {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {AVAILABLE // 1024} kB\n", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


INTEL = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold 6248\nstepping\t: 7\nmodel name\t: B\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        (INTEL, "", "Intel(R) Xeon(R) Gold 6248"),
        ("processor : 0\nHardware : BCM2835\n", "", "BCM2835"),
        ("processor : 0\nmodel name :\n", "Raspberry Pi 5 Model B\0", "Raspberry Pi 5 Model B"),
    ],
)
def test_the_processor_is_named_or_its_board(machine, cpuinfo, board, name):
    assert cpu(machine(**{"proc/cpuinfo": cpuinfo, "proc/device-tree/model": board})) == name


def test_a_processor_without_a_name_has_that_of_its_kind(tmp_path):
    assert cpu(tmp_path)


def test_without_control_groups_affinity_and_available_memory_count(machine):
    root = machine()
    assert (cores(root), free_memory(root)) == (16, AVAILABLE)


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 16), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)]
)
def test_the_quota_of_version_2_bounds_the_cores(machine, quota, expected):
    root = machine(**{"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/cpu.max": quota})
    assert cores(root) == expected


def test_the_tightest_of_nested_groups_counts(machine):
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/cpu.max": "300000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "800000 100000",
        "sys/fs/cgroup/a/memory.max": str(3 * 2**30),
        "sys/fs/cgroup/a/memory.current": str(2**30),
        "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/a/b/memory.current": "5",
    }
    root = machine(**files)
    assert (cores(root), free_memory(root)) == (3, 2 * 2**30)


def test_version_1_and_cached_files(machine):
    files = {
        "proc/self/cgroup": "4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n",
        "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "400000",
        "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "900",
        "sys/fs/cgroup/memory/box/memory.stat": "cache 1\ntotal_inactive_file 300\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    root = machine(**files)
    assert (cores(root), free_memory(root)) == (4, 400)


def test_a_path_of_another_namespace_falls_back_to_the_mount(machine):
    """A container may see the host's path, while its own group is what is mounted."""
    root = machine(**{"proc/self/cgroup": "0::/docker/0123\n", "sys/fs/cgroup/cpu.max": "200000 100000"})
    assert cores(root) == 2


def test_this_machine():
    assert 1 <= cores() <= os.cpu_count()
    assert 2**20 < free_memory() < 2**50


def test_sizes():
    sizes = {"4G": 2**32, "512m": 2**29, "1.5 GiB": 3 * 2**29, "2048": 2048, "1KB": 1024}
    assert {text: memory_size(text) for text in sizes} == sizes
    for text in ("", "4X", "-1G", "0", "nan", "1e9", "9" * 5000, "²G"):
        with pytest.raises(UserError, match="expected a size such as 4G") as caught:
            memory_size(text)
        assert len(str(caught.value)) < 100
