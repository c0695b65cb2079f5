"""Two processes, or one in parts: the same path, gradients averaged on it, the same weights after every step."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import ranks
import torch
from test_nss import middle, toy
from test_residual import small
from test_train import images
from torch.nn import functional as F

from supernet import spaces
from supernet.data.images import MemoryImages
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.methods import dsnas, nss, ofa, spos
from supernet.model import Network, Supernet
from supernet.norm import BatchNorm
from supernet.space import Arch, Space
from supernet.training import distributed, paths, standalone
from supernet.training.config import learning_rate
from supernet.training.loop import FitConfig, fit
from supernet.training.optimizers import make
from supernet.training.standalone import AloneConfig
from tests.conftest import refused, tiny_space

CPU = torch.device("cpu")
available = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")


class Twins(MemoryImages):
    """Every second image of a batch is the one before it, so both ranks, and both parts of a batch, see the same ones.

    Then batch statistics do not depend on how a batch is split, and neither may the gradients.
    """

    def _serve(self, plan, mine, seed, epoch, augment):
        paired = ((t, positions[: len(positions) // 2].repeat(2)) for t, positions in plan)
        return super()._serve(paired, mine, seed, epoch, augment)


def twins(n: int = 80) -> Twins:
    plain = images(n)
    other = copy.copy(plain)
    other.__class__ = Twins
    return other


def sets(train: MemoryImages) -> TrainVal:
    return TrainVal(train, images(60, seed=1), 10, 1, 14, tuple("0123456789"))


def fit_config(**more) -> FitConfig:
    return FitConfig(epochs=2, batch_size=20, lr=0.05, augment=False, **more)


def train(method: str, folder: Path, **more) -> dict:
    """What a method's training ends with."""
    if method == "spos":
        model = spos.run(tiny_space(), sets(twins()), spos.Config(fit_config(**more), probes=2), folder, CPU)
        return model.state_dict()
    if method == "alone":  # a recipe, but for what draws for each image
        torch.manual_seed(0)
        recipe = {"mixup": 0.2, "cutmix": 1.0, "ema": 0.9, "layer_decay": 0.9, "schedule": "cosine"}
        smaller = {"train_resolution": 9, "finetune_epochs": 1}
        cfg = AloneConfig(**vars(fit_config(**more)) | recipe | smaller)
        network, _ = standalone.train(tiny_space(), PATH, sets(twins()), cfg, folder, CPU, kernels="eager")
        return network.state_dict()
    if method == "sandwich":  # parameters on the path of the largest network alone, and a choice among candidates
        rule = {"rule": "sandwich", "distil": "inplace", "draw": "best", "ema": 0.9}
        cfg = spos.Config(replace(fit_config(**more), lr=0.01), probes=1, **rule)  # four gradients add up
        return spos.run(spaces.get("elastic-small", 1, 14, 10), sets(twins()), cfg, folder, CPU).state_dict()
    if method == "ofa":
        shrinking = (ofa.Phase("largest", 1, 0.05), ofa.Phase("all", 1, 0.02, 2, dict.fromkeys(ofa.KINDS, 9)))
        # With some seeds a channel is constant: BN makes rounding of it, which a ReLU at 0 turns into gradients.
        cfg = ofa.Config(replace(fit_config(**more), seed=1), shrinking, probes=1)
        return ofa.run(spaces.get("elastic-small", 1, 14, 10), sets(twins()), cfg, folder, CPU).state_dict()
    if method == "dsnas":
        cfg = dsnas.Config(fit_config(**more), dsnas.Budget([[1.0] * 4] * 3), 2, arch_lr=0.1, stop_gap=2)
        dsnas.run(tiny_space(), sets(twins()), cfg, folder, CPU)
    if method == "nss":
        space, data = toy()
        data.train.__class__ = Twins
        cfg = nss.Config(fit_config(**more), (middle(space),), (2, 2), theta_lr=0.1)
        nss.run(space, data, cfg, folder, CPU)
        folder = next(folder.glob("elite-*"))
    distributed.wait()  # the first rank has written it
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    learnt = state["search"].get("theta", {}) or dict(enumerate(state["search"]["alpha"]))
    return state["model"] | {f"learnt {name}": value for name, value in learnt.items()}


METHODS = ("spos", "alone", "sandwich", "ofa", "dsnas", "nss")
PATH, NARROW = (0, 1, 2), (1, 1, 0, 2, 1, 0)


def synchronised(folder: Path) -> dict:
    """Batch statistics over both ranks."""
    torch.manual_seed(0)
    space, cfg = tiny_space(), fit_config(sync_bn=True)
    model = Supernet(space, affine=True, kernels="eager")
    fit(model, images(80), paths.uniform_path(space, 0), cfg, folder, meta={})
    return model.state_dict()


def halves(folder: Path) -> dict:
    """Batch statistics of each rank's own images."""
    torch.manual_seed(0)
    space = tiny_space()
    model = Supernet(space, kernels="eager")
    fit(model, images(80), paths.uniform_path(space, 0), fit_config(), folder, meta={})
    return model.state_dict()


