"""Files on 8-bit values of every runtime that is installed: how near they are, layers kept as floats, layers alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_export import QUIETED, skip_without

from latency import agent, converter, runtimes
from latency.converter import SUFFIXES
from supernet import spaces
from supernet.errors import UserError
from supernet.export import formats, int8
from supernet.export.base import unpack
from supernet.families import lower

pytestmark = pytest.mark.chain
CASES = [pytest.param(name, marks=QUIETED.get(name, ())) for name in int8.FORMATS]
ARCH = (1, 3, 1, 3, 2, 1)  # with a max pooling


@pytest.fixture(scope="module")
def network():
    return runtimes.whole(spaces.get("mobile-small", 1, 28, 10), ARCH, "eager").eval()


@pytest.mark.parametrize("suffix", CASES)
def test_near_and_nearer_with_floats(network, suffix):
    """Quantised it is off a little; with the layers as floats that the file is said to keep, it is not."""
    skip_without(suffix)
    noise = np.random.default_rng(0)
    batches = [noise.standard_normal((2, 1, 28, 28), dtype=np.float32) for _ in range(32)]
    quantiser = int8.FORMATS[suffix].quantiser(network, (1, 28, 28), batches)
    x = batches[0]
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    names = [*network.named_path()]
    files = {kept: quantiser(names[:kept]) for kept in (0, 4, len(names))}
    off = {kept: formats.relative_difference(formats.FORMATS[suffix].load(f)(x), expected) for kept, f in files.items()}
    assert 1e-3 < off[0] < 0.15
    assert off[len(names)] < 1e-4
    assert 1e-3 < off[4] < 0.15
    size = {kept: len(unpack(f, "bin")[0] if suffix == "xml" else f) for kept, f in files.items()}  # not the text
    assert size[0] < size[4] < size[len(names)]
    assert size[0] < 0.5 * size[len(names)]


@pytest.mark.parametrize("suffix", CASES)
def test_layers_alone_take_bytes(network, suffix, monkeypatch):
    skip_without(suffix)
    if int8.FORMATS[suffix].layers is None:
        pytest.skip("it has no tables of layers")
    runtime = next(name for name, own in SUFFIXES.items() if own == suffix)
    seen = []
    noise = agent.noise
    monkeypatch.setattr(agent, "noise", lambda *how: seen.append(noise(*how)) or seen[-1])
    specs = [*dict.fromkeys(lower(network.space, ARCH))][::3]
    inner = [spec.in_channels != 1 for spec in specs]
    modules, shapes = [s.measured("eager") for s in specs], [s.input_shape for s in specs]
    for file in int8.FORMATS[suffix].layers(modules, shapes, 1, inner):
        agent.LOADERS[runtime](file, 1)()
    assert [x.dtype.itemsize for x in seen] == [1 if within else 4 for within in inner]


def test_a_runtime_without_int8():
    with pytest.raises(UserError, match=r"openvino runs layers of float32: int8 runs in onnxruntime"):
        converter.require_precision("openvino", "int8")
