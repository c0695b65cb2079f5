"""Channel sorting of once-for-all (Cai et al. 2020, §3.3): the first channels of a slice become the important ones.

All tensors of a layer are permuted alike, so the largest network's function does not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch
from torch import Tensor, nn

from supernet.families.elastic import ElasticLayout
from supernet.families.elastic_blocks import ResNetD
from supernet.families.elastic_sharing import Elastic
from supernet.model import Supernet
from supernet.modules import ConvBN, InvertedBottleneck, SqueezeExcite
from supernet.space import Space


@torch.no_grad()
def sort_channels(model: Supernet, kept: Space | None = None) -> None:
    """Sort the middle channels of every block by the L1 norm of the weights that read them, the largest first.

    Args:
        model: of an elastic space.
        kept: choices that are trained already: the channels of each of its networks remain the first ones.
    """
    layout = model.layout
    assert isinstance(layout, ElasticLayout)
    stages = [list(stage.children()) for stage in model.layers]
    stages[0].insert(0, model.stem)
    for stage, block in layout.blocks():
        shared = stages[stage][block]
        assert isinstance(shared, Elastic)
        middles: set[int] = set()
        if kept is not None:
            genes = layout.deciding(stage, block)
            known = ElasticLayout(kept, layout.stages)
            middles = {known.layer(stage, block, arch).middle for _, arch in known.open(genes)}
        _sort(shared.layer, middles)


def _sort(layer: nn.Module, ends: Collection[int]) -> None:
    if isinstance(layer, InvertedBottleneck) and isinstance(layer.expand, ConvBN):
        depthwise, *between, project = layer.separable.children()
        assert isinstance(depthwise, ConvBN)
        assert isinstance(project, ConvBN)
        order = _order(project.conv.weight, ends)
        _outputs(layer.expand, order)
        _outputs(depthwise, order)
        for excite in between:
            assert isinstance(excite, SqueezeExcite)
            _permute(excite.reduce.weight, order, 1)
            _permute(excite.expand.weight, order, 0)
            if excite.expand.bias is not None:
                _permute(excite.expand.bias, order, 0)
        _permute(project.conv.weight, order, 1)
    elif isinstance(layer, ResNetD):
        for before, after in ((layer.spatial, layer.expand), (layer.reduce, layer.spatial)):
            order = _order(after.conv.weight, ends)
            _outputs(before, order)
            _permute(after.conv.weight, order, 1)


def _order(weight: Tensor, ends: Collection[int]) -> Tensor:
    """The input channels of a kernel ``[O, I, K, K]``, within each part up to one of ``ends`` the largest first."""
    importance = weight.abs().sum((0, 2, 3))
    places = sorted({0, *ends, len(importance)})
    parts = [
        start + importance[start:end].argsort(descending=True, stable=True) for start, end in itertools.pairwise(places)
    ]
    return torch.cat(parts)


def _outputs(layer: ConvBN, order: Tensor) -> None:
    for tensor in (
        layer.conv.weight,
        layer.conv.bias,
        *layer.bn.parameters(),
        layer.bn.running_mean,
        layer.bn.running_var,
    ):
        if tensor is not None:
            _permute(tensor, order, 0)


def _permute(tensor: Tensor, order: Tensor, axis: int) -> None:
    tensor.copy_(tensor.index_select(axis, order))
