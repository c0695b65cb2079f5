"""DSNAS's experiments at tiny size, and what they keep and tell."""

from __future__ import annotations

import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from experiments import _dsnas_arms, dsnas, dsnas_correlation, dsnas_steps
from experiments.papers import dsnas as told
from supernet import files


@pytest.mark.slow
def test_arms_are_kept_and_those_that_lack_are_made_again(tmp_path):
    run, output = tmp_path / "run", tmp_path / "results"
    args = dsnas.Args(quick=True, data="digits", run=run, output=output)
    dsnas.run(args)
    first = json.loads((output / "dsnas.json").read_text())["seeds"]
    assert len(first) == 2
    for arms in first:
        assert arms.keys() >= {*dsnas.CURVES.values(), "retrained", "no stop", "SPOS matched", "random search"}
        for arm in arms.values():
            seconds = [row[1] for row in arm["curve"]]
            assert seconds == sorted(seconds)
            assert seconds[-1] == pytest.approx(arm["seconds"])
            assert arm["accuracy"] <= arm["top5"] <= 1
            assert arm["flops"] <= 2e6
        epochs = {name: arms[arm]["curve"][-1][0] for name, arm in dsnas.CURVES.items()}
        assert epochs["DSNASsearch240"] == epochs["SPOSsearch120tune120"] == epochs["SPOSsearch240"] == 2
        assert (epochs["SPOSsearch120retrain240"], epochs["SPOSsearch240retrain240"]) == (3, 4)
    scratch = {path: path.read_text() for path in run.rglob("scratch-*/metrics.jsonl")}
    (run / "seed1" / "spos-retrained.json").unlink()  # killed before it was written
    dsnas.run(args)
    again = json.loads((output / "dsnas.json").read_text())["seeds"]
    assert {path: path.read_text() for path in scratch} == scratch
    for one, other in zip(first, again, strict=True):
        for name, arm in one.items():
            kept = {key: value for key, value in other[name].items() if key not in ("seconds", "curve", "minutes")}
            assert kept == {key: value for key, value in arm.items() if key in kept}
            assert other[name]["seconds"] == pytest.approx(arm["seconds"], rel=0.2)  # and a moment to find it finished
    picture = output / "dsnas.png"
    picture.unlink()
    dsnas.run(dsnas.Args(output=output, run=tmp_path / "nothing", redraw=True))
    assert picture.exists()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", [dsnas_steps, dsnas_correlation], ids=["steps", "correlation"])
def test_runs_and_is_drawn_again(tmp_path, module):
    output = tmp_path / "found.json"
    data = {} if module is dsnas_steps else {"data": "digits"}
    module.run(module.Args(quick=True, run=tmp_path / "run", output=output, **data))
    result, tables = json.loads(output.read_text()), output.with_suffix(".md").read_text()
    output.with_suffix(".md").unlink()
    module.finish(module.Args(run=tmp_path / "nothing", output=output), result)
    assert output.with_suffix(".md").read_text() == tables
    assert not (tmp_path / "nothing").exists()
    if module is dsnas_steps:
        assert result["step"].keys() == {"forms", "cells", "mobile"}
        assert result["step"]["cells"].keys() == dsnas_steps.FORMS.keys()
        parts = result["step"]["cells"]["SNAS"]["cells-small"]["parts"]
        assert result["step"]["cells"]["SNAS"]["cells-small"]["ms"] == pytest.approx(
            sum(parts[part][0] for part in ("forward", "backward", "optimiser"))
        )
        assert re.search(r"SNAS: \d", told.against_full(result))
        assert re.search(r"its code: \d", told.against_proxyless(result))
    else:
        assert [len(search["top"]) for search in result["searches"]["SPOS"]] == [3] * 3
        assert "ProxylessNAS" in told.taus(result)