def path_only(space: Space, arch: Arch) -> dict:
    """What travels in one step."""
    torch.manual_seed(distributed.rank())
    model = Supernet(space, kernels="eager").train()
    reducer = distributed.PathReducer(model, bucket=100)
    x = torch.randn(4, space.channels, space.resolution, space.resolution)
    reducer.arm()
    model(x, arch).sum().backward()
    own = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    flights = len(reducer.flights)
    reducer.finish()
    mean = {f"mean {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return own | mean | {"sent": torch.tensor(reducer.sent), "flights": torch.tensor(flights)}


def everything(folder: Path) -> dict:
    """All that the tests below look at, in one pair of processes, whose start takes longer than the rest."""
    found = {method: train(method, folder / method) for method in METHODS}
    found |= {"synchronised": synchronised(folder / "sync"), "halves": halves(folder / "halves")}
    found |= {"path only": path_only(tiny_space(), PATH), "slices only": path_only(small(), NARROW)}
    return found | {"resumed": train("spos", folder / "spos")}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    return ranks.two("test_distributed:everything", tmp_path_factory.mktemp("two"))


def require_close(found: dict, expected: dict) -> None:
    """All but running statistics, whose variance is the unbiased one of fewer images."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_without_torchrun_there_is_one_process():
    assert (distributed.rank(), distributed.world()) == (0, 1)


@available
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_end_with_one_model_bit_for_bit(two, method):
    first, second = (rank[method] for rank in two)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@available
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_in_one_process_in_two_or_in_two_parts(two, method, tmp_path):
    whole = train(method, tmp_path / "whole")
    require_close(two[0][method], whole)
    require_close(train(method, tmp_path / "parts", accumulate=2), whole)


@available
def test_synchronised_statistics_are_those_of_the_whole_batch(two, tmp_path):
    require_close(two[0]["synchronised"], synchronised(tmp_path))
    for name, value in synchronised(tmp_path / "again").items():  # and so are the running ones
        if "tracked" not in name:
            torch.testing.assert_close(two[0]["synchronised"][name], value, rtol=1e-3, atol=1e-5, msg=name)


@available
def test_two_ranks_equal_the_mean_of_two_halves_written_out(two):
    """Each half with its own BN statistics, gradients averaged."""
    torch.manual_seed(0)
    space, data, cfg = tiny_space(), images(80), fit_config()
    model = Supernet(space, kernels="eager").train()
    optimizer, pick, per_epoch = make(model, cfg), paths.uniform_path(space, 0), 4
    for step in range(8):
        optimizer.zero_grad()
        for rank in range(2):
            options = {"seed": 0, "epoch": step // 4, "start": step % 4, "augment": False, "drop_last": True}
            x, y = next(iter(data.batches(10, **options, rank=rank, world=2)))
            (F.cross_entropy(model(x, pick(step)), y, label_smoothing=0.1) / 2).backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step, per_epoch)
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(two[0]["halves"][name], p.detach(), rtol=1e-4, atol=1e-6, msg=name)


@available
@pytest.mark.parametrize(
    ("name", "space", "arch"), [("path only", tiny_space(), PATH), ("slices only", small(), NARROW)]
)
def test_only_the_path_travels_and_the_first_buckets_leave_during_backward(two, name, space, arch):
    """Of slices as many values as the network has that is extracted."""
    first, second = (rank[name] for rank in two)
    for name in (name for name in first if f"mean {name}" in first):
        torch.testing.assert_close(first[f"mean {name}"], (first[name] + second[name]) / 2, msg=name)
        assert torch.equal(first[f"mean {name}"], second[f"mean {name}"]), name
    model = Supernet(space, kernels="eager")
    norms = {id(m): m for module in model.path(arch) for m in module.modules() if isinstance(m, BatchNorm)}
    statistics = sum(2 * norm.num_features for norm in norms.values())
    gradients = sum(p.numel() for p in Network(space, arch, affine=False).parameters())
    assert int(first["sent"]) == gradients + statistics
    assert int(first["flights"]) > 1


@available
def test_a_training_finished_by_two_processes_is_finished_for_one(two, tmp_path_factory):
    for name, value in two[0]["spos"].items():
        assert torch.equal(two[0]["resumed"][name], value), name


def test_a_run_of_two_processes_goes_on_in_one(two, tmp_path_factory):
    """Steps do not depend on the number of processes, so nothing is trained again."""
    folder = tmp_path_factory.getbasetemp() / "two0" / "spos"
    before = torch.load(folder / "checkpoint.pt", weights_only=True)["step"]
    train("spos", folder)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == before == 8


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    for more, expected in (({"accumulate": 3}, "multiple of 3"), ({"accumulate": 0}, "at least 1")):
        model = Supernet(tiny_space(), kernels="eager")
        with pytest.raises(UserError, match=expected):
            fit(model, images(80), paths.uniform_path(tiny_space(), 0), fit_config(**more), tmp_path, meta={})
    assert "20 images" in refused(distributed.share, 20, 7)
