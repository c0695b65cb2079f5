"""The experiment on network spaces: networks near a cost against listing them all, its controls, the paper's counts."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from experiments import _common, _nss, nss
from supernet import families, spaces

SMALL = spaces.get("residual-small", 1, 28, 10).restrict([{0, 3}, {3, 5, 9}, {1, 2}, {7}, {0, 1, 3}, {0, 15}])
# Table 1: samples until a network of the expanded space met the target, on CIFAR-10 and on CIFAR-100.
PAPER = {
    0.2e9: (1228, 470),
    0.4e9: (976, 661),
    0.6e9: (117, 147),
    1.6e9: (45, 84),
    3.2e9: (86, 31),
    4e9: (57, 9),
    6.4e9: (18, 17),
    8e9: (13, 18),
    12e9: (14, 15),
    16e9: (12, 12),
    24e9: (15, 11),
    32e9: (6, 9),
}


def study(folder, **more) -> _nss.Study:
    return _nss.Study(nss.Args(run=folder / "run", data="digits", limit=320, quiet=True, **more))


def test_the_networks_near_a_cost_are_those_of_a_listing(monkeypatch):
    archs = SMALL.enumerate()
    flops = np.array([families.flops(SMALL, arch) for arch in archs])
    np.testing.assert_allclose(_nss.costs(SMALL).ravel(), flops, rtol=1e-12)
    for target in np.quantile(flops, [0.1, 0.5]):
        expected = [arch for arch, value in zip(archs, flops, strict=True) if abs(value / target - 1) <= 0.1]
        assert expected
        assert sorted(_nss.near(SMALL, target, 0.1)) == sorted(expected)
    monkeypatch.setattr(_nss.network_spaces, "MAX_SPACES", 10)  # too many to list
    _nss.costs.cache_clear()
    drawn = _nss.costs(SMALL)
    _nss.costs.cache_clear()
    assert drawn.shape == (_nss.DRAWS,)
    assert set(np.unique(drawn)) <= set(flops)
    assert drawn.mean() == pytest.approx(flops.mean(), abs=5 * flops.std() / _nss.DRAWS**0.5)


def test_random_spaces_cost_what_the_elite_one_costs(tmp_path):
    """Each network is of another space, whose mean is by listing within 10 % of the target."""
    made, target = study(tmp_path), 1.6e6
    archs = made.of_random_spaces(target, 6, seed=1)
    assert len(archs) == 6
    inside = []
    for arch in archs:
        assert abs(families.flops(made.space, arch) / target - 1) <= 0.03
        own = made.within([next(b for b, r in enumerate(o) if i in r) for i, o in zip(arch, made.ranges, strict=True)])
        assert abs(np.mean([families.flops(own, a) for a in own.enumerate()]) / target - 1) <= 0.1
        inside.append(own.allowed)
    assert len(set(inside)) == 6


def test_the_paper_counted_uniform_draws_of_our_expanded_space():
    """24 counts are as geometric draws have them with our shares: strides and blocks are the paper's."""
    space = spaces.get("residual", 3, 32, 10)
    rng, n = np.random.default_rng(0), 1_000_000

    def cost(depths, widths):
        """Written out: two 3×3 convolutions a block, a 1×1 shortcut where a stage begins, 32², 16², 8² pixels."""
        total, before = 32**2 * 27 * 16.0, 16.0
        for pixels, d, w in zip((32**2, 16**2, 8**2), depths, widths, strict=True):
            total, before = total + pixels * (10 * before * w + 9 * w * w + (d - 1) * 18 * w * w), w
        return total + 10 * before

    assert cost((4, 6, 8), (100, 200, 50)) == families.flops(space, (3, 99, 5, 199, 7, 49))
    drawn = cost(rng.integers(1, 17, (3, n)), rng.integers(1, 513, (3, n)).astype(float))
    shares = {target: (abs(drawn / target - 1) <= 0.1).mean() for target in PAPER}
    for target, counts in PAPER.items():
        assert all(1e-3 < stats.geom.cdf(count, shares[target]) < 1 - 1e-3 for count in counts), target
    # p · count is about exponential, so twice the sum is about χ² with two degrees of freedom for each count.
    total = 2 * sum(shares[target] * count for target, counts in PAPER.items() for count in counts)
    assert 0.025 < stats.chi2.cdf(total, 2 * 24) < 0.975


def test_a_front_is_the_best_that_costs_no_more():
    regime = {
        "target": 2.0,
        "flops": {nss.RANDOM: [2, 1, 3], nss.ELITE: [0.5, 2.5, 3]},
        "accuracies": {nss.RANDOM: [0.5, 0.6, 0.9], nss.ELITE: [0.9, 0.7, 0.7]},
    }
    result = {"regimes": [regime], "best_of_5": [{"networks": {"expanded": [[2.2, 0.65]], "elite": []}}]}
    np.testing.assert_allclose(nss.beyond(result, regime, nss.ELITE), [np.nan, 0.05, -0.2])
    np.testing.assert_allclose(nss.beyond(result, regime, nss.RANDOM), [-0.1, 0, 0])


def test_results_that_are_older_than_a_table_are_not_drawn(tmp_path, monkeypatch, capsys):
    old = tmp_path / "nss.json"
    old.write_text(json.dumps({"samples": []}))
    monkeypatch.setattr(sys, "argv", ["nss.py", "--redraw", "--output", str(old)])
    with pytest.raises(SystemExit) as ended:
        _common.main(nss.run, nss.Args, nss.finish)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .*without '\w+': python -m experiments.nss without --redraw makes it anew.*\n", told)


@pytest.mark.slow
def test_images_of_a_folder_and_another_space(tmp_path, monkeypatch):
    """What stands for CIFAR here: drawn pictures of as many colours, by the flags of the paper's scale."""
    rng = np.random.default_rng(0)
    for part, kind, i in np.ndindex(2, 3, 50):
        place = tmp_path / "images" / ("train", "val")[part] / f"colour{kind}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (16, 16, 3)) + 120 * (np.arange(3) == kind)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    images = ("--data", "folder", "--data-root", tmp_path / "images", "--resolution", 16, "--seeds", 1)
    space = ("--space", "residual-medium", "--ranges", 2, 4, "--targets", 8e6, 12e6)
    places = ("--run", tmp_path / "run", "--output", tmp_path / "nss.json")
    monkeypatch.setattr(sys, "argv", ["nss.py", "--quick", *map(str, (*images, *space, *places))])
    _common.main(nss.run, nss.Args)
    result = json.loads((tmp_path / "nss.json").read_text())
    assert [row["target"] for row in result["samples"]] == [8e6, 12e6]
    assert {row["space"] for row in result["searched"]} == {"elite", "expanded"}
    assert all(row["deviation"] <= 0.1 for row in result["searched"])
    assert result["settings"]["data"] == "folder"
