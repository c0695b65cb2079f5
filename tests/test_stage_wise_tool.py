"""Stage-Wise NAS at tiny size: interrupted everywhere, from a donor, by the command, and every refusal."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latency.measure import Samples
from latency.on_demand import OnDemandTable
from latency.table import LatencyTable
from search import stage_wise_run, stage_wise_settings
from search.stage_wise import Config, Proposal, StageWise
from search.stage_wise_run import StageRun, Training
from supernet import donors, families, files, metrics
from supernet.cli import stage_wise
from supernet.data import sets
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.executor import Processes, Threads
from supernet.families import module_stages
from supernet.model import Network, load_network
from supernet.progress import silent
from supernet.runs import RunFolder
from supernet.training import checkpoint, energy, standalone
from supernet.training.config import FitConfig, learning_rate
from tests.conftest import whole
from tests.test_cli import ROOT, command, kill_when, ok, refused
from tests.test_train import images

CPU = torch.device("cpu")
DATA = TrainVal(images(64), images(40, seed=1), 10, 1, 14, tuple(map(str, range(10))))
SPACE = module_stages.space("residual", 1, 14, 10, width=4, stem_stride=2, deepest=4)
CONFIG = Config(initial=1, step=1, iterations=3)
TRAINING = Training(FitConfig(epochs=1, batch_size=32, augment=False), further_epochs=1, images=40)


@pytest.fixture
def grows(monkeypatch):
    """Importance that grows stages 2, then 1 and 2, then 3, whatever the networks have learnt."""

    def importance(network, data, criterion, limit):
        assert (criterion, limit) == ("pls", 40)
        depths = module_stages.depths(network.space, network.arch)
        return {(2, 2, 2): [0, 1, 0], (2, 3, 2): [1, 1, 0], (3, 4, 2): [0, 0, 1]}.get(depths, [0.5, 0.5, 0.5])

    monkeypatch.setattr(stage_wise_run, "importance", importance)


def run(folder: Path, stop: int | None = None, **options) -> list[dict]:
    """The results, with ``stop`` up to an interruption in front of the training with this number."""
    trainings, results, train = [], [], standalone.train

    def counting(*args, **kwargs):
        trainings.append(args)
        if len(trainings) == stop:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "train", counting)
        try:
            job = StageRun(RunFolder(folder), SPACE, DATA, TRAINING, CPU, **options)
            for result in job.search(StageWise(CONFIG)):
                results.append(result)
        except KeyboardInterrupt:
            assert stop is not None
    run.trainings = len(trainings)
    return results


def untimed(results: list[dict]) -> list[dict]:
    return [{k: v for k, v in result.items() if k not in ("seconds", "whole")} for result in results]


def test_2n_plus_1_networks_interrupted_at_each(tmp_path, grows):
    whole = run(tmp_path / "whole")
    assert run.trainings == 7 + 3  # and each candidate further
    assert [tuple(r["modules"]) for r in whole if r["role"] == "Â"] == [(1, 2, 1), (2, 3, 1), (2, 3, 2)]
    finished = [1, 2, 2, 3, 4, 4, 5, 6, 6, 7]  # networks after so many trainings: A, T, Â and further, T, …
    for number, networks in enumerate(finished, start=1):
        before = run(tmp_path / "parts", stop=2)  # one training more each time
        assert len(before) == networks
        assert run.trainings == (2 if number < 10 else 1)
    after = run(tmp_path / "parts")
    assert run.trainings == 0
    assert untimed(after) == untimed(whole)
    for result in whole:
        log = files.JsonLines(tmp_path / "whole" / "networks" / result["name"] / "metrics.jsonl").read()
        assert len(log) == (2 if result["role"] == "Â" else 1)  # candidates are trained further
        assert log[-1]["val_accuracy"] == result["val_accuracy"]
        assert log[0]["val_accuracy"] == result["equal_val_accuracy"]
        assert log[-1]["val_top5_accuracy"] == result["val_top5_accuracy"]


def test_importance_is_that_of_equal_training(tmp_path, monkeypatch):
    """Taken before candidates are trained further (§IV), so that A and T have as many epochs."""
    events: list[object] = []
    train = standalone.train

    def training(space, arch, data, cfg, *args, **kwargs):
        events.append(cfg.epochs)
        return train(space, arch, data, cfg, *args, **kwargs)

    def importance(network, *_):
        events.append("α")
        return [float(depth) for depth in module_stages.depths(SPACE, network.arch)]

    monkeypatch.setattr(standalone, "train", training)
    monkeypatch.setattr(stage_wise_run, "importance", importance)
    job = StageRun(RunFolder(tmp_path), SPACE, DATA, TRAINING, CPU)
    assert [r["role"] for r in job.search(StageWise(Config(initial=1, step=1, iterations=1)))] == ["A", "T", "Â"]
    assert events == [1, "α", 1, "α", 1, "α", 2]


def test_progress_of_what_is_trained_again_tells_the_seed(tmp_path, monkeypatch, grows):
    told, initial = [], Proposal("A", 0, (1, 1, 1))

    def noted(label, *of, **how):
        told.append(label)
        return silent(label, *of, **how)

    monkeypatch.setattr(stage_wise_run.executors, "run", lambda *_: None)  # leaves all to this process
    once = dataclasses.replace(TRAINING, fit=dataclasses.replace(TRAINING.fit, seed=4))
    job = StageRun(RunFolder(tmp_path), SPACE, DATA, once, CPU, progress=noted, executor=Threads(2))
    job.spread(initial, job.train(initial), 2)
    first, second = (f"{initial.name}, seed {seed}" for seed in (5, 6))
    assert told == [initial.name, f"{first} and {second}", first, second]


def test_another_pair_is_another_seed_and_no_candidate(tmp_path, monkeypatch):
    """Stage 1 grows by two pairs that agree; a further network of the search has the next seed, and no vote."""
    monkeypatch.setattr(
        stage_wise_run, "importance", lambda network, *_: [float(d) for d in module_stages.depths(SPACE, network.arch)]
    )
    job = StageRun(RunFolder(tmp_path), SPACE, DATA, TRAINING, CPU)
    search = StageWise(Config(initial=1, step=1, iterations=1, pairs=3))
    results = list(job.search(search))
    assert [(r["role"], r["seed"]) for r in results] == [("A", 0), ("T", 0), ("A", 1), ("T", 1), ("Â", 0)]
    assert [r["role"] for r in stage_wise_run.judged(results)] == ["A", "Â"]
    first, second = (load_network(tmp_path / "networks" / results[i]["name"]) for i in (0, 2))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    fit = [torch.load(tmp_path / "networks" / results[i]["name"] / "checkpoint.pt")["fit"]["seed"] for i in (0, 2)]
    assert fit == [0, 1]


def test_networks_trained_side_by_side_are_those_trained_one_by_one(tmp_path):
    def run(folder: Path, executor: Processes) -> list[dict]:
        job = StageRun(RunFolder(folder), SPACE, DATA, TRAINING, CPU, executor=executor)
        return untimed(list(job.search(StageWise(Config(initial=1, step=1, iterations=1)))))

    assert run(tmp_path / "one", Processes(1)) == run(tmp_path / "two", Processes(2))


@pytest.mark.parametrize(("metric", "best"), [("top1", (2, 1, 1)), ("balanced", (1, 2, 1)), ("top5", (1, 2, 1))])
def test_the_best_network_is_that_by_the_metric(metric, best, tmp_path):
    """The initial network is no candidate; of equals the last is taken."""
    shares = {(1, 1, 1): (0.9, 0.9, 0.9), (2, 1, 1): (0.5, 0.1, 0.6), (1, 2, 1): (0.4, 0.2, 0.6)}
    results = [
        {"name": f"{i}", "role": "Â" if i else "A", "iteration": i, "modules": list(modules), "params": 1, "flops": 1}
        | dict(zip(("val_accuracy", "val_balanced_accuracy", "val_top5_accuracy"), values, strict=True))
        for i, (modules, values) in enumerate(shares.items())
    ]
    names = ("test_accuracy", "test_balanced_accuracy", "test_top5_accuracy")
    tested = {name: {f"{i}": (1 + i + j) / 10 for i in range(3)} for j, name in enumerate(names)}
    job = StageRun(RunFolder(tmp_path), SPACE, DATA, TRAINING, CPU, metric=metric)
    assert tuple(job.write_best(results, tested, None)["modules"]) == best
    found = json.loads((tmp_path / "arch.json").read_text())
    name = metrics.key("test", metric)
    assert (found["metric"], found[name]) == (metric, tested[name][found["name"]])
    for result in results:
        result |= {"importance": [0.5] * 3, "seconds": 1.0, "whole": True}
    table = stage_wise_run.table(results, tested, "pls", None, 1, False, metric)
    assert table.headings[-1] == f"{metrics.HEADINGS[metric]}test %"
    assert table.rows[1][-1] == f"{100 * tested[name]['1']:.2f}"


@pytest.mark.parametrize("noise", [None, [0.1, 0.2]])
@pytest.mark.parametrize("carbon", [False, True])
def test_every_row_of_the_table_has_a_cell_for_each_heading(noise, carbon):
    names = {"A": "0-initial-1-1", "Â": "1-candidate-2-1"}
    counts = {"modules": [1, 1], "importance": [0.5, 0.25], "flops": 10**6, "params": 10**3, "val_accuracy": 0.5}
    results = [
        {"name": name, "role": role, "iteration": i, "seconds": 3.0, "whole": True, "seed": i, **counts}
        for i, (role, name) in enumerate(names.items())
    ]
    table = stage_wise_run.table(results, {"test_accuracy": {names["A"]: 0.4}}, "pls", noise, 2, carbon)
    assert {len(row) for row in table.rows} == {len(table.headings)}
    assert [row[0] for row in table.rows[:2]] == ["0 initial", "1 candidate seed 1"]


def test_a_donor_is_where_every_network_starts(tmp_path, grows):
    """Without an epoch of training the networks are cut out of the donor."""
    donor = Network(SPACE, module_stages.arch(SPACE, (4, 4, 4)), kernels="eager")
    still = Training(FitConfig(epochs=0, batch_size=32), images=40)
    for result in StageRun(RunFolder(tmp_path), SPACE, DATA, still, CPU, donor=donor).search(StageWise(CONFIG)):
        network = load_network(tmp_path / "networks" / result["name"])
        for own, given in zip(donors.stages(network), donors.stages(donor), strict=True):
            assert len(own) <= len(given)
            for module, source in zip(own, given, strict=False):
                assert all(torch.equal(v, source.state_dict()[k]) for k, v in module.state_dict().items())


def test_what_a_meter_says_is_kept(tmp_path, grows):
    @contextmanager
    def meter():
        spent = {}
        yield spent
        spent["energy_kwh"] = 0.25

    for results in (run(tmp_path, meter=meter), run(tmp_path)):  # that of further epochs is added
        assert {(r["role"], r["energy_kwh"]) for r in results} == {("A", 0.25), ("T", 0.25), ("Â", 0.5)}


def test_the_vote_is_by_the_mean_probability():
    networks = [Network(SPACE, module_stages.arch(SPACE, (1, 1, d)), kernels="eager").eval() for d in (1, 2, 3)]
    for network in networks:
        torch.nn.init.normal_(network.head.classifier.weight)
    x, y = whole(DATA.val)
    alone, together = stage_wise_run.vote(networks, [(x[:25], y[:25]), (x[25:], y[25:])])
    with torch.no_grad():
        p = [torch.softmax(network(x), 1) for network in networks]
    assert [a.share() for a in alone] == pytest.approx([(q.argmax(1) == y).float().mean().item() for q in p])
    assert together.share() == pytest.approx((sum(p).argmax(1) == y).float().mean().item())
    first_five = (sum(p).topk(5).indices == y[:, None]).any(1).float().mean().item()
    assert together.share("top5") == pytest.approx(first_five)


def test_the_paper_s_schedule():
    """§IV: .01, divided by 10 at epochs 100 and 150 of 200, each of three passes; 100 further ones at the last rate."""
    given = stage_wise_settings.preset(True, "residual")
    cfg = stage_wise_settings.fit_config(True, given, seed=0)
    assert (cfg.epochs, cfg.batch_size, cfg.weight_decay, cfg.nesterov) == (3 * 200, 128, 2e-4, True)
    cfg = dataclasses.replace(cfg, epochs=cfg.epochs + given.further_epochs * given.passes)
    rates = [learning_rate(cfg, 3 * epoch * 7, 7) for epoch in (0, 99, 100, 149, 150, 199, 200, 299)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4, 1e-4])


def test_the_authors_l2_is_our_decay():
    """Keras adds 1e-4 · w² to the loss; one step of SGD on that alone is our step without a gradient."""
    w = torch.full((2, 2), 3.0, requires_grad=True)
    (1e-4 * w.square().sum()).backward()
    cfg = stage_wise_settings.fit_config(True, stage_wise_settings.preset(True, "residual"), seed=0)
    assert torch.allclose(w.grad, cfg.weight_decay * w.detach())


# --- the command

SMALL = ("--data", "digits", "--limit", 96, "--batch-size", 32, "--width", 4, "--initial", 1, "--iterations", 2)
SMALL += ("--epochs", 2, "--lr", 0.05, "--jobs", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("tool") / "run"
    return folder, ok("stage_wise", "--run", folder, *SMALL)


def test_one_command_makes_the_whole_run(finished):
    folder, printed = finished
    assert "ensemble of all candidates" in printed
    state = json.loads((folder / "search.json").read_text())
    results = [json.loads(path.read_text()) for path in folder.glob("networks/*/result.json")]
    assert {r["name"] for r in results} >= {"0-initial-1-1-1", "1-temporary-2-2-2"}
    assert len(results) == len(state["records"])
    found = json.loads((folder / "arch.json").read_text())
    tested = json.loads((folder / "candidates.json").read_text())
    assert found["test_accuracy"] == tested["test_accuracy"][found["name"]]
    assert found["val_accuracy"] == max(r["val_accuracy"] for r in results if r["name"] in tested["test_accuracy"])
    assert 0 <= tested["ensemble_test_accuracy"] <= 1
    assert (folder / "depths.png").read_bytes().startswith(b"\x89PNG")
    assert f"next: python tools/export.py --run {folder} --pick networks/{found['name']}" in printed.replace("\n", "")
    network = load_network(folder / "networks" / found["name"])
    assert module_stages.depths(network.space, network.arch) == tuple(found["modules"])


def test_killed_and_continued(finished, tmp_path):
    whole, _ = finished
    arguments = ("--run", tmp_path / "killed", *SMALL, "--quiet")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("stage_wise", *arguments), cwd=ROOT, env=environment, **quiet)
    first = tmp_path / "killed" / "networks" / "0-initial-1-1-1"
    kill_when(process, (first / "result.json").exists)
    trained = (first / "checkpoint.pt").stat().st_mtime_ns
    ok("stage_wise", *arguments)
    assert (first / "checkpoint.pt").stat().st_mtime_ns == trained
    for name in ("search.json", "arch.json", "candidates.json"):
        assert (tmp_path / "killed" / name).read_text() == (whole / name).read_text(), name


@pytest.mark.slow
@pytest.mark.parametrize("module", ["bottleneck", "nasnet"])
def test_the_other_modules(module, tmp_path, monkeypatch):
    """Bottlenecks on images large enough for the four stages of ResNet-50; NASNet's cells on digits."""
    options = {
        "run": tmp_path / "run",
        "iterations": 1,
        "width": 2,
        "epochs": 1,
        "jobs": 1,
        "device": "cpu",
        "quiet": True,
    }
    if module == "bottleneck":
        monkeypatch.setattr(sets, "VAL_PER_CLASS", 4)
        rng = np.random.default_rng(0)
        for part, count in (("train", 24), ("val", 3)):
            for name in ("cat", "dog"):
                (tmp_path / part / name).mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
        options |= {"data": "folder", "data_root": tmp_path, "resolution": 96, "initial": 1, "batch_size": 8}
    else:
        options |= {"data": "digits", "limit": 64, "batch_size": 32}
    stage_wise.run(stage_wise.Args(module=module, **options))
    found = json.loads((tmp_path / "run" / "arch.json").read_text())
    assert len(found["modules"]) == (4 if module == "bottleneck" else 3)
    assert min(found["modules"]) >= (1 if module == "bottleneck" else 2)


