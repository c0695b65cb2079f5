"""docs/own-network.md, command by command, on small images and for short trainings."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet import spaces
from supernet.export import formats
from supernet.model import Network, load_network
from supernet.runs import RunFolder
from supernet.training import checkpoint
from tests import pages
from tests.forks import forks

DIGITS = ("--data", "digits", "--limit", "300")
SHORT = {
    "count": ("--resolution", "28"),
    "train_supernet": (*DIGITS, "--epochs", "1"),
    "build_lut": ("--runtime", "torch"),
    "evolve": ("--population", "8", "--iterations", "1", "--random", "2"),
    "retrain": ("--epochs", "1", "--controls", "0", "--limit", "300"),
    "export": (),
}
NETWORK = """
import torch
from torchvision.models.mobilenetv2 import Conv2dNormActivation, InvertedResidual

class Small(torch.nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        blocks = [InvertedResidual(8, 16, 2, 2), InvertedResidual(16, 16, 1, 2), InvertedResidual(16, 16, 1, 2)]
        self.features = torch.nn.Sequential(Conv2dNormActivation(channels, 8, stride=2), *blocks)
        self.classifier = torch.nn.Linear(16, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))

def network(channels=3, classes=10):
    return Small(channels, classes)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with ``my_network.py`` and ``mine.pt``; gives the module."""
    (tmp_path / "my_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_network")
    torch.manual_seed(0)
    torch.save(module.network(channels=1).state_dict(), "mine.pt")
    yield module
    del sys.modules["my_network"]


@pytest.mark.chain
def test_the_page(tmp_path, mine):
    commands = pages.commands("own-network.md")
    assert list(dict.fromkeys(command.tool for command in commands)) == list(SHORT)
    list(pages.run(commands, tmp_path, SHORT))
    network = load_network(tmp_path / "runs" / "mine" / "best", make=mine.network)
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert (tmp_path / "runs" / "mine" / "best.onnx").exists()
    assert {path.suffix for path in (tmp_path / "runs" / "mine").glob("best.*")} == {".onnx", ".py", ".pt", ".json"}


def test_the_python_of_the_page(own_file, tmp_path, monkeypatch):
    """Of its own network, cut at random, where ``retrain.py`` leaves one."""
    code, loading, detecting = pages.blocks("own-network.md", "python")
    path = own_file("my_network.py", code)
    space = spaces.get(f"{path}:network", 3, 64, 10)
    network = Network(space, space.sample(np.random.default_rng(0)), kernels="eager").eval()
    monkeypatch.chdir(tmp_path)
    meta = {"kind": "network", "space": space.to_json(), "arch": list(network.arch)}
    checkpoint.save(Path("runs/mine/best/checkpoint.pt"), {"model": network.state_dict(), "meta": meta})
    formats.export(network, network, path.with_name("best.py"), (3, 64, 64), {})
    x, there = torch.randn(2, 3, 64, 64), {}
    exec(loading, there)
    exec(detecting, there)
    with torch.no_grad():
        torch.testing.assert_close(there["network"](x), network(x), rtol=1e-4, atol=1e-5)
    detector = there["detector"].train()
    detector.transform.min_size, detector.transform.max_size = (64,), 64
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    assert torch.isfinite(sum(detector([*x], [target, target]).values()))


@pytest.mark.chain
def test_weights_are_searched_as_they_are(tmp_path, mine):
    """Without training; other spaces must be trained."""
    run, code = tmp_path / "run", ("--space", tmp_path / "my_network.py:network")
    result = forks().run(
        "train_supernet", *code, "--weights", tmp_path / "mine.pt", *DIGITS, "--epochs", "0", "--run", run
    )
    assert "not trained: the weights as they are" in result.stdout
    result = forks().run("evolve", *code, "--run", run, "--flops-max", "1e9", *SHORT["evolve"])
    assert result.returncode == 0, result.stderr
    assert "--pick best --inherit" in result.stdout.split("next: ")[1]
    alone = ("--controls", "0", "--limit", "300")
    result = forks().run("retrain", *code, "--run", run, "--inherit", "--epochs", "0", *alone)
    assert result.returncode == 0, result.stderr
    part = load_network(run / "best", make=mine.network).plain()
    conv, bn = (part.get_submodule(f"features.0.{place}") for place in (0, 1))
    train = RunFolder(run, space_code=str(code[1])).images(limit=300).train
    with torch.no_grad():
        x, _ = next(train.plain_batches(len(train)))
        torch.testing.assert_close(bn.running_mean, conv(x).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert "--epochs 0: expected at least 1" in forks().run("train_supernet", *DIGITS, "--epochs", "0").stderr
