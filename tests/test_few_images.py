"""experiments.few_images: which images each way sees, and what a fine-tuned network begins with."""

import json

import numpy as np
import pytest
import torch
from test_experiments import experiment

from experiments import _common, few_images
from search.ces import CES, CESConfig
from search.priced import additive
from supernet import families, spaces
from supernet.data import sets
from supernet.model import Network


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return sets.open_train("digits", tmp_path_factory.mktemp("data"), seed=0, val_fraction=0.3)


def test_halves_have_the_images_of_their_classes(opened):
    low, high = few_images.of_classes(opened, 0, 5), few_images.of_classes(opened, 5, 10)
    for side in ("train", "val"):
        whole = dict(zip(getattr(opened, side).index, getattr(opened, side).labels, strict=True))
        for half, first in ((low, 0), (high, 5)):
            images = getattr(half, side)
            assert set(images.labels) == set(range(5))
            assert [whole[i] for i in images.index] == [label + first for label in images.labels]
        together = np.concatenate([getattr(half, side).index for half in (low, high)])
        assert sorted(together) == sorted(whole)
    assert (low.class_names, high.class_names) == (opened.class_names[:5], opened.class_names[5:])


@pytest.mark.parametrize("count", [3, 10])
def test_few_are_as_many_of_each_class(tmp_path, count):
    study = few_images.Study(few_images.Args(data="digits", data_root=tmp_path), 1)
    images = study.yours(count)
    assert np.bincount(images.labels).tolist() == [count] * 5
    assert set(images.index) <= set(study.halves[1].train.index)
    assert study.cfg(images).epochs == few_images.MOST_EPOCHS


def test_all_weights_are_inherited_but_those_of_the_classes(opened):
    few = few_images.of_classes(opened, 0, 3)
    known, network = (
        Network(space, families.layout(space).whole, kernels="eager")
        for space in map(few_images.given_space, (opened, few))
    )
    begun = {k: v.clone() for k, v in network.state_dict().items()}
    few_images.inherit(known, network)
    other = {k for k, v in network.state_dict().items() if not torch.equal(v, begun[k])}
    kept = begun.keys() - other
    sizes = {k: tuple(v.shape) for k, v in begun.items()}
    assert {sizes[k] for k in kept if k.endswith("weight") and len(sizes[k]) == 2} == {(3, 1280)}
    for name in other:
        assert torch.equal(network.state_dict()[name], known.state_dict()[name])
    assert sum(len(sizes[name]) == 4 for name in other) == sum(len(size) == 4 for size in sizes.values())


def test_the_most_accurate_of_those_scored_is_found():
    space, scored = spaces.get("mobile-large-small", 1, 28, 5), {}

    def evaluator(archs):
        scored.update({arch: sum(arch) / 100 for arch in archs})
        return [scored[arch] for arch in archs]

    flops = additive(space, lambda spec: spec.flops)
    best = _common.most_accurate(CES(space, {"flops": flops}, {}, ["flops"], CESConfig(16, 4)), evaluator)
    assert scored[best] == max(scored.values())
    assert len(scored) > 32


@pytest.mark.slow
def test_runs_and_trains_nothing_twice(tmp_path):
    output = tmp_path / "few.json"
    experiment("few_images", "--run", tmp_path / "run", "--output", output)
    first = json.loads(output.read_text())
    assert {arm: len(made) for arm, made in first["10"].items()} == dict.fromkeys(few_images.ARMS, 1)
    experiment("few_images", "--run", tmp_path / "other", "--output", output)
    assert json.loads(output.read_text())["10"] == first["10"]