def test_from_a_donor_without_training(finished, tmp_path):
    """T of an earlier search gives a search its weights: its own T is as accurate to the last image."""
    given = finished[0] / "networks" / "1-temporary-2-2-2"
    options = {"data": "digits", "limit": 96, "batch_size": 32, "width": 4, "initial": 1, "iterations": 1, "lr": 0.05}
    args = stage_wise.Args(
        run=tmp_path / "run", donor=str(given), epochs=0, jobs=1, device="cpu", quiet=True, **options
    )
    stage_wise.run(args)
    again = tmp_path / "run" / "networks" / given.name / "result.json"
    before, after = (json.loads(path.read_text()) for path in (given / "result.json", again))
    assert after["val_accuracy"] == before["val_accuracy"]
    assert after["importance"] == pytest.approx(before["importance"])


def table_of(path: Path, space, ms: float) -> Path:
    """A latency table in which every layer of a space takes as long."""
    measured = Samples(median_ms=ms, p10=ms, p90=ms, min=ms, n=12, aa=0.01, cpu_wall=1.0, source="wall", noisy=False)
    table = LatencyTable(
        space={"name": space.name, "fingerprint": space.fingerprint},
        device={"cpu": "abacus", "cores": 1, "core": None},
        runtime={"name": "torch", "options": {}},
        batch=1,
        threads=1,
        input=(space.channels, *space.input_size),
        protocol={"rounds": 12},
        operations={spec.key: measured for spec in families.layout(space).every()},
    )
    files.write_json(path, table.to_json())
    return path


