"""Networks trained alone by a recipe: what is kept, that a stopped training goes on exactly, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_train import Killed, images
from torch import nn

from supernet import families, load_network, spaces
from supernet.data.sets import TrainVal
from supernet.model import Network
from supernet.training import checkpoint, standalone
from supernet.training.evaluation import evaluate
from supernet.training.standalone import AloneConfig
from tests.conftest import refused, tiny_space

ARCH = (0, 1, 1)
EVERYTHING = {
    "optimizer": "adamw",
    "lr": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
    "auto_augment": "rand",
    "drop_path": 0.3,
    "layer_decay": 0.8,
    "train_resolution": 9,
    "finetune_epochs": 1,
}


def data() -> TrainVal:
    return TrainVal(images(80), images(60, seed=1), 10, 1, 14, tuple("0123456789"))


class Teacher(nn.Module):
    """Teaches nothing in particular; ends the training in a step."""

    def __init__(self, until: float = float("inf")):
        super().__init__()
        self.until, self.calls, self.seen = until, 0, set[torch.Size]()

    def forward(self, x):
        if self.calls == self.until:
            raise Killed
        self.calls += 1
        self.seen.add(x.shape)
        return x.flatten(1)[:, :10]


def trained(folder: Path, teacher: nn.Module | None = None, epochs: int = 3, **recipe):
    cfg = AloneConfig(epochs, 20, checkpoint_minutes=0, **{"lr": 0.05, **recipe})
    return standalone.train(
        tiny_space(), ARCH, data(), cfg, folder, torch.device("cpu"), kernels="fused", teacher=teacher
    )


@pytest.mark.parametrize("kill_at", [2, 4, 9])
def test_stopped_and_resumed_is_as_never_stopped(tmp_path, kill_at):
    """Within the smaller images, between two epochs, and within the fine-tuning: bit for bit, the average too."""
    whole, log = trained(tmp_path / "whole", Teacher(), **EVERYTHING)
    with pytest.raises(Killed):
        trained(tmp_path / "parts", Teacher(kill_at), **EVERYTHING)
    resumed, again = trained(tmp_path / "parts", Teacher(), **EVERYTHING)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    first, second = (checkpoint.load(tmp_path / part / "checkpoint.pt") for part in ("whole", "parts"))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    assert {**log, "images_per_second": 0} == {**again, "images_per_second": 0}
    json.dumps(log)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_networks_learn_by_every_optimiser(tmp_path, optimizer):
    lr = {"sgd": 0.05, "adamw": 0.01, "lamb": 0.02}[optimizer]
    network, last = trained(tmp_path, epochs=20, optimizer=optimizer, lr=lr, augment=False)
    assert last["val_accuracy"] > 0.5  # chance is .1
    assert evaluate(network, data().val.plain_batches(30)) == last["val_accuracy"]
    assert last["val_images"] == 60
    assert last["val_accuracy_interval"][0] < last["val_accuracy"] < last["val_accuracy_interval"][1]


def test_what_is_kept_and_loaded_is_the_average(tmp_path):
    network, last = trained(tmp_path, ema=0.95)
    raw = checkpoint.load(tmp_path / "checkpoint.pt")["model"]
    loaded = load_network(tmp_path).state_dict()
    changed = 0
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded[name]), name
        changed += not torch.equal(value, raw[name])
    assert changed > len(raw) // 2
    assert any("running" in name and not torch.equal(loaded[name], raw[name]) for name in raw)
    assert evaluate(load_network(tmp_path), data().val.plain_batches(30)) == last["val_accuracy"]


def test_first_epochs_see_smaller_images_and_the_last_ones_all_of_them(tmp_path, monkeypatch):
    seen = []
    whole = Network.forward

    def forward(self, x, arch=None):
        if self.training:
            seen.append(tuple(x.shape[2:]))
        return whole(self, x, arch)

    monkeypatch.setattr(Network, "forward", forward)
    trained(tmp_path, train_resolution=9, finetune_epochs=1)
    assert seen == [(9, 9)] * 8 + [(14, 14)] * 4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"warmup_epochs": 4.0}, "4 epochs of warm-up in 3"),
        ({"optimizer": "rmsprop"}, "optimizer rmsprop: expected sgd, adamw, lamb"),
        ({"schedule": "triangle"}, "expected linear, cosine, step"),
        ({"mixup": -1.0}, "mixup -1.0: expected at least 0"),
        ({"layer_decay": 1.5}, "layer decay 1.5: expected above 0, at most 1"),
        ({"label_smoothing": 1.0}, "label smoothing 1.0: expected at least 0, below 1"),
        ({"ema": 1.0}, "expected numbers from 0 to below 1"),
        ({"drop_path": -0.1}, "expected numbers from 0 to below 1"),
        ({"auto_augment": "rand", "augment": False}, "without augmentation"),
        ({"finetune_epochs": 1}, "1 fine-tuning epoch needs a smaller training resolution before it"),
        ({"train_resolution": 9, "finetune_epochs": 4}, "4 fine-tuning epochs in 3 epochs: expected 1 or more, and"),
        ({"train_resolution": 9, "finetune_epochs": 3}, "and some before them"),  # nothing would be smaller
    ],
)
def test_settings_that_cannot_be_are_refused(settings, expected):
    assert expected in refused(AloneConfig, 3, **settings)


def test_networks_that_cannot_be_trained_so_are_refused():
    space = tiny_space()

    def told(space, arch=ARCH, **settings):
        return refused(standalone.require, space, arch, AloneConfig(3, **settings))

    smaller = {"finetune_epochs": 1}
    assert "below the run's, 14" in told(space, train_resolution=14, **smaller)
    several = families.with_resolutions(space, (9, 12, 14))
    assert "gene for the resolution" in told(several, (0, *ARCH), train_resolution=9, **smaller)
    given = spaces.get("timm:vit_tiny_patch16_224", 3, 64, 10)
    assert "does not take it" in told(
        given, given.genes and tuple(0 for _ in given.genes), train_resolution=40, **smaller
    )
    shuffle = spaces.get("shufflenet-small", 1, 28, 10)
    assert "shufflenet-small" in told(shuffle, (0,) * len(shuffle.genes), drop_path=0.1)
    standalone.require(space, ARCH, AloneConfig(3, drop_path=0.1, train_resolution=9, **smaller))
