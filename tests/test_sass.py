"""What the machine code of every kernel does about memory and divisions, against tests/data/sass.json.

After a change that is meant, write the file anew and look at the difference::

    PYTHONPATH=tests python tests/test_sass.py
"""

from __future__ import annotations

import json

import pytest
from cubins import ARCHES, FILES, ROOT, call, compact, compiled, needs_toolkit, on_arches, toolkit
from sass import batches, counts, disassembler, main_loops, parse
from simt.runner import kernel_name

GOLDEN = ROOT / "tests" / "data" / "sass.json"
# Two nested loops. The outer stores in between; the inner loads two vectors, adds one, then loads and adds a third.
LISTING = """
.text.one:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   STS.U16 [R1], R2 ;
        /*0020*/                   STS [R1+0x4], R2 ;
.L_x_1:
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/               @P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ;
        /*0050*/                   IADD3 R2, P1, R2, UR6, RZ ;
        /*0060*/                   FADD R6, R7.reuse, R9 ;
        /*0070*/              @!P2 LDG.E.128 R12, desc[UR4][R2.64] ;
        /*0080*/                   STS.128 [R1], R12 ;
        /*0090*/               @P3 BRA `(.L_x_1) ;
        /*00a0*/                   LDG.E R5, desc[UR4][R2.64] ;
        /*00b0*/                   MUFU.RCP R7, R5 ;
        /*00c0*/                   CALL.REL.NOINC `(.L_x_2) ;
        /*00d0*/               @P4 BRA `(.L_x_0) ;
        /*00e0*/                   EXIT ;
.L_x_2:
        /*00f0*/                   LDL R3, [R1] ;
        /*0100*/                   BRA `(.L_x_3);
.L_x_3:
.text.other:
        /*0000*/                   LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64] ;
        /*0010*/                   LDGDEPBAR ;
        /*0020*/                   DEPBAR.LE SB0, 0x0 ;
        /*0030*/                   LDSM.16.M88.4 R4, [R3] ;
        /*0040*/                   LD.E R4, desc[UR4][R2.64] ;
        /*0050*/                   DEPBAR.LE SB0, 0x0 ;
        /*0060*/                   EXIT ;
"""


def test_a_listing_is_counted():
    """By hand."""
    one, other = parse(LISTING)
    assert (one.symbol, other.symbol) == ("one", "other")
    (loop,) = main_loops(one)
    assert [loop[0].opcode, loop[-1].opcode] == ["LDG.E.128", "BRA"]
    assert batches(loop) == [2, 1]
    nothing = dict.fromkeys(counts(other), 0)
    assert counts(one) == nothing | {
        "loads_most": 2,
        "loads_fewest": 1,
        "sts_16": 1,
        "sts_32": 1,
        "sts_128": 1,
        "reciprocals": 1,
        "calls": 1,
        "local": 1,
    }
    assert counts(other) == nothing | {"ldgsts": 1, "waits": 1, "ldsm": 1, "generic": 1}


def test_loads_of_the_next_turn_are_in_flight():
    """A loop that uses what it loaded in the turn before, after it has asked for the next."""
    listing = """
.text.pipelined:
.L_x_0:
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0010*/                   STS.128 [R1], R8 ;
        /*0020*/                   LDG.E.128 R8, desc[UR4][R2.64] ;
        /*0030*/                   STS.128 [R1], R4 ;
        /*0040*/               @P3 BRA `(.L_x_0) ;
"""
    (kernel,) = parse(listing)
    assert batches(kernel.code) == [2]  # when one is waited for, the others are taken for arrived


def counts_of_kernels(file: str, arch: str) -> dict[str, dict[str, int]]:
    listing = call([disassembler(toolkit()[0]), "-c", str(compiled(file, arch).cubin)])
    return {kernel_name(kernel.symbol): counts(kernel) for kernel in parse(listing)}


@needs_toolkit
@on_arches
@pytest.mark.parametrize("file", FILES[::-1])  # test_ptxas.py compiles them in the other order, maybe at the same time
def test_machine_code(file, arch):
    if not disassembler(toolkit()[0]):
        pytest.skip("no nvdisasm")
    golden = json.loads(GOLDEN.read_text())
    found = counts_of_kernels(file, arch)
    assert not {name for name, count in found.items() if count["local"]}
    if toolkit()[1] == golden["nvcc"]:
        assert found == golden["kernels"][arch][file]


@pytest.mark.parametrize("arch", ARCHES)
def test_loads_are_in_flight_together(arch):
    """Four in each kernel that loads vectors to registers."""
    kernels = json.loads(GOLDEN.read_text())["kernels"][arch]
    loading = {name: count["loads_fewest"] for of_file in kernels.values() for name, count in of_file.items()}
    assert not {name for name, loads in loading.items() if 0 < loads < 4}


@pytest.mark.parametrize("arch", ARCHES)
def test_copies_are_waited_for(arch):
    kernels = json.loads(GOLDEN.read_text())["kernels"][arch]
    counted = {name: (count["ldgsts"] > 0, count["waits"] > 0) for ks in kernels.values() for name, count in ks.items()}
    assert any(copies for copies, _ in counted.values())
    assert not {name for name, (copies, waits) in counted.items() if copies != waits}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("file", ["dw_separable", "inverted_bottleneck"])
def test_fused_kernels_copy_and_take_tensor_cores(arch, file):
    """They copy past the registers, and all but those of plain floats load fragments as matrices."""
    for name, count in json.loads(GOLDEN.read_text())["kernels"][arch][file].items():
        assert count["ldgsts"], name
        assert not count["generic"], name
        assert bool(count["ldsm"]) == (not name.endswith("float>")), name


def main() -> None:
    kernels = {arch: {file: counts_of_kernels(file, arch) for file in FILES} for arch in ARCHES}
    GOLDEN.write_text(compact(json.dumps({"nvcc": toolkit()[1], "kernels": kernels}, indent=1)) + "\n")


if __name__ == "__main__":
    main()
