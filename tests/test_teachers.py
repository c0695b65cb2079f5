"""What a network learns from besides the labels: which teachers there are, what the loss is, who is refused."""

import sys

import pytest
import torch
from test_own_network import DIGITS, NETWORK
from torch import nn
from torch.nn import functional as F

from supernet import teachers
from supernet.extremes import largest
from supernet.families.given import source
from supernet.runs import RunFolder
from supernet.size import Size
from supernet.training.rules import Taught
from tests.conftest import refused
from tests.forks import forks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A run of a given network that nothing was trained in, and the network."""
    folder = tmp_path_factory.mktemp("teachers")
    code = folder / "a_network.py"
    code.write_text(NETWORK)
    sys.path.insert(0, str(folder))
    try:
        from a_network import network
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(0)
    model = network(channels=1).eval()
    torch.save(model.state_dict(), folder / "mine.pt")
    where = ("--space", f"{code}:network", "--run", folder / "run")
    made = forks().run("train_supernet", *where, "--weights", folder / "mine.pt", *DIGITS, "--epochs", "0")
    assert made.returncode == 0, made.stderr
    assert "stay whole" in made.stdout
    return RunFolder(folder / "run", space_code=f"{code}:network"), model, where


def opened(run, name, file=None):
    return teachers.opened(run, str(name), file, CPU, "eager")


def test_the_given_network_and_the_supernets_largest(mine):
    """Both are the network here; the second one's BN has the statistics of training images."""
    run, model, _ = mine
    x = torch.rand(8, 1, 28, 28)
    given, trained = opened(run, "given"), opened(run, "supernet")
    torch.testing.assert_close(given(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in given.parameters())
    assert not given.training
    assert not trained.training
    images, _ = next(iter(run.images().train.plain_batches(256)))
    model.train()  # by batch statistics of some of these images
    assert torch.corrcoef(torch.stack([trained(images).flatten(), model(images).flatten()]))[0, 1] > 0.99
    model.eval()


def test_a_network_of_a_registry_with_weights(mine, tmp_path):
    import timm

    run, *_ = mine
    wanted = timm.create_model("mobilenetv3_small_050", in_chans=1, num_classes=10).eval()
    torch.save(wanted.state_dict(), tmp_path / "w.pt")
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(opened(run, "timm:mobilenetv3_small_050", tmp_path / "w.pt")(x), wanted(x))
    assert "needs weights that know the images" in refused(opened, run, "timm:mobilenetv3_small_050")
    other = timm.create_model("mobilenetv3_small_050", in_chans=1, num_classes=7)
    torch.save(other.state_dict(), tmp_path / "w.pt")
    told = refused(opened, run, "timm:mobilenetv3_small_050", tmp_path / "w.pt")
    assert "has classifier.weight of 7×1024, expected 10×1024" in told


@pytest.mark.parametrize("left_out", [True, False])
def test_what_a_teacher_does_not_run_need_not_fit(mine, tmp_path, monkeypatch, left_out):
    """Auxiliary heads, and how many batches a norm has seen."""
    run, *_ = mine

    def make(name, *images, of=source.make):
        return Auxiliary(10).eval() if name == "timm:resnet18" else of(name, *images)

    monkeypatch.setattr(source, "make", make)
    wanted = Auxiliary(10, more=5).eval()
    state = {k: v for k, v in wanted.state_dict().items() if not (left_out and ("more" in k or "num_" in k))}
    torch.save(state, tmp_path / "w.pt")
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(opened(run, "timm:resnet18", tmp_path / "w.pt")(x), wanted(x))
    torch.save({k: v for k, v in state.items() if k != "norm.running_mean"}, tmp_path / "w.pt")
    assert "has no norm.running_mean" in refused(opened, run, "timm:resnet18", tmp_path / "w.pt")


class Auxiliary(nn.Module):
    """A second head for its training; attention, whose last layer is never called. It cannot be traced."""

    def __init__(self, classes, more=None):
        super().__init__()
        self.norm, self.attention = nn.BatchNorm2d(1), nn.MultiheadAttention(28, 2, batch_first=True)
        more = more or classes
        self.head, self.more = nn.Linear(28, classes), nn.Sequential(nn.Linear(28, more), nn.BatchNorm1d(more))

    def forward(self, x):
        x = self.norm(x)[:, 0] if x.sum() >= 0 else x[:, 0]
        x = self.attention(x, x, x)[0].mean(1)
        return (self.head(x), self.more(x)) if self.training else self.head(x)


def test_a_teacher_that_does_not_run_on_the_images(mine, tmp_path):
    run, *_ = mine
    model = source.make("timm:inception_v3", 1, Size.of(28), 10)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert "timm:inception_v3 does not run on 1×28² images" in refused(
        opened, run, "timm:inception_v3", tmp_path / "w.pt"
    )


def test_a_teacher_that_is_nowhere(mine, tmp_path):
    run, *_ = mine
    told = refused(opened, run, str(tmp_path / "nowhere"))
    assert told.startswith(f"no teacher {tmp_path / 'nowhere'}: expected supernet, given, timm:NAME")


def test_half_of_the_loss_is_the_divergence():
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    rule = Taught(Anything(student), teacher)
    logits, loss = rule.learn(0, 0, None, x, y)
    p, q = teacher(x).softmax(1), student(x).softmax(1)
    expected = (F.cross_entropy(student(x), y) + (p * (p.log() - q.log())).sum(1).mean()) / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits, student(x))
    loss.backward()
    assert teacher.weight.grad is None


class Anything(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, arch=None):
        return self.layer(x)


def test_networks_of_a_run_learn_from_it(mine, tmp_path):
    """A network of the same run then teaches; what cannot be is refused before a folder is made."""
    run, _, where = mine
    small = tmp_path / "small.json"
    small.write_text(f'{{"arch": {[open_[0] for open_ in run.space().allowed]}}}')
    options = (*where, "--arch-config", small, "--limit", "200", "--epochs", "1")
    for wrong, expected in [
        (("--teacher", tmp_path / "nothing"), "nothing"),
        (("--teacher-weights", "w.pt"), "of no teacher"),
        (("--teacher", "given", "--teacher-weights", "w.pt"), "only networks of timm and torchvision"),
    ]:
        result = forks().run("retrain", *options, *wrong)
        assert result.returncode == 2
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
        assert not run.network("config").path.exists()
    logs = []
    for more in ((), ("--teacher", "given"), ("--teacher", "given", "--inherit")):
        result = forks().run("retrain", *options, *more)
        assert result.returncode == 0, result.stderr
        logs.append(run.network("config").metrics.read()[-1]["loss"])
    assert len(set(logs)) == 3
    assert run.network("config").config()["lr"] == pytest.approx(0.02)
    network = teachers.opened(run, str(run.network("config").path), None, CPU, "eager")
    assert network(torch.rand(1, 1, 28, 28)).shape == (1, 10)
    assert tuple(network.arch) != largest(run.space())
