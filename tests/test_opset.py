"""Older opsets of ONNX: the same numbers, by operators that these have; what they lack is named."""

import numpy as np
import pytest
import torch
from torch import nn

from supernet.errors import UserError
from supernet.export import onnx
from supernet.export.base import Options
from supernet.model import Network
from tests.conftest import SMALL_SPACES, tiny_space
from tests.test_export import skip_without


def converted(module: nn.Module, shape: tuple[int, int, int], opset: int, any_batch: bool = False):
    """The model, checked; what it gives for two images, and what the module gives."""
    skip_without("onnx")
    import onnx as format_of_files

    (file,) = onnx.convert([module.eval()], [shape], 2, Options(any_batch, opset))
    model = format_of_files.ModelProto.FromString(file)
    format_of_files.checker.check_model(model, full_check=True)
    x = torch.randn(2, *shape)
    with torch.inference_mode():
        return model, onnx.FORMAT.run(file, x.numpy()), module(x).numpy()


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_networks(opset):
    """With squeeze-excite and hard swish, for any number of images: shapes are computed in the graph then."""
    space = tiny_space(act="hard_swish", squeeze_excite=True)
    torch.manual_seed(0)
    network = Network(space, (0, 3, 2), kernels="eager")
    model, got, expected = converted(network, network.input_shape, opset, any_batch=True)
    assert [one.version for one in model.opset_import if not one.domain] == [opset]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert ("HardSwish" in {node.op_type for node in model.graph.node}) == (opset >= 14)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.chain
@pytest.mark.parametrize("name", SMALL_SPACES)
def test_every_space(name):
    space = SMALL_SPACES[name]()
    torch.manual_seed(0)
    network = Network(space, tuple(open_[-1] for open_ in space.allowed), kernels="eager")
    _, got, expected = converted(network, network.input_shape, 13)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x)


def test_what_has_no_counterpart_is_named():
    with pytest.raises(UserError, match="LayerNormalization of this network cannot be written in opset 16: take a"):
        converted(Normalised(), (1, 4, 4), 16)
    converted(Normalised(), (1, 4, 4), 17)
