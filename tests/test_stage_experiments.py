"""The experiments on Stage-Wise NAS: what they count, and each at tiny size, twice, as the catalogue reads it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro

from experiments import _drawn, _stage_costs, _stages, stage_wise_uniform
from experiments._stages import Arm
from experiments.papers import stage_wise as paper
from search.stage_wise import Config
from supernet.families import module_stages
from supernet.model import Network
from supernet.size import Size

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("module", "modules", "depth", "memory"),
    [
        ("residual", (6, 8, 6), 43, 7.41),  # Table III
        ("residual", (10, 12, 6), 59, 10.32),
        ("residual", (10, 14, 8), 67, 11.65),
        ("residual", (7, 7, 7), 45, 8.14),  # ResNet-44 counts its linear layer, not its two shortcuts
        ("residual", (18, 18, 18), 111, 20.67),
        ("nasnet", (4, 4, 4), 169, 71.26),  # Table IV
        ("nasnet", (5, 5, 5), 205, 86.37),
        ("nasnet", (6, 6, 6), 241, 101.47),
        ("nasnet", (2, 3, 2), 109, 45.20),
    ],
)
def test_depth_and_memory_are_those_of_the_paper(module, modules, depth, memory):
    """Depth to the layer; memory within 2.5 % for what the authors may have counted besides."""
    space = module_stages.space(module, 3, 32, 10, width=16 if module == "residual" else 32)
    found = _stage_costs.facts(Network(space, module_stages.arch(space, modules), kernels="eager"))
    assert found["depth"] == depth
    assert found["memory"] == pytest.approx(memory, rel=0.025)


def test_the_first_candidate_of_cells_begins_with_two():
    """Table IV: 109 layers and 1.3 M parameters after one iteration, 133 and 181 layers after three and five."""
    given = _stages.OnStages(preset="paper").given(Arm("nasnet"))
    space = module_stages.space("nasnet", 3, 32, 10, width=given.width)
    first = [given.initial + given.step * (i == 0) for i in range(3)]
    found = _stage_costs.facts(Network(space, module_stages.arch(space, first), kernels="eager"))
    assert (found["depth"], round(found["params"] / 1e6, 1)) == (109, 1.3)
    assert (133 - 109) % 12 == (181 - 133) % 12 == 0  # the twelve layers of a cell


def test_the_paper_s_settings():
    args = _stages.OnStages(preset="paper")
    scratch, transfer = args.given(Arm()), args.given(Arm(donor=True))
    assert (scratch.initial, scratch.step, scratch.iterations, scratch.width) == (6, 2, 5, 16)
    assert (scratch.epochs, scratch.passes, transfer.epochs) == (200, 3, 50)
    shorter = _stages.OnStages(preset="paper", epochs=20)
    assert (shorter.given(Arm()).epochs, shorter.given(Arm(donor=True)).epochs) == (20, 5)
    assert args.given(Arm(initial=2, iterations=1)).initial == 2


def test_imagenet_is_searched_as_cifar_is():
    """ "The same parameters found on CIFAR-10" (§IV): six modules as far as ResNet-152 has them, 5 · 2 more at most."""
    command = paper.IMAGENET
    args = tyro.cli(stage_wise_uniform.Args, args=command.words[command.words.index(command.program) + 1 :])
    given = args.given(stage_wise_uniform.ARMS["bottleneck"])
    config = Config(4, given.initial, given.step, given.iterations, deepest=args.donor)
    assert (config.first, config.reach) == ((3, 6, 6, 3), (3, 8, 16, 3))
    assert (given.epochs, given.passes) == (50, 3)


@pytest.mark.parametrize("module", ["residual", "nasnet"])
def test_the_most_even_depths_cost_as_much(module):
    """Against the whole list, by the products of a network's own layers."""
    study = object.__new__(_stages.Stages)
    study.args, study.paper = _stages.OnStages(), False
    study.images = SimpleNamespace(channels=1, resolution=28, classes=10, size=Size.of(28))
    space = module_stages.space(module, 1, 28, 10, width=study.args.given(Arm(module)).width, stem_stride=2, deepest=7)

    def cost(modules):
        network = Network(space, module_stages.arch(space, modules), kernels="eager")
        return _stage_costs.facts(network)["flops"]

    found = (1, 3, 2) if module == "residual" else (2, 3, 2)
    even = study.evened(module, found)
    assert cost(even) == pytest.approx(cost(found), rel=0.03)
    every = itertools.product(range(min(found), max(found) + 1), repeat=3)
    alike = [m for m in every if abs(cost(m) / cost(found) - 1) <= 0.03]
    assert max(even) - min(even) == min(max(m) - min(m) for m in alike)


