"""What is cut together in given networks, and what is left, by Torch-Pruning's dependency graph."""

import numpy as np
import pytest
import torch

from experiments import pruning_oracle
from supernet import spaces

pytest.importorskip("torch_pruning")
QUICK = [
    "timm:resnet18",  # shortcuts
    "timm:lcnet_050",  # depthwise, squeeze-excite, no shortcut
    "timm:mobilenetv2_050",
    "timm:mobilenetv3_small_050",
    "timm:tinynet_e",
    "timm:ghostnet_100",  # slices
    "timm:convnext_atto",  # linear layers on the last axis, LayerNorm, scales of layers
    "timm:convnextv2_atto",  # norms of whole responses
    "timm:repvgg_a0",  # branches that are added
    "torchvision:squeezenet1_1",  # concatenations, a head that is a convolution
    "timm:deit_tiny_patch16_224",
]
LARGE = ["densenet121", "vgg11_bn", "hrnet_w18_small", "dla34", "resnetv2_50", "efficientnet_b0", "seresnet50"]
NETWORKS = [*QUICK, *(pytest.param(f"timm:{name}", marks=pytest.mark.chain) for name in LARGE)]


@pytest.mark.parametrize("reference", NETWORKS)
def test_the_same_is_cut_and_the_same_is_left(reference):
    torch.manual_seed(0)
    space = spaces.get(reference, 3, 32, 10)
    oracle = pruning_oracle.Oracle(space, pruning_oracle.widths(space, np.random.default_rng(0)))
    assert oracle.groups
    assert all(oracle.same(group, left) for group, left in oracle.groups)
    oracle.prune()
    left = oracle.left()
    assert left["logits"] < pruning_oracle.CLOSE
    assert left["params"][0] == left["params"][1]
    assert left["macs"][0] == left["macs"][1]


def test_what_the_oracle_would_say_of_other_groups(monkeypatch):
    """A layer that reads what is cut, and whose inputs stay."""
    space = spaces.get("timm:resnet18", 3, 32, 10)
    oracle = pruning_oracle.Oracle(space, pruning_oracle.widths(space))
    group, left = next((group, left) for group, left in oracle.groups if group.name == "layer1.0.conv1")
    assert oracle.same(group, left)
    weights = oracle.network.channels.weights
    monkeypatch.setitem(weights, "layer1.0.conv2.weight", {0: weights["layer1.0.conv2.weight"][0]})
    assert not oracle.same(group, left)


@pytest.mark.parametrize("reference", ["timm:regnetx_002", "timm:resnest14d"])
def test_zeros_are_the_network_without_the_channels(reference):
    """The judge where the graphs differ: grouped convolutions are cut by whole groups here, softmaxes are not cut."""
    torch.manual_seed(0)
    space = spaces.get(reference, 3, 32, 10)
    oracle = pruning_oracle.Oracle(space, pruning_oracle.widths(space))
    assert pruning_oracle.apart(oracle.ours, oracle.zeros) < pruning_oracle.CLOSE
    if reference == "timm:regnetx_002":
        assert not all(oracle.same(group, left) for group, left in oracle.groups)
