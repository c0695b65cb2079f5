"""OpenVINO: layers of a table by its own loader, files with their metadata, both in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latency import agent
from latency.measure import Protocol
from latency.runtimes import FileRuntime, Layer, time_modules
from supernet.export import formats, openvino
from supernet.families import layout
from supernet.model import Network
from tests.conftest import refused, tiny_space
from tests.test_export import skip_without


@pytest.fixture(autouse=True)
def installed() -> None:
    skip_without("xml")


def test_every_layer_runs_as_its_module_does(tmp_path):
    space = tiny_space(layers=2, act="hard_swish", squeeze_excite=True)
    runtime = FileRuntime("openvino", batch=2, cache=tmp_path)
    specs = {s.key: s for choices in layout(space).choices for s in choices if s.runs}
    jobs = [Layer(s.key, s.build(kernels="eager").eval(), s.input_shape) for s in specs.values()]
    for job, path in zip(jobs, runtime.convert(jobs).values(), strict=True):
        x = torch.randn(2, *job.shape)
        with torch.inference_mode():
            expected = job.module(x).numpy()
        got = openvino.FORMAT.run(path.read_bytes(), x.numpy())
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        noise = torch.from_numpy(agent.noise((2, *job.shape)))
        (timed,) = agent.load_openvino(path.read_bytes(), 1)().values()
        with torch.inference_mode():
            np.testing.assert_allclose(timed, job.module(noise).numpy(), rtol=1e-4, atol=1e-5)
    samples = time_modules(runtime, jobs[:2], Protocol(rounds=2, visit_ms=0.1, warmup_runs=1, warmup_ms=0, attempts=0))
    assert all(sample.median_ms > 0 for sample in samples.values())
    about = runtime.describe()
    assert (about["name"], about["delegate"]) == ("openvino", "CPU, float32")
    assert "openvino" in about["form"]
    assert FileRuntime(about["name"], **about["options"], batch=2).describe() == about


def test_metadata_lie_in_the_file(tmp_path):
    """Also where it is alone, and for any number of images."""
    network = Network(tiny_space(), (0, 3, 2), kernels="eager").eval()
    path, told = tmp_path / "net.xml", {"classes": ["a & b", "<c>"], "accuracy": None}
    options = formats.Options(any_batch=True)
    assert formats.export(network, network, path, network.input_shape, told, 1, options) <= formats.TOLERANCE
    (tmp_path / "net.xml.json").unlink()
    assert formats.read_metadata(path) == told
    x = np.random.default_rng(0).standard_normal((5, *network.input_shape), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).numpy()
    got = formats.of(path).load(formats.of(path).read(path))(x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    path.write_text("<net>")
    assert "net.xml is no network that was exported here" in refused(formats.read_metadata, path)
