"""Networks that others published, by name: each is one network of a space. No torch.

What no space of ours holds is a network of a registry, which makes a space with that network as its largest;
``docs/spaces.md`` says which is where, and why.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Reference(NamedTuple):
    """A published network: its space, as ``spaces.get`` takes it, and itself, as ``configurations.arch`` takes it."""

    space: str
    configuration: Any


# AttentiveNAS's published configurations: resolution; widths of stem, stages, head; of the stages depths, kernels,
# expansions.
ATTENTIVE = """
a0  192  16 16 24 32 64 112 192 216 1792  1 3 3 3 3 3 1  3 3 3 3 3 3 3  1 4 4 4 4 6 6
a1  224  16 16 24 32 64 112 192 216 1984  1 3 3 3 3 3 1  3 3 3 5 3 5 3  1 4 4 4 4 6 6
a2  224  16 16 24 32 64 112 200 224 1984  1 3 3 3 3 4 1  3 3 3 3 3 5 3  1 4 5 4 4 6 6
a3  224  16 16 24 32 64 112 208 224 1984  2 3 3 4 3 5 1  3 3 3 5 3 3 3  1 4 4 4 4 6 6
a4  256  16 16 24 32 64 112 192 216 1984  1 3 3 4 3 5 1  3 3 3 5 3 5 3  1 4 4 5 4 6 6
a5  256  16 16 24 32 72 112 192 216 1792  1 3 3 3 4 6 1  3 3 3 5 3 3 3  1 4 5 4 4 6 6
a6  288  16 16 24 32 64 112 216 224 1984  1 3 3 4 4 6 1  3 3 3 3 3 5 3  1 4 6 5 4 6 6
"""


def _attentive(line: str) -> tuple[str, Reference]:
    tag, *words = line.split()
    n = [int(word) for word in words]
    parts = {"resolution": n[0], "width": n[1:10], "depth": n[10:17], "kernel": n[17:24], "expand": n[24:]}
    return f"attentivenas-{tag}", Reference("attentive-nas", parts)


NETWORKS: dict[str, Reference] = {
    # Guo et al., "Single Path One-Shot NAS": the README of their code.
    "spos": Reference("shufflenet", {"arch": [2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3]}),
    # Cai et al., "ProxylessNAS": the network for mobile phones.
    "proxylessnas-mobile": Reference(
        "mobile", {"arch": [0, 2, 1, 0, 0, 4, 1, 3, 3, 5, 3, 3, 3, 3, 3, 3, 3, 5, 6, 5, 5, 5]}
    ),
    **dict(_attentive(line) for line in ATTENTIVE.strip().splitlines()),
    "mobilenet-v2": Reference("torchvision:mobilenet_v2", "max"),
    "mobilenet-v3-large": Reference("torchvision:mobilenet_v3_large", "max"),
    "mobilenet-v3-small": Reference("torchvision:mobilenet_v3_small", "max"),
    "mnasnet-a1": Reference("timm:semnasnet_100", "max"),
    "mnasnet-b1": Reference("torchvision:mnasnet1_0", "max"),
    "fbnet-c": Reference("timm:fbnetc_100", "max"),
}
