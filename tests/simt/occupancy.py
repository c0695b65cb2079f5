"""How many blocks of a kernel a multiprocessor holds."""

from __future__ import annotations

# Per multiprocessor, from the CUDA C++ programming guide: warps, blocks, registers, bytes of shared memory.
LIMITS = {"sm_80": (64, 32, 65536, 164 << 10), "sm_90": (64, 32, 65536, 228 << 10)}


def resident(arch: str, threads: int, registers: int, shared: int) -> int:
    """Blocks of so many threads, registers of each, bytes of shared memory.

    A warp gets registers in units of 256, a multiprocessor's quarter takes whole warps; a block gets shared memory in
    units of 128 bytes, and 1 KiB is the system's.
    """
    max_warps, max_blocks, all_registers, all_shared = LIMITS[arch]
    warps = -(-threads // 32)
    by_registers = all_registers // (-(-registers * 32 // 256) * 256) // 4 * 4 // warps
    by_shared = all_shared // (-(-shared // 128) * 128 + 1024)
    return min(max_warps // warps, max_blocks, by_registers, by_shared)


def share_of_warps(arch: str, threads: int, blocks: int) -> float:
    """Of those that a multiprocessor can hold."""
    return blocks * -(-threads // 32) / LIMITS[arch][0]


def occupancy(arch: str, threads: int, registers: int, shared: int) -> float:
    """The share of a multiprocessor's warps that can be resident."""
    return share_of_warps(arch, threads, resident(arch, threads, registers, shared))
