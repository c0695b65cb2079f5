"""Spaces and blocks from outside: they become operations, agree with themselves, and are never imported by a file."""

import json
import sys

import pytest
import torch

from supernet import families, spaces
from supernet.errors import UserError
from supernet.model import Network, Supernet, load_network
from supernet.space import Space
from supernet.spec import Block
from supernet.training import checkpoint
from tests.conftest import refused, tiny_space

BLOCK = """
import torch
from torch import nn

from supernet.modules import ConvBN, InvertedBottleneck
from supernet.norm import BatchNorm
from supernet.space import Choice, Gene, Space
from supernet.spec import Block, Conv


class Plain(Block, nn.Module):
    op = "plain"

    @staticmethod
    def convs(spec):
        conv = Conv(spec.in_channels, spec.out_channels, spec.kernel, spec.out_size, spec.stride, act=spec.act)
        return {"conv": conv}

    def __init__(self, spec, affine, eps, kernels):
        super().__init__()
        self.conv = ConvBN(self.convs(spec)["conv"], affine, eps, kernels)

    def forward(self, x):
        return self.conv(x)


def space(channels, resolution, classes):
    choices = (Choice("ib", 3, 2), Choice("plain", 3), Choice("plain", 5))
    genes = (Gene("layer0", choices, 8, 12, 2), Gene("layer1", choices, 12, 12, 1))
    return Space("mine", channels, resolution, classes, 8, 2, 16, "relu", genes, ((0, 1, 2),) * 2)
"""
IMAGES = (1, 14, 10)


def test_a_block_beside_the_function_is_an_operation(own_file):
    space = spaces.get(f"{own_file('my_space.py', BLOCK)}:space", *IMAGES)
    assert [block.__name__ for block in space.operations] == ["Plain"]
    # By hand: the 3×3 convolution from 12 to 12 channels on 4 × 4 pixels, and its BN.
    one, two = (families.layout(space).choices[1][i] for i in (1, 2))
    assert one.flops == 12 * 12 * 9 * 4**2
    assert one.params == 12 * 12 * 9 + 24
    assert one.activations == 2 * 12 * 4**2
    assert (one.key, two.key) == ("plain_k3_s1_relu 12x4x4->12", "plain_k5_s1_relu 12x4x4->12")
    supernet, x = Supernet(space, kernels="eager").eval(), torch.randn(2, *IMAGES[:1], 14, 14)
    assert torch.allclose(supernet(x, (1, 2)), supernet.extract((1, 2))(x))
    assert families.params(space, (1, 2)) == sum(p.numel() for p in Network(space, (1, 2)).parameters())


def test_the_check_leaves_the_random_state_alone(own_file):
    before = torch.get_rng_state()
    spaces.get(f"{own_file('my_space.py', BLOCK)}:space", *IMAGES)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_names_operations_and_starts_no_code(own_file, tmp_path):
    path = own_file("my_space.py", BLOCK)
    space = spaces.get(f"{path}:space", *IMAGES)
    file = tmp_path / "space.json"
    file.write_text(json.dumps(space.to_json()))
    assert "my_space" not in file.read_text()
    read = Space.load(file)
    assert (read, read.operations, read.fingerprint) == (space, (), space.fingerprint)
    for use in (lambda: families.layout(read), lambda: spaces.get(str(file), *IMAGES), lambda: Supernet(read)):
        message = refused(use)
        assert "'plain'" in message
        assert "give the space by its code, FILE.py:function" in message
    given = Space.load(file, operations=spaces.operations(f"{path}:space"))
    assert families.params(given, (1, 2)) == families.params(space, (1, 2))


def test_a_network_loads_with_its_operations(own_file, tmp_path):
    space = spaces.get(f"{own_file('my_space.py', BLOCK)}:space", *IMAGES)
    network = Network(space, (1, 0), kernels="eager").eval()
    meta = {"kind": "network", "space": space.to_json(), "arch": [1, 0]}
    checkpoint.save(tmp_path / "checkpoint.pt", {"model": network.state_dict(), "meta": meta})
    x = torch.randn(2, 1, 14, 14)
    assert torch.equal(load_network(tmp_path, operations=space.operations)(x), network(x))
    assert "'plain'" in refused(load_network, tmp_path)


