"""Operations that find channels by where they stand: kept whole, or cut to what zeros in the network itself leave."""

import numpy as np
import pytest
import torch
from conftest import refused
from test_given_trace import IMAGES, Small
from torch import nn
from torch.nn import functional as F

from supernet.families.given import family, sorting, verify
from supernet.families.given.layout import layout_of
from supernet.families.given.network import of, opened
from supernet.model import Supernet


class Between(Small):
    """Any function between two convolutions."""

    def __init__(self, function):
        super().__init__(10)
        self.register_buffer("order", torch.arange(31, -1, -1))
        self.add_module("module", function) if isinstance(function, nn.Module) else setattr(self, "function", function)

    def between(self, x):
        return self.module(x) if hasattr(self, "module") else self.function(self, x)


def space_of(name, function):
    return of(opened(f"places.py:{name}", *IMAGES, lambda: Between(function)))


WHOLE = {
    "local response norm": nn.LocalResponseNorm(5, alpha=1.0),
    "across maps": nn.CrossMapLRN2d(5, alpha=1.0),
    "a softmax of maps": nn.Softmax2d(),
    "a softmin": nn.Softmin(1),
    "shuffled by a module": nn.ChannelShuffle(4),
    "split by a module": nn.Sequential(nn.Unflatten(1, (2, 16)), nn.Flatten(1, 2)),
    "shuffled": lambda self, x: F.channel_shuffle(x, 4),
    "rolled": lambda self, x: x.roll(5, 1),
    "an average along the channels": lambda self, x: F.avg_pool2d(x.movedim(1, 3), 3, 1, 1).movedim(3, 1),
    "a maximum along the channels": lambda self, x: F.max_pool2d(x.movedim(1, 3), 3, 1, 1).movedim(3, 1),
    "a pooling of vectors": lambda self, x: F.avg_pool1d(x.flatten(2).mT, 3, 1, 1).mT.unflatten(2, (16, 16)),
    "an order in a buffer": lambda self, x: x[:, self.order],
    "one of them": lambda self, x: x[:, 20].unsqueeze(1) * x,
    "each of them": lambda self, x: torch.stack(x.unbind(1)[::-1], 1),
}
CUT = {
    "pooled": lambda self, x: F.max_pool2d(x, 3, 1, 1),
    "rolled along the image": lambda self, x: x.roll(5, 2),
    "turned around": lambda self, x: x.flip(1),
    "an order in the code": lambda self, x: x[:, [*range(31, -1, -1)]],
    "every third": lambda self, x: torch.cat([x[:, ::3], x[:, 1::3], x[:, 2::3]], 1),
    "in a view": lambda self, x: x.unflatten(1, (4, 8)).transpose(1, 2).flatten(1, 2),
    "halves": lambda self, x: torch.cat(x.tensor_split(2, 1)[::-1], 1),
    "parts that go together": lambda self, x: torch.cat(tensors=x.split([8, 24], 1)[::-1], dim=1),
    "parts on another axis": lambda self, x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_found_by_its_place_stays(name):
    space = space_of(name, WHOLE[name])
    assert [gene.name for gene in space.genes] == ["width second"]
    assert verify.difference(space) < 1e-9


@pytest.mark.parametrize("name", CUT)
def test_what_is_cut_is_what_zeros_leave(name):
    """With zeros for what goes, the network itself gives the logits of the part; sorted it gives its own."""
    space = space_of(name, CUT[name])
    layout = layout_of(space)
    assert "width first" in [gene.name for gene in space.genes]
    assert verify.difference(space) < 1e-9
    model, x = layout.network.new().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.double)
    supernet = Supernet(space, affine=True, kernels="eager").double().eval()
    family.load(supernet.shared, model.state_dict())
    rng = np.random.default_rng(0)
    for arch in [tuple(open_[0] for open_ in space.allowed), *(space.sample(rng) for _ in range(3))]:
        kept = layout.kept({i: layout.choice(i, arch).count for i in range(len(arch))})
        state = {key: value.clone() for key, value in model.state_dict().items()}
        for key, axes in layout.network.channels.weights.items():
            for axis, atoms in axes.items():
                state[key].movedim(axis, 0)[~torch.from_numpy(kept.places(atoms))] = 0
        zeros = layout.network.new().double().eval()
        zeros.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(supernet(x, arch), zeros(x))


def test_sorting_is_part_of_the_check(monkeypatch):
    """A network whose sorted channels give other logits is refused."""
    monkeypatch.setattr(sorting, "sort", lambda shared, layout: next(iter(shared.stem.parameters())).mul_(2))
    assert "differ by" in refused(verify.require, space_of("sorted otherwise", CUT["pooled"]))


def test_a_part_that_does_not_run_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("supernet.families.given.places.matter", lambda *args: False)
    message = refused(verify.require, space_of("without the rule", WHOLE["an order in a buffer"]))
    assert "cannot be cut: its smallest part raises IndexError: index " in message
