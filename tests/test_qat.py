"""Fine-tuning by fake quantisation: a step of it, and what is refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from supernet.export import networks
from supernet.export.card import Accuracy
from supernet.model import Network
from supernet.retraining import Job, Settings, plain_kernels, prepare, trained_before
from supernet.runs import RunFolder
from supernet.training.fake_int8 import FakeInt8
from supernet.training.loop import FitConfig, fit
from tests.conftest import refused, tiny_space
from tests.test_int8 import labelled

ARCH = (0, 2, 3)


def trained(tmp_path, qat: bool) -> Network:
    """One step from the same weights."""
    torch.manual_seed(0)
    network = Network(tiny_space(), ARCH, kernels="eager")
    images = labelled(network.eval(), 16, 1)
    plain = {"momentum": 0, "weight_decay": 0, "label_smoothing": 0, "augment": False}
    cfg = FitConfig(1, batch_size=16, lr=0.1, qat=qat, **plain)
    fit(network.train(), images, lambda step: None, cfg, tmp_path, meta={})
    return network


def test_a_step_follows_the_rounded_network(tmp_path):
    """Plain gradient descent, with a learning rate of 0.1, on the loss under fake quantisation."""
    torch.manual_seed(0)
    network = Network(tiny_space(), ARCH, kernels="eager")
    images = labelled(network.eval(), 16, 1)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    (x, y), *_ = images.batches(16, seed=0, epoch=0, augment=False, drop_last=True)
    with FakeInt8():
        F.cross_entropy(network.train()(x), y).backward()
    learnt = trained(tmp_path, qat=True).state_dict()
    for name, parameter in network.named_parameters():
        assert torch.allclose(before[name] - learnt[name], 0.1 * parameter.grad, atol=1e-5)
    floats = trained(tmp_path / "floats", qat=False).state_dict()
    assert not torch.equal(learnt["head.classifier.weight"], floats["head.classifier.weight"])


def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path):
    trained(tmp_path, qat=False)
    assert "qat: False → True" in refused(trained, tmp_path, qat=True)


@pytest.mark.parametrize("settings", [{"inherit": True}, {"epochs": 0, "inherit": True}, {"precision": "bf16"}])
def test_settings(settings):
    assert "qat fine-tunes a trained network" in refused(Settings, qat=True, **settings)


def test_kernels_and_what_was_trained_before(tmp_path):
    assert plain_kernels("auto") == "eager"
    assert "plain PyTorch" in refused(plain_kernels, "fused")
    run = RunFolder(tmp_path)
    run.write_space(tiny_space())
    assert "no checkpoint at" in refused(trained_before, run, "best-int8", ARCH)


def test_learning_rates_are_those_of_given_weights():
    assert Settings(qat=True).fit.lr == pytest.approx(Settings().fit.lr / 10)
    assert Settings(qat=True).fit.qat
    assert not Settings().fit.qat


def test_as_floats_it_is_not_tested(tmp_path):
    """What its result has is by fake quantisation."""
    shutil.copytree(Path(__file__).parent / "data/v0.1/spos", tmp_path / "run")
    shutil.copytree(tmp_path / "run/best", tmp_path / "run/best-int8")
    run = RunFolder(tmp_path / "run")
    assert networks.trained(run, run.space(), "best").accuracy.test is not None
    assert networks.trained(run, run.space(), "best-int8").accuracy == Accuracy()


@pytest.mark.parametrize(
    ("settings", "of"),
    [({"qat": True}, "best"), ({"inherit": True}, ""), ({"teacher": "supernet"}, ""), ({"teacher": "{}"}, "random-0")],
)
def test_a_training_from_other_weights_is_another_one(tmp_path, settings, of):
    """Of the network before, the supernet, or a teacher that was trained anew since."""
    run = RunFolder(shutil.copytree(Path(__file__).parent / "data/v0.1/spos", tmp_path / "run"))
    given = {name: value if value is True else value.format(run.path / of) for name, value in settings.items()}
    job = Job(run, "best-int8", ARCH, Settings(**given), "cpu", "eager", None, 1, 0)
    aside: list[Path] = []
    for _ in range(2):
        prepare(job, lambda old, new: aside.append(new))
    config = run.network(job.name).config_path
    known = config.read_text()
    config.write_text(
        json.dumps({name: v for name, v in json.loads(known).items() if not name.endswith(("_with", "_by"))})
    )
    prepare(job, lambda old, new: aside.append(new))  # of a version that did not record them
    assert not aside
    config.write_text(known)
    (run.path / of / "checkpoint.pt").write_bytes(b"other weights")
    prepare(job, lambda old, new: aside.append(new))
    assert [path.name.startswith("best-int8-before-") for path in aside] == [True]