def test_an_installed_space_is_known_by_name_and_its_operations_by_op(installed, tmp_path):
    installed("my_installed", BLOCK, "[supernet.spaces]\nmine = my_installed:space\n")
    space = spaces.get("mine", *IMAGES)
    assert [block.op for block in space.operations] == ["plain"]
    (tmp_path / "space.json").write_text(json.dumps(space.to_json()))
    read = Space.load(tmp_path / "space.json")
    assert families.params(read, (1, 1)) == families.params(space, (1, 1))
    assert Supernet(read, kernels="eager")(torch.randn(2, 1, 14, 14), (1, 1)).shape == (2, 10)
    assert "mine" in refused(spaces.get, "nope", *IMAGES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('return {"conv": conv}', "return conv", r"Plain as plain_k3_s2_relu 8x7x7->12: convs gives Conv("),
        ('return {"conv": conv}', 'return {"conv": 7}', r"expected a dict of supernet.spec.Conv by name"),
        (
            'return {"conv": conv}',
            "return {}[3]",
            r"Plain as plain_k3_s2_relu 8x7x7->12: convs raised KeyError in line",
        ),
        (
            "        return self.conv(x)",
            "        return self.conv(x)[:, :5]",
            "gives [2, 5, 4, 4] in train mode, expected [2, 12, 4, 4] of [2, 8, 7, 7]",
        ),
        (
            "        return self.conv(x)",
            "        return x + self.nothing",
            "running it in train mode raised AttributeError in line",
        ),
        (
            "        return self.conv(x)",
            "        return self.conv(x) if self.training else None",
            "gives NoneType in eval mode",
        ),
        # By hand: 12 · 8 · 9 weights and 24 of BN; a bias of 12 that convs does not list.
        (
            "        self.conv = ",
            "        self.bias = nn.Parameter(torch.zeros(12))\n        self.conv = ",
            "its module has 900 parameters, its convs have 888",
        ),
        (
            "        self.conv = ",
            "        self.bn = nn.BatchNorm2d(12)\n        self.conv = ",
            "bn is torch's BatchNorm2d, whose statistics cannot be recalibrated; use supernet.norm.BatchNorm",
        ),
        ("        super().__init__()\n", "", "building it raised AttributeError in line"),
        (
            "class Plain(Block, nn.Module)",
            "class Plain(Block)",
            "a subclass of supernet.spec.Block and of torch.nn.Module",
        ),
        ('op = "plain"', 'op = "plain"\n    kept = lambda spec, conv: -1', "kept gives -1 for 'conv', expected"),
        ('op = "plain"', 'op = "plain"\n    refuses = lambda spec: spec.no', "raised AttributeError in line 13"),
        ('op = "plain"', 'op = "ib"', "an operation 'ib' exists already"),
        ('op = "plain"', 'op = "stem"', "an operation 'stem' exists already"),
        ('op = "plain"', "op = 7", "with a text as its op, got <class 'my_space.Plain'>"),
        ("def space", "class Same(Plain):\n    pass\n\n\ndef space", "Plain and Same have the same op 'plain'"),
        ('return Space("mine", channels', 'return Space("mine", channels + 1', "is for 2×14² images of 10 classes"),
        ("    return Space(", "    return str(", "raised TypeError in line"),
        ("    return Space(", "    return None and Space(", "returned None, expected a supernet.space.Space"),
        ('Choice("plain", 5)', 'Choice("plan", 5)', "gene layer0 has the operation 'plan', known here are ib"),
        ("8, 12, 2)", "9, 12, 2)", "gene layer0 takes 9 channels, but gets 8"),
    ],
)
def test_what_contradicts_itself_is_refused(own_file, old, new, message):
    assert BLOCK.count(old) == 1
    path = own_file("my_space.py", BLOCK.replace(old, new))
    found = refused(spaces.get, f"{path}:space", *IMAGES)
    assert found.startswith(f"{path}:space")
    assert message in found


def test_operations_are_attached_once():
    class Own(Block, torch.nn.Identity):
        op = "own"

    class Other(Block, torch.nn.Identity):
        op = "own"

    space = tiny_space().with_operations(Own)
    assert space.with_operations(Own).operations == (Own,)
    assert space == tiny_space()
    assert space.restrict([{0}, {1}, {1}]).operations == (Own,)
    with pytest.raises(UserError, match="Own and Other have the same op 'own'"):
        space.with_operations(Other)
    for wrong in (7, int, Block):
        with pytest.raises(UserError, match=r"expected a subclass of supernet.spec.Block"):
            tiny_space().with_operations(wrong)


def test_a_broken_file_is_not_half_imported(own_file):
    path = own_file("my_space.py", "1 / 0")
    refused(spaces.get, f"{path}:space", *IMAGES)
    assert "my_space" not in sys.modules