def test_a_bound_on_latency(finished, tmp_path):
    """Every layer takes 1 ms: stem, head and at most four modules stay below 6.5."""
    table = table_of(tmp_path / "lut.json", RunFolder(finished[0]).space(), 1.0)
    small = {"data": "digits", "limit": 96, "batch_size": 32, "width": 4, "initial": 1, "iterations": 2, "epochs": 1}
    args = stage_wise.Args(run=tmp_path / "run", latency_max=6.5, lut=table, quiet=True, jobs=1, device="cpu", **small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_wise_run, "importance", lambda network, *_: [float(len(network.layers))] * 3)
        stage_wise.run(args)
    found = json.loads((tmp_path / "run" / "search.json").read_text())["records"]
    assert [sum(r["network"]["modules"]) for r in found if r["network"]["role"] == "Â"] == [4]
    with pytest.raises(UserError, match="a bound of 5 on latency in ms excludes every candidate: the initial"):
        stage_wise.run(dataclasses.replace(args, run=tmp_path / "none", latency_max=5.0))
    assert not (tmp_path / "none").exists()


def test_latencies_measured_as_layers_come_up_are_of_the_run_s_space(tmp_path, monkeypatch):
    """By a clock that gives every layer and network 1 ms: five layers of the initial network, and one factor."""
    ms = {"median_ms": 1.0, "p10": 1.0, "p90": 1.0, "min": 1.0, "n": 12, "aa": 0.01, "cpu_wall": 1.0}
    measured = Samples(**ms, source="wall", noisy=False)
    monkeypatch.setattr(OnDemandTable, "_time", lambda self, modules, what: dict.fromkeys(modules, measured))
    small = {"data": "digits", "limit": 96, "batch_size": 32, "width": 4, "initial": 1, "iterations": 1, "epochs": 1}
    args = stage_wise.Args(run=tmp_path, latency_max=100.0, quiet=True, jobs=1, device="cpu", **small)
    stage_wise.run(args)
    space = RunFolder(tmp_path).space()
    table = LatencyTable.load(tmp_path / "lut.json", space)
    one, two = (table.predict_arch(space, arch) for arch in ((0, 0, 0), (1, 1, 1)))
    assert two / one == pytest.approx(8 / 5)


