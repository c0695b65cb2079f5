"""What the experiments on Efficient Global NAS compute, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from experiments import _plain, _report, global_nas_ablation, global_nas_ranking
from experiments._plain import Subset
from search.efficient_global import CONV, SEP
from supernet.data import sets
from supernet.errors import UserError


def test_a_pair_of_classes_is_a_set_of_its_own(tmp_path):
    opened = _plain.images(Subset("digits", tmp_path, classes=(7, 2)))
    whole = sets.open_train("digits", tmp_path)
    for part, of in ((opened.train, whole.train), (opened.val, whole.val)):
        assert part.index[part.labels == 0].tolist() == of.index[of.labels == 7].tolist()
        assert part.index[part.labels == 1].tolist() == of.index[of.labels == 2].tolist()
    assert (opened.classes, opened.class_names) == (2, ("7", "2"))
    assert set(whole.train.labels) == set(range(10))  # what is shared stays as it is
    assert set(_plain.test_images(Subset("digits", tmp_path, classes=(7, 2))).labels) == {0, 1}
    with pytest.raises(UserError, match="digits has classes 0 to 9, got 11"):
        _plain.images(Subset("digits", tmp_path, classes=(1, 11)))


def made_up(networks: int, epochs: int) -> dict:
    rng = np.random.default_rng(0)
    curves = rng.random((networks, epochs))
    return {"curves": curves.tolist(), "params": rng.permutation(networks).tolist(), "again": curves[:, 0].tolist()}


def test_rankings_of_one_run_are_scipy_s():
    """With as many networks as epochs, the n-th smallest is ranked by its n-th epoch, and all draws are the same."""
    result = made_up(6, 6)
    judged = global_nas_ranking.judged(result, draws=3)
    curves, order = np.array(result["curves"]), np.argsort(result["params"])
    dynamic = [curves[network, epoch] for epoch, network in enumerate(order)]
    with_final, with_params = (stats.spearmanr(dynamic, other).statistic for other in (curves[order, -1], np.arange(6)))
    assert judged["rho"]["dynamic"]["rho"] == pytest.approx(with_final)
    assert judged["rho"]["dynamic with parameters"]["rho"] == pytest.approx(with_params)
    for what, rho in (("dynamic", with_final), ("dynamic with parameters", with_params)):
        assert judged["sampled"][what] == {"networks": 6, "rho": pytest.approx(rho), "draws_interval": [rho, rho]}
    assert judged["study"]["static"][6] == 1
    assert judged["independent"]["static"][1] == 1
    first = stats.spearmanr(curves[:, 0], curves[:, -1]).statistic
    assert judged["study"]["static"][1] == judged["study"]["ceiling"] == pytest.approx(first)


def test_without_a_second_training_there_is_one_truth():
    judged = global_nas_ranking.judged({**made_up(9, 3), "again": []}, draws=5)
    assert "independent" not in judged
    assert judged["study"]["ceiling"] is None


def test_the_difference_of_pairs_is_scipy_s():
    a, b = [3.0, 5.0, 4.0, 8.0], [1.0, 4.5, 4.0, 5.0]
    low, high = stats.ttest_rel(a, b).confidence_interval()
    assert _report.paired(a, b) == f"{(low + high) / 2:+.2f} ± {(high - low) / 2:.2f}"
    assert _report.paired([2.0], [1.0]) == "+1.00"


def test_every_start_sees_the_same_pairs_of_classes():
    args = global_nas_ablation.Args(pairs=3, seeds=2)
    jobs = global_nas_ablation.searches(args, classes=10)
    starts = {name: [jobs[f"{name}/{i}"] for i in range(3)] for name in global_nas_ablation.STARTS}
    pairs = [job.subset.classes for job in starts["Sep 3×3"]]
    assert len(set(pairs)) == 3
    assert all(first < second for first, second in pairs)
    assert all([job.subset.classes for job in of] == pairs for of in starts.values())
    assert {(of[0].config.start_op, of[0].config.start_kernel) for of in starts.values()} == {
        *((op, kernel) for op in (SEP, CONV) for kernel in (3, 7))
    }
    assert [jobs[f"without/{seed}"].seed for seed in range(2)] == [0, 1]
    assert [jobs[f"{arm}/0"].config.operations for arm in ("with", "without")] == [True, False]