def test_carbon_is_hours_times_power_times_intensity():
    args = stage_wise_uniform.Args(watts=500, intensity=0.5)
    assert args.kilograms(2 * 3600) == pytest.approx(2 * 0.5 * 0.5)


def test_a_search_that_ended_keeps_its_last_candidate():
    search = {"candidates": [{"iteration": 0}, {"iteration": 1}, {"iteration": 2}]}
    assert [_stages.at_iteration(search, k)["iteration"] for k in (1, 2, 5)] == [1, 2, 2]


def test_drawn_images_tell_their_classes_apart():
    """The strongest frequency of a grating without noise is that of its class: the nearest of all classes' means."""
    train, _ = _drawn.small()
    spectra: dict[int, list[np.ndarray]] = {}
    for i in range(400):
        image, label = train[i]
        power = np.abs(np.fft.rfft2(np.asarray(image, float) - 128))
        spectra.setdefault(label, []).append(power)
    means = {label: np.mean(found[:10], axis=0) for label, found in spectra.items()}
    right = [
        min(means, key=lambda c: np.linalg.norm(means[c] - power)) == label
        for label, found in spectra.items()
        for power in found[10:]
    ]
    assert len(means) == len(_drawn.Gratings.classes) == 20
    assert np.mean(right) > 0.9
    again, _ = _drawn.small()
    assert np.array_equal(np.asarray(again[7][0]), np.asarray(train[7][0]))


def experiment(name: str, output: Path, *words: object) -> dict:
    """The results of an experiment at tiny size."""
    command = [sys.executable, "-m", f"experiments.stage_wise_{name}", "--quick", "--quiet", "--output", output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [str(word) for word in (*command, "--run", output.parent / "run", *words)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


def timeless(result: dict) -> dict:
    return {name: value for name, value in result.items() if name not in ("machine", "command")}


@pytest.mark.slow
def test_the_experiments_and_what_the_catalogue_reads(tmp_path):
    """Each again from finished trainings gives the same, and every item of the paper reads a figure from it."""
    outputs = {name: tmp_path / f"stage_wise_{name}.json" for name in ("searches", "uniform", "transfer", "imagenet")}
    digits = ("--data", "digits")
    found = {
        "searches": experiment("searches", outputs["searches"], *digits),
        "uniform": experiment("uniform", outputs["uniform"], *digits),
        "transfer": experiment("transfer", outputs["transfer"], "--found", outputs["uniform"]),
    }
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("metrics.jsonl")}
    outputs["searches"].unlink()
    assert timeless(experiment("searches", outputs["searches"], *digits)) == timeless(found["searches"])
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    even = experiment("uniform", tmp_path / "even.json", *digits, "--kinds", "residual", "--even")
    pair = even["even"]["residual"][0]
    assert pair["even"]["flops"] == pytest.approx(pair["found"]["flops"], rel=0.03)
    large = ("--kinds", "bottleneck", "--data", "experiments/_drawn.py:large", "--seeds", 1)
    found["imagenet"] = experiment("uniform", outputs["imagenet"], *large)
    assert len(found["imagenet"]["uniform"]["bottleneck 2"][0]["modules"]) == 4
    for output in outputs.values():
        assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "|---|" in output.with_suffix(".md").read_text()
    read = 0
    for item in paper.PAPER.items:
        if item.ours and item.tiny and item.tiny.results:
            name = item.tiny.results.stem.removeprefix("stage_wise_")
            if name in found:
                assert any(letter.isdigit() for letter in item.ours(found[name])), item.name
                read += 1
    assert read >= 10


def test_unknown_kinds_and_missing_networks_are_refused(tmp_path):
    with pytest.raises(stage_wise_uniform.UserError, match="kind cats: expected residual"):
        stage_wise_uniform.run(stage_wise_uniform.Args(run=tmp_path, kinds=("cats",)))
    assert not list(tmp_path.iterdir())