def test_a_donor_that_is_deep_in_the_middle(finished, tmp_path):
    """ResNet-152 has 3-8-36-3 modules; what it lacks is a bound of its stage."""
    donor = Network(RunFolder(finished[0]).space(), (0, 2, 1), kernels="eager")
    checkpoint.save(
        tmp_path / "donor" / "checkpoint.pt",
        {"model": donor.state_dict(), "finished": True, "meta": meta_of(donor)},
    )
    small = {"data": "digits", "limit": 96, "batch_size": 32, "width": 4, "initial": 1, "iterations": 2, "epochs": 0}
    args = stage_wise.Args(
        run=tmp_path / "run", donor=str(tmp_path / "donor"), quiet=True, jobs=1, device="cpu", **small
    )
    with pytest.raises(UserError, match="stages of 1-3-2 modules, but 3-3-3 are needed"):
        stage_wise.run(args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_wise_run, "importance", lambda network, *_: [float(len(network.layers))] * 3)
        stage_wise.run(dataclasses.replace(args, depth_max=(1, 3, 2)))
    found = json.loads((tmp_path / "run" / "search.json").read_text())["records"]
    assert [tuple(r["network"]["modules"]) for r in found] == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 3, 2), (1, 3, 2)]


def meta_of(network: Network) -> dict:
    return {"kind": "network", "space": network.space.to_json(), "arch": list(network.arch), "eps": 1e-5}


