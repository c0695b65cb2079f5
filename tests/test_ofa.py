"""Progressive shrinking: phases, what each opens, its teacher, and how it resumes."""

from __future__ import annotations

import json

import pytest
import torch
from test_train import images
from torch.nn import functional as F

from supernet import spaces
from supernet.cli import train_supernet
from supernet.cli.methods import Ofa
from supernet.data.sets import TrainVal
from supernet.extremes import largest
from supernet.methods import ofa
from supernet.model import Supernet
from supernet.training.config import FitConfig
from tests.conftest import refused, tiny_space

CPU = torch.device("cpu")
PHASES = (
    ofa.Phase("largest", 1, 0.05),
    ofa.Phase("kernel", 1, 0.02, open={"kernel": 2}),
    ofa.Phase("rest", 1, 0.02, 2, {"depth": 9, "expand": 9, "width": 9}),
)


def elastic():
    return spaces.get("elastic-small", 1, 14, 10)


def data():
    return TrainVal(images(40), images(20, seed=1), 10, 1, 14, tuple("0123456789"))


def config(**more):
    fit = FitConfig(3, batch_size=10, lr=0.05, augment=False)
    return ofa.Config(fit, PHASES, kernels="eager", probes=1, **more)


def test_phases_open_the_largest_choices_first():
    space = elastic()
    first, second, third = ofa.spaces(space, PHASES)
    sizes = {
        gene.name: (len(a), len(b), len(c))
        for gene, a, b, c in zip(space.genes, first.allowed, second.allowed, third.allowed, strict=True)
    }
    assert sizes["resolution"] == (3, 3, 3)  # no phase names it
    assert sizes["stage1.kernel"] == (1, 2, 2)
    assert sizes["stage2.depth"] == (1, 1, 3)
    assert sizes["stage2.width"] == (1, 1, 3)
    assert third == space
    assert all(open_[-1] == len(gene.choices) - 1 for gene, open_ in zip(space.genes, first.allowed, strict=True))


def test_default_phases_have_all_epochs_and_open_everything_but_widths():
    phases = ofa.default_phases(59, 0.1)
    assert sum(phase.epochs for phase in phases) == 59
    assert min(phase.epochs for phase in phases) >= 1
    ofa.spaces(spaces.get("ofa-mobilenetv3", 3, 32, 10), phases)
    assert "at least 6" in refused(ofa.default_phases, 5, 0.1)


def test_a_path_learns_from_labels_and_from_the_teacher():
    space = elastic()
    model = Supernet(space, affine=True, kernels="eager").train()
    teacher = model.extract(largest(space)).train()
    rule = ofa.Taught(model, space, FitConfig(1, label_smoothing=0.0), 2, teacher, ratio=0.7)
    x, y = torch.randn(6, 1, 14, 14), torch.arange(6)
    arches = rule.paths(3, [(x, y)])
    assert len(arches) == 2
    assert arches == rule.paths(3, [(x, y)]) != rule.paths(4, [(x, y)])
    for place, arch in enumerate(arches):
        logits, loss = rule.learn(3, place, arch, x, y)
        p = F.softmax(teacher(x).detach(), 1)
        kl = (p * (p.log() - F.log_softmax(logits, 1))).sum(1).mean()
        torch.testing.assert_close(loss, F.cross_entropy(logits, y) + 0.7 * kl)


def test_a_run_that_stopped_in_a_phase_ends_as_one_that_did_not(tmp_path):
    steps = iter(range(100))

    def drive(training, validate, bar):
        while training.step < training.end:
            for _ in training.single_steps():
                if next(steps) == 6:  # in the second phase
                    training.save()
                    raise KeyboardInterrupt
        training.save()

    with pytest.raises(KeyboardInterrupt):
        ofa.run(elastic(), data(), config(), tmp_path / "stopped", CPU, drive=drive)
    assert not (tmp_path / "stopped" / "checkpoint.pt").exists()
    resumed = ofa.run(elastic(), data(), config(), tmp_path / "stopped", CPU).state_dict()
    whole = ofa.run(elastic(), data(), config(), tmp_path / "whole", CPU).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items() if "running" not in name)
    assert sorted(path.name for path in (tmp_path / "whole" / "phases").iterdir()) == ["kernel", "largest"]
    assert torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["meta"]["method"] == "ofa"


def test_the_first_phase_trains_only_the_largest_network(tmp_path):
    model = ofa.run(elastic(), data(), config(), tmp_path, CPU)
    first = torch.load(tmp_path / "phases" / "largest" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, torch.eye(len(value))) for name, value in first.items() if name.endswith("5to3"))
    assert any(
        name.endswith("5to3") and not torch.equal(value, torch.eye(len(value)))
        for name, value in model.state_dict().items()
    )


def test_files_of_phases(tmp_path):
    path = tmp_path / "phases.json"

    def written(*phases):
        path.write_text(json.dumps({"phases": list(phases)}))
        return path

    one = {"name": "all", "epochs": 2, "open": {"kernel": 1}}
    assert ofa.read_phases(written(one), 0.3) == (ofa.Phase("all", 2, 0.3, 1, {"kernel": 1}),)
    for bad, told in (
        ([{**one, "open": {"color": 1}}], "color"),
        ([{**one, "name": "../up"}], "letters"),
        ([one, one], "another name"),
        ([{**one, "epochs": 0}], "epochs"),
        ([{**one, "path": 2}], "phase all has path: expected epochs, lr, name, open, paths"),
        ([{**one, "paths": 1001}], "from 1 to 1000"),
        ([], "one phase"),
    ):
        assert told in (message := refused(ofa.read_phases, written(*bad), 0.3))
        assert "delete" not in message  # it is the user's


def test_a_later_phase_that_cannot_train_is_refused_before_the_first_one_trains():
    fine = ofa.Phase("largest", 9, 0.1)
    for late, more, told in (
        (ofa.Phase("late", 9, 0.0), {}, "phase late: lr 0.0: expected a number above 0"),
        (ofa.Phase("late", 2, 0.1), {"warmup_epochs": 3}, "phase late: 3 epochs of warm-up in 2"),
        (ofa.Phase("late", 9, 0.1), {"seed": 2**63 - 1}, "phase late: seed 9223372036854775808"),
    ):
        assert told in refused(ofa.Config, FitConfig(9, **more), (fine, late))


def test_what_cannot_shrink_is_refused(tmp_path):
    assert "not elastic" in refused(ofa.spaces, tiny_space(), PHASES)
    assert "width" in refused(
        ofa.spaces, elastic(), (*PHASES[:2], ofa.Phase("rest", 1, 0.1, 1, {"depth": 9, "expand": 9, "width": 2}))
    )


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Begins or continues a run by the command, without its training, with phases in a file of some name."""
    monkeypatch.setattr(Ofa, "train", lambda *arguments: None)
    monkeypatch.setattr(Ofa, "report", lambda *arguments: None)

    def begin(name, *phases):
        path = tmp_path / name
        path.write_text(json.dumps({"phases": list(phases)}))
        train_supernet.run(Ofa(run=tmp_path / "run", data="digits", phases=path))

    return begin


def test_a_run_is_of_the_content_of_its_phases_whatever_their_file_is_called(begun):
    first = {"name": "largest", "epochs": 1}
    rest = {"name": "rest", "epochs": 2, "open": {"kernel": 9, "depth": 9, "expand": 9, "width": 9}}
    begun("one.json", first, rest)
    begun("one.json", first, rest)
    begun("another.json", first, rest)
    told = refused(begun, "one.json", first, {**rest, "epochs": 3})
    assert "holds a run with other settings (phases: " in told
