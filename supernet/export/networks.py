"""The networks of a run that can be exported, and the files that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from supernet import families, files
from supernet.errors import UserError
from supernet.export import formats
from supernet.methods import spos
from supernet.model import Network, Supernet
from supernet.runs import RunFolder
from supernet.space import Arch, Space
from supernet.training.bn import recalibrate_bn


class Found(NamedTuple):
    """A network to be written."""

    arch: Arch
    network: Network  # eager, in eval mode
    reference: Callable[[Tensor], Tensor]  # what it was extracted from
    accuracy: dict[str, float | None]  # test and validation, in [0, 1]; None where it was not measured


def trained(run: RunFolder, space: Space, pick: str) -> Found:
    """The network in the folder ``pick`` of a run; one that the search trained, as DSNAS's child, is not tested.

    Raises:
        UserError: there is none, or it was trained for an earlier search.
    """
    own = run.network(pick)
    network = own.trained(space)
    if run.front_path.exists() and run.stale(pick, network.arch, run.front(space)):
        raise UserError(
            f"{own.path} was trained for an earlier search, the front has another network for {pick} now",
            missing="network",
        )
    read = files.read_json(own.result_path, "result", missing="network") if own.result_path.exists() else {}
    accuracy = {"test": read.get("test_accuracy"), "validation": read.get("val_accuracy")}
    return Found(network.arch, network, network, accuracy)


def from_supernet(
    run: RunFolder,
    space: Space,
    arch: Arch,
    recalibration: tuple[int, int],
    data_root: Path | None = None,
    workers: int = 0,
) -> Found:
    """An architecture with the supernet's weights; the reference is the supernet's own path.

    Args:
        recalibration: batches and images per batch that its BN statistics are taken from.
        workers: processes that decode the images.
    """
    cpu = torch.device("cpu")
    supernet = run.supernet(space, cpu, run.kernels(cpu))
    images = run.images(data_root, workers=workers)
    return recalibrated(supernet, space.check(arch), spos.recalibration_images(images, *recalibration))


def recalibrated(supernet: Supernet, arch: Arch, images: Iterable[Tensor]) -> Found:
    """A path of a supernet, which is left with the BN statistics of these images; its accuracy is not known."""
    recalibrate_bn(supernet.eval(), images, arch)
    return Found(arch, supernet.extract(arch), lambda x: supernet(x, arch), {"test": None, "validation": None})


def write(
    run: RunFolder, space: Space, found: Found, path: Path, batch: int, latency_ms: float | None, lut: Mapping | None
) -> float:
    """Write the network with what is known of it, as ``formats.export`` does; returns the difference of its logits.

    Args:
        latency_ms: predicted. lut: which table predicted it, in plain JSON.
    """
    shape = families.input_shape(space, found.arch)
    metadata: dict[str, Any] = {
        "schema": 1,
        "space": {"name": space.name, "fingerprint": space.fingerprint},
        "arch": list(found.arch),
        "layers": space.describe(found.arch),
        "input": [batch, *shape],
        "accuracy": found.accuracy,
        "latency_ms": latency_ms,
        "lut": lut,
        "made_from": run.origin(),
    }
    return formats.export(found.network, found.reference, path, shape, metadata, batch)
