"""Calls one function of a library built by runner.py, by bytes only: no torch, so that it also runs beside ASan.

As a program it reads a call as JSON from stdin, and prints what came out: the ASan build gets a process of its own.
"""

from __future__ import annotations

import base64
import ctypes
import json
import struct
import sys

ORDERS = {"forward": 0, "reverse": 1, "random": 2}


def execute(library: str, function: str, arguments: dict, settings: dict) -> dict:
    """Run it once.

    ``arguments`` map a name to ``int``, ``float``, a list of buffers (which becomes a struct of 64 pointers), None (a
    null pointer) or a buffer: ``{"kind": "in" | "out" | "scratch", "bytes": base64 or their number, "itemsize": n}``.
    ``settings``: order, seed, offset (elements by which all buffers lie behind a multiple of 16 bytes), counting,
    limit (seconds), multiprocessors, block_shared (bytes). Gives the failure or None, the outputs' bytes (base64) by
    name, the counts, the launches, and by name the sectors loaded and stored, each counted once in a block.
    """
    lib = ctypes.CDLL(library)
    lib.simt_allocate.restype = lib.simt_pointer.restype = ctypes.c_void_p
    call = getattr(lib, function)
    call.restype = ctypes.c_char_p
    order = ORDERS[settings["order"]]
    lib.simt_reset(
        order,
        ctypes.c_int64(settings["seed"]),
        settings["counting"],
        ctypes.c_double(settings["limit"]),
        settings["multiprocessors"],
        settings["block_shared"],
    )
    # The border of the pages lies right in front of the buffers in one order, right behind them in the others.
    at_end = settings["order"] != "reverse" and not settings["counting"]
    outputs = {}
    names = []
    keep = []

    def place(name: str, buffer: dict) -> int:
        data = None if isinstance(buffer["bytes"], int) else base64.b64decode(buffer["bytes"])
        size = buffer["bytes"] if data is None else len(data)
        offset = settings["offset"] * buffer["itemsize"]
        base = lib.simt_allocate(name.encode(), ctypes.c_size_t(size), ctypes.c_size_t(offset), at_end)
        if base is None:
            raise MemoryError(f"{name}: {size} bytes are more than the runner's arena holds")
        if data is not None:
            ctypes.memmove(base, data, size)
            lib.simt_make_last_readonly()
        names.append(name)
        if buffer["kind"] == "out":
            outputs[name] = (base, size)
        return lib.simt_pointer(ctypes.c_void_p(base))

    def pack(name: str, value) -> int:
        if value is None:
            return 0
        if isinstance(value, float):
            return struct.unpack("q", struct.pack("d", value))[0]
        if isinstance(value, dict):
            return place(name, value)
        if isinstance(value, list):
            keep.append((ctypes.c_void_p * 64)(*[place(f"{name}[{i}]", each) for i, each in enumerate(value)]))
            return ctypes.addressof(keep[-1])
        return int(value)

    slots = [pack(name, value) for name, value in arguments.items()]
    failure = call((ctypes.c_int64 * len(slots))(*slots), ctypes.c_size_t(len(slots)))
    counts = (ctypes.c_int64 * 11)()
    lib.simt_counts(counts)
    sectors = {name: (ctypes.c_int64 * 2)() for name in names}
    launches = (ctypes.c_int64 * (6 * lib.simt_launches(None)))()
    lib.simt_launches(launches)
    for i, of_buffer in enumerate(sectors.values()):
        lib.simt_buffer_counts(i, of_buffer)
    return {
        "failure": failure and failure.decode(),
        "outputs": {
            name: base64.b64encode(ctypes.string_at(base, size)).decode() for name, (base, size) in outputs.items()
        },
        "counts": list(counts),
        "launches": [list(launches[i : i + 6]) for i in range(0, len(launches), 6)],
        "sectors": {name: list(of_buffer) for name, of_buffer in sectors.items()},
    }


if __name__ == "__main__":
    json.dump(execute(**json.load(sys.stdin)), sys.stdout)