@pytest.mark.slow
def test_images_of_a_folder_in_colour(tmp_path):
    """What --scale paper takes in place of a data set by name, on drawn pictures."""
    rng = np.random.default_rng(0)
    for part, name, n in itertools.product(("train", "val"), ("dark", "bright"), range(60)):
        path = tmp_path / "images" / part / name / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (32, 32, 3)) + (127 if name == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    images = {"data": "folder", "data_root": tmp_path / "images", "pixels": 28}
    args = dsnas.Args(quick=True, run=tmp_path / "run", output=tmp_path, batch_size=16, **images)
    dsnas.run(args)
    for arms in json.loads((tmp_path / "dsnas.json").read_text())["seeds"]:
        assert arms.keys() >= set(dsnas.CURVES.values())


def test_a_ledger_adds_up_what_several_processes_took(tmp_path):
    ledger = _dsnas_arms.Ledger(tmp_path)
    with ledger.part("search"):
        pass
    with pytest.raises(KeyboardInterrupt), ledger.part("search"):
        raise KeyboardInterrupt
    lines = files.JsonLines(tmp_path / "ledger.jsonl").read()
    assert [line["part"] for line in lines] == ["search", "search"]
    assert _dsnas_arms.Ledger(tmp_path).seconds("search") == sum(line["seconds"] for line in lines) > 0
    assert ledger.seconds("other") == 0


@pytest.mark.parametrize(("step", "expected"), [(0, [0, 1, 2]), (4, [0, 3]), (30, [0])])
def test_a_training_stops_after_an_epoch_and_one_that_is_beyond_stays(step, expected):
    """Of ten epochs of three steps, until the third one; each is validated, and what a resume left before all."""
    seen = []

    class Training:
        end, per_epoch = 30, 3

        def __init__(self):
            self.step = step

        def epoch(self, bar):
            self.step += self.per_epoch - self.step % self.per_epoch

        def validate(self, check):
            seen.append(self.step // self.per_epoch)

    training = Training()
    _dsnas_arms.until(3)(training, dict, None)
    assert training.step == max(step, 9)
    assert seen == [step // 3, *range(step // 3 + 1, 4)]


def test_tau_within_and_between_searches():
    """By counting pairs: 2 (concordant − discordant) / N (N − 1), the paper's eq. 9."""
    tops = [
        [[[0], 0.9, 0.5], [[1], 0.8, 0.7], [[2], 0.7, 0.6]],  # of its pairs one agrees
        [[[0], 0.6, 0.4], [[1], 0.5, 0.3], [[2], 0.4, 0.2]],
        [[[0], 0.7, 0.3], [[1], 0.6, 0.6], [[2], 0.5, 0.5]],
    ]
    winners = [top[0][1:] for top in tops]
    pairs = [(i, j) for i in range(3) for j in range(i)]
    signs = [np.sign((winners[i][0] - winners[j][0]) * (winners[i][1] - winners[j][1])) for i, j in pairs]
    found = dsnas_correlation.summary({"SPOS": [{"top": top} for top in tops]})
    assert found["tau_inter"]["SPOS"] == pytest.approx([-1 / 3, 1, -1 / 3])
    assert found["tau_intra"]["SPOS"]["tau"] == pytest.approx(sum(signs) / 3)


def test_a_deviation_has_the_interval_of_chi_squared():
    values = [0.80, 0.82, 0.83, 0.85, 0.81]
    low, high = (np.sqrt(4 * np.var(values, ddof=1) / stats.chi2.ppf(p, 4)) for p in (0.975, 0.025))
    assert told.deviation(values) == f"{100 * np.std(values, ddof=1):.2f} ({100 * low:.2f} to {100 * high:.2f})"


def test_hours_are_compared_in_pairs():
    seeds = [{"direct": {"seconds": a}, "SPOS retrained": {"seconds": b}} for a, b in ((66, 100), (50, 100))]
    assert told.hours({"seeds": seeds}).startswith("42 ± 102 % less (58 ± 102 s to 100 ± 0)")


def test_spos_is_told_as_its_search_ends_and_retrained():
    arms = ("SPOS matched", "SPOS bound", "SPOS retrained", "SPOS one stage", "SPOS whole")
    seed = {arm: {"accuracy": 0.75, "search_accuracy": 0.70} for arm in arms}
    found = told.spos_too({"seeds": [{"direct": {"accuracy": 0.74}, **seed}]})
    assert "+1.00 points searched for all epochs and retrained" in found
    assert found.endswith("−4.00 points before that, with the weights of the search")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"search_epochs": 13}, "--search-epochs 13"), ({"spos_epochs": 12}, "--spos-epochs 12")],
    ids=["DSNAS", "SPOS"],
)
def test_epochs_that_cannot_be(tmp_path, flags, expected):
    with pytest.raises(dsnas.UserError, match=f"{expected}.*of --epochs 12: expected at least 1, and fewer than all"):
        dsnas.run(dsnas.Args(run=tmp_path / "run", **flags))
    with pytest.raises(dsnas.UserError, match="a ranking needs three or more"):
        dsnas_correlation.run(dsnas_correlation.Args(run=tmp_path / "run", top=2))
    assert not list(tmp_path.iterdir())


def test_the_forms_of_a_step_move_weights_and_architecture():
    """Each form learns: its loss falls on images that it sees again and again."""
    space = dsnas_steps.space_of(2)
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    for name, make in dsnas_steps.FORMS.items():
        step, losses = make(space, x, y), []
        for i in range(12):
            loss = step.forward(i)
            losses.append(loss.item())
            loss.backward()
            step.optimise(i)
        assert np.mean(losses[-3:]) < np.mean(losses[:3]), name
        assert step.test(0).shape == (16, 10)


def test_arms_share_what_they_have_in_common():
    """The schedules of DSNAS and SPOS are of one kind; 5 of 240 epochs are warm-up."""
    seed = SimpleNamespace(args=dsnas.Args(), seed=3)
    for epochs, warmup in ((240, 5), (120, 2.5), (12, 0.25)):
        fit = _dsnas_arms.Seed.schedule(seed, epochs)
        assert (fit.epochs, fit.schedule, fit.warmup_epochs, fit.seed) == (epochs, "cosine", warmup, 3)
