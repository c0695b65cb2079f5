"""The machine: its processor, and what this process may use of it, by its control groups too. No torch; for bundles."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from supernet.errors import UserError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity, and the CPU quota of its control groups.

    Under torchrun it is this process's share of them.

    Args:
        root: where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu", root):
        quota, _, period = _read(group / "cpu.max").partition(" ")  # cgroup v2
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # else "max" or -1
            allowed = min(allowed, max(1, int(quota) // int(period)))
    return max(1, allowed // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def cpu(root: Path = Path("/")) -> str:
    """The name of the processor; of the board where the system names only that.

    Args:
        root: where /proc is.
    """
    found = re.search(r"^(?:model name|hardware)[ \t]*:[ \t]*(\S.*)$", _read(root / "proc/cpuinfo"), re.M | re.I)
    if found:
        return found[1].strip()
    board = _read(root / "proc/device-tree/model").strip("\0\n ")
    return board or platform.processor() or platform.machine()


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: of the machine, and below the limits of its control groups.

    What is cached of files counts as free.

    Args:
        root: where /proc and /sys are.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    free = 1024 * int(found[1]) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _groups("memory", root):
        for limit, usage, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = _read(group / limit), _read(group / usage)
            if most.isdecimal() and used.isdecimal():  # else "max", or the other version of cgroups
                idle = re.search(rf"^{cached} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
                free = min(free, int(most) - int(used) + (int(idle[1]) if idle else 0))
    return max(free, 0)


def memory_size(text: str, what: str = "memory") -> int:
    """Bytes of a size such as ``4G``, ``512M`` or ``1.5 GiB``; units are powers of 1024.

    Args:
        what: it is of, for messages.

    Raises:
        UserError: it is none, or below one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE | re.ASCII)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found and len(text) < 30 else 0
    if size < 1:
        raise UserError(f"{what} {text!r:.40}: expected a size such as 4G or 512M")
    return size


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The control groups of this process that limit what ``controller`` is for, from its own up to the first."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount  # version 1 or 2
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _read(path: Path) -> str:
    """The text of a small file; empty where there is none."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
