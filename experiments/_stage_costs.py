"""What a network of stages costs, as the tables of Stage-Wise NAS have it: depth, counts, memory, time of an image."""

from __future__ import annotations

import copy
import timeit
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from supernet import families
from supernet.families import module_stages
from supernet.model import Network, load_network

MIB = 2**20
# Layers whose outputs count as memory; of a separable convolution, the pointwise part is the layer.
LAYERS = ("convolution", "native_batch_norm", "relu", "relu_", "add", "cat", "avg_pool2d", "max_pool2d_with_indices")


def facts(network: Network) -> dict[str, Any]:
    """Depth (convolutions; a separable one is one), modules, counts, memory in MiB of an image."""
    space, arch = network.space, network.arch
    convs = [spec.convs for spec in families.lower(space, arch)]
    names = [name for layer in convs for name, conv in layer.items() if conv.groups == 1 and not name.endswith("odd")]
    return {
        "modules": list(module_stages.depths(space, arch)),
        "depth": len([name for name in names if "classifier" not in name]),
        "params": families.params(space, arch),
        "flops": families.flops(space, arch),
        "memory": memory(network),
    }


class Outputs(TorchDispatchMode):
    """Counts the numbers that layers put out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name, first = func.overloadpacket.__name__, out[0] if isinstance(out, tuple) else out
        grouped = name == "convolution" and args[-1] > 1
        if name in LAYERS and not grouped:
            self.counts[name] += first.numel()
        return out


def memory(network: Network) -> float:
    """MiB of weights with BN's statistics and of what every layer puts out for one image, all in float32."""
    plain = copy.deepcopy(network).cpu().eval()
    space = network.space
    weights = sum(value.numel() for value in plain.state_dict().values() if value.is_floating_point())
    with torch.no_grad(), Outputs() as outputs:
        plain(torch.zeros(1, space.channels, *space.input_size))
    return 4 * (weights + sum(outputs.counts.values())) / MIB


def milliseconds(path: Path) -> float:
    """Median time of one image on one thread of the CPU, of 30 after five."""
    network = load_network(path).eval()
    x = torch.zeros(1, network.space.channels, *network.space.input_size)
    with torch.inference_mode():
        return 1e3 * float(np.median(timeit.repeat(lambda: network(x), repeat=35, number=1)[5:]))
