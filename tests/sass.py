"""Reads machine code as nvdisasm lists it, and counts in a kernel what its speed hangs on."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BRANCH = re.compile(r"`\((\.L_x_\d+)\)")
LINE = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
LABEL = re.compile(r"^\s*(\.L_x_\d+):")
SECTION = re.compile(r"^\.text\.(\w+):")
STS_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: str

    @cached_property
    def registers(self) -> tuple[int, ...]:
        """The first register of each operand, in order."""
        return tuple(int(number) for number in re.findall(r"\bR(\d+)\b", self.operands))

    @property
    def reads(self) -> tuple[int, ...]:
        writes = re.match(r"R\d", self.operands) and not self.opcode.startswith(("ST", "RED"))
        return self.registers[1:] if writes else self.registers

    @property
    def loads_vector(self) -> bool:
        """Whether it loads 16 bytes of global memory to registers."""
        return self.opcode.startswith("LDG.") and ".128" in self.opcode


@dataclass(frozen=True)
class Kernel:
    symbol: str
    code: list[Instruction]
    loops: list[tuple[int, int]]
    """First and last instruction of each, by branches back."""


def disassembler(home: str) -> str | None:
    """The toolkit's, or that in the package of Triton, on which PyTorch depends."""
    places = [Path(home) / "bin"]
    triton = importlib.util.find_spec("triton")
    if triton and triton.origin:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return next((str(place / "nvdisasm") for place in places if (place / "nvdisasm").exists()), None)


def parse(listing: str) -> Iterator[Kernel]:
    """The kernels of ``nvdisasm -c``."""
    symbol, code, labels = "", [], {}

    def kernel() -> Kernel:
        targets = [BRANCH.search(i.operands) if i.opcode.startswith("BRA") else None for i in code]
        branches = [(labels[target[1]], i) for i, target in enumerate(targets) if target and target[1] in labels]
        return Kernel(symbol, code, [(first, last) for first, last in branches if first <= last])

    for line in listing.splitlines():
        if section := SECTION.match(line):
            if code:
                yield kernel()
            symbol, code, labels = section[1], [], {}
        elif label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := LINE.search(line):
            code.append(Instruction(found[1], found[2]))
    if code:
        yield kernel()


def batches(loop: Sequence[Instruction]) -> list[int]:
    """How many 16-byte loads are on their way each time that the loop, in full swing, waits for one of them.

    The loop counts as its instructions in the order of their addresses, whatever it branches over.
    """
    found, pending, count = [], set(), 0
    for turn in range(2):
        for instruction in loop:
            if pending.intersection(instruction.reads):
                if turn == 1:
                    found.append(count)
                pending, count = set(), 0
            if instruction.loads_vector:
                first = instruction.registers[0]
                pending.update(range(first, first + 4))
                count += 1
    return found


def main_loops(kernel: Kernel) -> list[Sequence[Instruction]]:
    """The innermost loops that load the most vectors."""
    loops = {(first, last): sum(i.loads_vector for i in kernel.code[first : last + 1]) for first, last in kernel.loops}
    loading = [loop for loop, count in loops.items() if count]
    innermost = [
        loop for loop in loading if not any(o != loop and loop[0] <= o[0] and o[1] <= loop[1] for o in loading)
    ]
    most = max((loops[loop] for loop in innermost), default=0)
    return [kernel.code[first : last + 1] for first, last in innermost if loops[first, last] == most]


def waits(code: Sequence[Instruction]) -> int:
    """How often it waits for all copies that it has asked for."""
    found, asked = 0, False
    for instruction in code:
        asked |= instruction.opcode == "LDGDEPBAR"
        if asked and instruction.opcode.startswith("DEPBAR") and instruction.operands.endswith(" 0x0"):
            found, asked = found + 1, False
    return found


def counts(kernel: Kernel) -> dict[str, int]:
    """What a kernel's speed hangs on.

    ``loads_most`` and ``loads_fewest``: 16-byte loads that one thread has in flight in its main loop when it waits for
    one. ``ldgsts``: copies from global to shared memory past the registers. ``waits``: for all of these. ``ldsm``:
    matrices loaded for tensor cores. ``generic``: accesses whose kind of memory the machine finds out. ``sts_16`` to
    ``sts_128``: stores to shared memory by bits. ``reciprocals``, and ``calls`` of what divides, or takes roots, where
    these do not do. ``local``: accesses to memory in place of registers.
    """
    found = [count for loop in main_loops(kernel) for count in batches(loop)]
    opcodes = [i.opcode.split(".") for i in kernel.code]
    stores = [next((STS_BITS[part] for part in op if part in STS_BITS), 32) for op in opcodes if op[0] == "STS"]
    return {
        "loads_most": max(found, default=0),
        "loads_fewest": min(found, default=0),
        "ldgsts": sum(op[0] == "LDGSTS" for op in opcodes),
        "waits": waits(kernel.code),
        "ldsm": sum(op[0] == "LDSM" for op in opcodes),
        "generic": sum(op[0] in ("LD", "ST") for op in opcodes),
        **{f"sts_{bits}": stores.count(bits) for bits in (16, 32, 64, 128)},
        "reciprocals": sum(op[:2] == ["MUFU", "RCP"] or op[:2] == ["MUFU", "RCP64H"] for op in opcodes),
        "calls": sum(op[0] == "CALL" for op in opcodes),
        "local": sum(op[0] in ("LDL", "STL") for op in opcodes),
    }