def test_refusals_before_any_training(finished, tmp_path):
    fresh = ("--run", tmp_path / "run", *SMALL)
    message = refused("stage_wise", *fresh, "--module", "dense")
    assert "expected a module among residual, bottleneck, nasnet, got 'dense'" in message
    assert "multiply-adds excludes every candidate" in refused("stage_wise", *fresh, "--flops-max", 1000)
    donor = finished[0] / "networks" / "0-initial-1-1-1"
    message = refused("stage_wise", *fresh, "--donor", donor)
    assert "the donor has stages of 1-1-1 modules, but 3-3-3 are needed" in message
    assert not (tmp_path / "run").exists()  # nothing half-written


def test_more_refusals(finished, tmp_path, monkeypatch):
    """Without a process for each."""
    monkeypatch.setitem(sys.modules, "codecarbon", None)  # not to be imported, even where it is installed
    small = {"data": "digits", "limit": 96, "batch_size": 32, "width": 4, "initial": 1, "iterations": 2}
    small |= {"epochs": 2, "lr": 0.05, "device": "cpu", "run": tmp_path / "run"}
    for change, message in (
        ({"depth_max": (1,)}, "at most 1 modules in a stage exclude every candidate"),
        ({"params_max": 10.0}, "a bound of 10 on parameters excludes every candidate"),
        ({"epochs": 0}, "0 epochs train nothing"),
        ({"passes": 0}, "0 passes in an epoch: expected at least 1"),
        ({"pairs": 0}, "pairs is 0; expected at least 1"),
        ({"level": 1.0}, "level is 1; expected a number between 0 and 1"),
        ({"depth_max": (3, 3)}, "bounds on depth 3-3, but there are 3 stages"),
        ({"lut": tmp_path / "lut.json"}, "--lut is for --latency-max"),
        ({"lut": tmp_path / "lut.json", "latency_max": 1.0}, "lut.json"),
        ({"noise": -1}, "expected no negative number"),
        ({"criterion": "vip"}, "criterion vip: expected pls, inf-fs, il-fs"),
        ({"batch_size": 200}, "lower the batch size"),
        ({"module": "nasnet"}, "space nasnet-3x4 has 3 stages of 2 to 3 modules, asked for 1-1-1"),
        ({"carbon": True}, "measuring energy needs the extra carbon"),
        ({"run": finished[0], "width": 8}, "width: 4 → 8"),
        ({"run": finished[0], "metric": "top5"}, "metric: top1 → top5"),
    ):
        with pytest.raises(UserError, match=message):
            stage_wise.run(stage_wise.Args(**{**small, **change}))
    assert not (tmp_path / "run").exists()


def test_countries(monkeypatch):
    """Those that codecarbon knows; here by a stand-in of it."""
    package, data = types.ModuleType("codecarbon"), types.ModuleType("codecarbon.input")
    data.DataSource = type("DataSource", (), {"get_global_energy_mix_data": lambda self: {"DEU": {}, "USA": {}}})
    monkeypatch.setitem(sys.modules, "codecarbon", package)
    monkeypatch.setitem(sys.modules, "codecarbon.input", data)
    energy.require("DEU")
    for unknown in ("Germany", "XYZ", "deu"):
        with pytest.raises(UserError, match=f"country {unknown}: expected an ISO code of three letters"):
            energy.require(unknown)


@pytest.mark.filterwarnings("default")  # its own: turned into errors they would stop it
def test_energy_is_measured_where_codecarbon_is_installed():
    pytest.importorskip("codecarbon")
    energy.require("DEU")
    with pytest.raises(UserError, match="country XYZ"):
        energy.require("XYZ")
    with energy.measure("DEU") as spent:
        sum(range(10**7))
    assert spent["energy_kwh"] > 0
    assert 0.1 < spent["co2_kg"] / spent["energy_kwh"] < 1  # Germany's electricity, in kg/kWh
