"""A check of blocks from outside of this library, before anything is trained with them.

Counts and latency keys of a layer follow from its ``convs``, the network from its module: here the two must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from supernet import families
from supernet.errors import UserError
from supernet.norm import BatchNorm
from supernet.plugins import Plugin, reason
from supernet.space import Space
from supernet.spec import Conv, LayerSpec

TORCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check(space: Space, plugin: Plugin) -> None:
    """Build and run each distinct layer of ``space`` that has an operation of its own.

    Raises:
        UserError: the space cannot be laid out, or a block contradicts itself; names ``plugin`` and the class.
    """
    with _saying(plugin.source, plugin):
        layers = dict.fromkeys(families.layout(space).every())
    for spec in layers:
        if spec.block in space.operations:
            where = f"{plugin.source}: {spec.block.__name__} as {spec.key}"
            _check_counts(spec, where, plugin)
            with torch.random.fork_rng(devices=[]):
                _check_module(spec, where, plugin)


def _check_counts(spec: LayerSpec, where: str, plugin: Plugin) -> None:
    with _saying(f"{where}: convs", plugin):
        convs = spec.convs
    named = isinstance(convs, dict) and all(isinstance(name, str) for name in convs)
    if not named or not all(isinstance(conv, Conv) for conv in convs.values()):
        raise UserError(f"{where}: convs gives {convs!r:.80}, expected a dict of supernet.spec.Conv by name")
    for name in convs:
        with _saying(f"{where}: kept", plugin):
            kept = spec.block.kept(spec, name)
        if not isinstance(kept, int) or kept < 0:
            raise UserError(f"{where}: kept gives {kept!r:.80} for {name!r}, expected a number of values of at least 0")


def _check_module(spec: LayerSpec, where: str, plugin: Plugin) -> None:
    if not issubclass(spec.block, nn.Module):
        raise UserError(f"{where}: expected a subclass of supernet.spec.Block and of torch.nn.Module")
    with _saying(f"{where}: building it", plugin):
        module = spec.build(affine=True, kernels="eager")
    for name, part in module.named_modules():
        if isinstance(part, TORCH_NORMS) and not isinstance(part, BatchNorm):
            raise UserError(
                f"{where}: {name} is torch's {type(part).__name__}, whose statistics cannot be recalibrated; use "
                "supernet.norm.BatchNorm"
            )
    count = sum(parameter.numel() for parameter in module.parameters())
    if count != spec.params:
        raise UserError(
            f"{where}: its module has {count} parameters, its convs have {spec.params}; list every convolution, with "
            "its norm, bias and extra"
        )
    x = torch.randn(2, *spec.input_shape).contiguous(memory_format=torch.channels_last)
    expected = (2, spec.out_channels, *spec.out_size)
    for mode in ("train", "eval"):
        with torch.no_grad(), _saying(f"{where}: running it in {mode} mode", plugin):
            y = module.train(mode == "train")(x.clone())
        shape = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
        if shape != list(expected):
            raise UserError(f"{where}: gives {shape} in {mode} mode, expected {list(expected)} of {list(x.shape)}")


@contextmanager
def _saying(what: str, plugin: Plugin) -> Iterator[None]:
    """Whatever the code outside raises becomes one line that begins with ``what``."""
    try:
        yield
    except UserError as error:
        raise error.of(what) from error
    except Exception as error:
        raise UserError(f"{what} raised {reason(error, plugin.module.__file__)}") from error
