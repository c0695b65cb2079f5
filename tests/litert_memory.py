"""Records where LiteRT puts the tensors of a few networks: ``python tests/litert_memory.py`` (``make litert`` first).

Its reference kernels keep no scratch memory, as those for microcontrollers; its planner is the same for all.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from latency import runtimes
from supernet.export import int8_tflite
from tests.conftest import recorded_space

NETWORKS = {
    "mobile-small": (1, 3, 1, 3, 2, 1),
    "residual-small": None,
    "mobile-small, excited": None,
}
IMAGES = (1, 28)


def arena(file: bytes) -> int:
    """Bytes from the first to the last of all tensors that are no constants."""
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    own = model.subgraphs[0].tensors
    with warnings.catch_warnings(action="ignore"):
        interpreter = Interpreter(model_content=file, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    ends = []
    for i in (tensor["index"] for tensor in interpreter.get_tensor_details()):
        if i >= len(own) or model.buffers[own[i].buffer].data is None:
            values = interpreter.tensor(i)()
            start = values.__array_interface__["data"][0]
            ends += [start, start + values.nbytes]
    return max(ends) - min(ends)


def main() -> None:
    rows = []
    for name, arch in NETWORKS.items():
        space = recorded_space(name, *IMAGES)
        arch = arch or tuple(open_[-1] for open_ in space.allowed)
        network = runtimes.whole(space, arch, "eager")
        noise = [np.random.default_rng(0).standard_normal((1, *network.input_shape), dtype=np.float32)]
        quantiser = int8_tflite.quantiser(network, network.input_shape, noise)
        for precision, file in (("float32", quantiser.file), ("int8", quantiser())):
            known = {"space": name, "images": IMAGES, "arch": arch, "precision": precision}
            rows.append({**known, "arena": arena(file), "file": len(file)})
    made_by = "python tests/litert_memory.py, LiteRT 2.3.0, litert-torch 0.10.0"
    path = Path(__file__).parent / "data" / "litert_memory.json"
    path.write_text(json.dumps({"made_by": made_by, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
