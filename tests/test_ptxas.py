"""What ptxas makes of every kernel, against tests/data/ptxas.json: no spills, and no register or block lost unnoticed.

The kernels are those that tests/simt/*.cpp name. After a change that is meant, write the file anew and look at the
difference::

    PYTHONPATH=tests python tests/test_ptxas.py
"""

from __future__ import annotations

import json
import re

import pytest
from cubins import ARCHES, FILES, ROOT, compact, compiled, needs_toolkit, on_arches, toolkit
from simt.occupancy import occupancy
from simt.runner import kernel_name

GOLDEN = ROOT / "tests" / "data" / "ptxas.json"
# Bytes of dynamic shared memory, which ptxas does not know: the most in the cases of `bench.py cuda-model`, or what
# block_shared() of csrc/cuda/common.cuh gives.
FUSED = {"sm_80": 81 << 10, "sm_90": 113 << 10}
DYNAMIC_SHARED = {
    "depthwise_kernel": dict.fromkeys(ARCHES, 43808),
    "depthwise_weight_kernel": dict.fromkeys(ARCHES, 38256),
    "dw_separable_kernel": FUSED,
    "inverted_bottleneck_kernel": FUSED,
    "int8_block_kernel": dict.fromkeys(ARCHES, 65536),  # the most that a plan may take
}


def sizes_of_kernels(file: str, arch: str) -> dict[str, dict]:
    """Registers, bytes of stack, spills and static shared memory, threads and occupancy of each kernel."""
    kernels = compiled(file, arch)
    ptx = kernels.ptx
    found = {}
    for part in kernels.report.split("Compiling entry function '")[1:]:
        symbol = part[: part.index("'")]
        name = kernel_name(symbol)
        entry = ptx[ptx.index(f".entry {symbol}(") :]
        entry = entry[: entry.find(".entry", 1)]
        if "supernet_shared_bytes" in entry and name.split("<")[0] not in DYNAMIC_SHARED:
            raise AssertionError(f"{name} uses dynamic shared memory: say in DYNAMIC_SHARED how much at most")

        def number(pattern: str, text: str = part) -> int:
            match = re.search(pattern, text)
            return int(match.group(1)) if match else 0

        sizes = {
            "registers": number(r"Used (\d+) registers"),
            "stack": number(r"(\d+) bytes stack frame"),
            "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "shared": number(r"(\d+) bytes smem"),
            "threads": number(r"\.maxntid (\d+)", entry),
        }
        if not sizes["threads"]:
            raise AssertionError(f"{name} has no __launch_bounds__")
        shared = sizes["shared"] + DYNAMIC_SHARED.get(name.split("<")[0], {}).get(arch, 0)
        sizes["occupancy"] = occupancy(arch, sizes["threads"], sizes["registers"], shared)
        found[name] = sizes
    return found


@needs_toolkit
@on_arches
@pytest.mark.parametrize("file", FILES)
def test_kernels_are_lean(file, arch):
    golden = json.loads(GOLDEN.read_text())
    expected = golden["kernels"][arch].get(file, {})
    found = sizes_of_kernels(file, arch)
    assert found, "no kernel was compiled"
    assert found.keys() == expected.keys(), "other kernels than in tests/data/ptxas.json"
    for name, sizes in found.items():
        assert sizes["spills"] == 0, name
        if toolkit()[1] == golden["nvcc"]:
            assert sizes == expected[name], name
        else:
            assert sizes["occupancy"] >= expected[name]["occupancy"] - 0.125, name


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "expected"),
    [
        (256, 32, 0, 1.0),
        (256, 40, 0, 0.75),  # 51 warps' registers, in whole warps of each quarter 48: 6 blocks
        (256, 64, 0, 0.5),
        (1024, 65, 0, 0.0),  # does not start
        (32, 16, 0, 0.5),  # 32 blocks
        (128, 32, 40 << 10, 4 * 4 / 64),  # 41 KiB with the system's, into 164 KiB
        (192, 32, 0, 60 / 64),  # 10 blocks of 6 warps
    ],
)
def test_occupancy(threads, registers, shared, expected):
    """By hand, after the tables in the programming guide."""
    assert occupancy("sm_80", threads, registers, shared) == expected


def main() -> None:
    kernels = {arch: {file: sizes_of_kernels(file, arch) for file in FILES} for arch in ARCHES}
    GOLDEN.write_text(compact(json.dumps({"nvcc": toolkit()[1], "kernels": kernels}, indent=1)) + "\n")


if __name__ == "__main__":
    main()
