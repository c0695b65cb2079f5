"""The population benchmark at tiny size: all forms score alike, the recorded population is what it says."""

import json

import numpy as np
import pytest
import torch
from bench import population

from supernet import spaces
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.space import Space

SPACE = spaces.get("mobile-large-small", 1, 28, 10)


def recorded(path, fingerprint=SPACE.fingerprint):
    rng = np.random.default_rng(0)
    archs = [list(SPACE.sample(rng)) for _ in range(3)]
    archs.append([*archs[0][:-1], 1 + archs[0][-1] % 2])
    space = {**SPACE.to_json(), "fingerprint": fingerprint}
    path.write_text(json.dumps({"space": space, "generations": [archs]}))
    return path


def test_every_form_runs_and_agrees(tmp_path):
    torch.set_num_threads(1)
    result = population.run(recorded(tmp_path / "p.json"), images=32, recalibration=(1, 16), generations=1)
    assert result["architectures"] == 4
    assert set(result["ratios"]) == set(result["seconds"])
    assert result["ratios"][population.BASE] == {"wall": 1.0, "cpu": 1.0}
    assert 1 < result["layer_runs_saved"] < 4
    assert "4 architectures" in population.table(result).title


def test_workers_score_as_one_process(tmp_path):
    result = population.share(recorded(tmp_path / "p.json"), 32, (1, 16), 1, Threads(2))
    assert result["at_once"] == 2
    assert min(result["gain"], result["overhead_ms_per_task"]) > 0


def test_scores_that_differ_are_no_benchmark():
    base = {population.BASE: [0.5, 0.6]}
    population.require_equal({**base, "other": [0.5, 0.601]}, 1000)
    with pytest.raises(UserError, match=r"disagree by 0\.1000"):
        population.require_equal({**base, "other": [0.5, 0.5]}, 1000)


def test_a_population_of_another_space_is_refused(tmp_path):
    with pytest.raises(UserError, match="0123456789abcdef"):
        population.run(recorded(tmp_path / "p.json", "0123456789abcdef"), 32, (1, 16), 1)


def test_the_recorded_population_is_of_a_ces():
    """Twelve generations of distinct architectures that the space holds, each scored once."""
    data = json.loads(population.POPULATION.read_text())
    space = Space.from_json(data["space"])
    archs = [space.check(arch) for generation in data["generations"] for arch in generation]
    assert len(data["generations"]) == 12
    assert len(set(archs)) == len(archs) == 384
