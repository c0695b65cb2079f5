import numpy as np
import pytest
import torch

from search.evaluator import Evaluator
from supernet.model import Supernet
from supernet.train import evaluate, recalibrate_bn
from tests.conftest import tiny_space


def setup(n=64):
    space = tiny_space()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 14, 14, generator=generator)
    y = torch.randint(10, (n,), generator=generator)
    return (
        space,
        Supernet(space).train(),
        list(x.split(16))[:2],
        list(zip(x.split(16), y.split(16), strict=True)),
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_scores_equal_recalibrating_and_evaluating_the_extracted_network(workers):
    space, supernet, recalibration, validation = setup()
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(12)]
    scores = Evaluator(supernet, recalibration, validation, workers)(archs)
    for arch, score in zip(archs, scores, strict=True):
        network = supernet.extract(arch)
        recalibrate_bn(network, recalibration)
        assert score == pytest.approx(evaluate(network, validation), abs=1.5 / 64)  # one image may lie on the line


def test_workers_do_not_change_scores_or_the_number_of_threads():
    space, supernet, recalibration, validation = setup()
    archs = space.enumerate()[:10]
    threads = torch.get_num_threads()
    one, many = (Evaluator(supernet, recalibration, validation, workers)(archs) for workers in (1, 4))
    assert one == many
    assert torch.get_num_threads() == threads


def test_each_architecture_is_scored_once():
    space, supernet, recalibration, validation = setup()
    runs = []

    class Counting(list):
        def __iter__(self):
            runs.append(1)
            return super().__iter__()

    evaluator = Evaluator(supernet, recalibration, Counting(validation))
    a, b = space.enumerate()[:2]
    first = evaluator([a, b, a])
    assert evaluator([b, a]) == [first[1], first[0]]
    assert first[0] == first[2]
    assert len(runs) == 2
