"""Run folders: beginning, continuing, starting over, locking; what belongs together; runs of version 0.1."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

from supernet import machine
from supernet.errors import CheckpointError, SpaceMismatch, UserError
from supernet.runs import RunFolder
from tests.conftest import tiny_space

OLD = Path(__file__).parent / "data" / "v0.1"
CPU = torch.device("cpu")


@pytest.fixture
def old(tmp_path) -> RunFolder:
    """A finished run of version 0.1, to be spoiled."""
    shutil.copytree(OLD / "spos", tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_a_run_begins_continues_and_starts_over(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.begin({"epochs": 3, "data_root": "here"})
    assert not run.begin({"epochs": 3, "data_root": "moved"})
    before = run.config_path.read_bytes()
    with pytest.raises(UserError, match=r"holds a run with other settings \(epochs: 3 → 4\)") as caught:
        run.begin({"epochs": 4})
    assert caught.value.missing == "another run"
    assert run.config_path.read_bytes() == before
    (run.path / "thesis.tex").write_text("precious")
    run.metrics.append({"epoch": 1})
    assert run.begin({"epochs": 4}, restart=True)
    assert run.config()["epochs"] == 4
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "thesis.tex"]


def test_a_run_notes_the_processor_and_goes_on_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cpu", lambda: "Some Core 7")
    run = RunFolder(tmp_path / "run")
    run.begin({"epochs": 3}, made_with={"device": "cuda", "gpu": "Some GPU"})
    assert {"cpu": "Some Core 7", "gpu": "Some GPU"}.items() <= run.config()["made_with"].items()
    monkeypatch.setattr(machine, "cpu", lambda: "Another")
    assert not run.begin({"epochs": 3}, made_with={"device": "cpu"})
    assert run.config()["made_with"]["cpu"] == "Some Core 7"


def test_settings_that_version_0_1_did_not_have_are_not_another_run(old):
    settings = {k: v for k, v in old.config().items() if k != "made_with"}
    assert not old.begin({**settings, "new_option": None})
    with pytest.raises(UserError, match="new_option: None → 1"):
        old.begin({**settings, "new_option": 1})


def test_a_folder_that_is_no_run_is_not_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match="is not a run"), run.lock():
        run.begin({}, restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_configuration_of_something_else_is_no_run(restart, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "seed": 3}')
    (tmp_path / "best").mkdir()
    with pytest.raises(UserError, match="is not a run") as caught:
        RunFolder(tmp_path).begin({"epochs": 1}, restart=restart)
    assert caught.value.missing is None  # no advice to delete it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "config.json"]


@pytest.mark.parametrize("name", sorted(path.name for path in OLD.iterdir() if path.is_dir()))
def test_everything_that_a_run_has_written_is_deleted(name, tmp_path):
    run = RunFolder(shutil.copytree(OLD / name, tmp_path / "run"))
    run.delete()
    assert list(run.path.iterdir()) == []


def test_a_search_of_spaces_has_no_supernet_to_choose_from():
    run = RunFolder(OLD / "nss")
    with pytest.raises(CheckpointError, match=r"elite-…/space\.json") as caught:
        run.supernet(run.space(), CPU, "eager")
    assert caught.value.missing is None


def test_a_flipped_bit_is_damage_not_another_supernet(old):
    data = bytearray(old.checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    old.checkpoint.write_bytes(data)
    front = json.loads(old.front_path.read_text())
    old.front_path.write_text(json.dumps({**front, "checkpoint": "0123456789abcdef"}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
        old.front(old.space())


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": None},
        {"evaluated": "many"},
        {"bounds": {"latency": [0.5]}},
        *({"objectives": value} for value in (0, None, [], {}, [[1]], ["x"], "flops")),
        {"front": [{"arch": [0, 0, 0], "latency_ms": 1.0}]},
        {"random": [{"arch": [0, 0, 0], "layers": "", "one_shot_accuracy": 1e9, "latency_ms": 1.0}]},
    ],
)
def test_a_front_that_lacks_what_its_page_shows_is_refused(change, old):
    front = json.loads(old.front_path.read_text())
    changed = {name: value for name, value in {**front, **change}.items() if value is not None or name == "objectives"}
    old.front_path.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="not a readable front"):
        old.front(old.space())


def hold(path: Path, held, let_go) -> None:
    with RunFolder(path).lock():
        held.set()
        let_go.wait(30)


def test_two_processes_do_not_write_in_one_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "run", held, let_go))
    process.start()
    assert held.wait(30)
    with (
        pytest.raises(UserError, match=rf"another process is at work .*\(pid {process.pid}\)"),
        RunFolder(tmp_path / "run").lock(),
    ):
        raise AssertionError("two held it")
    let_go.set()
    process.join(30)
    with RunFolder(tmp_path / "run").lock():
        pass


def test_a_refused_command_leaves_no_folder_behind(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="refused"), run.lock():
        raise UserError("refused")
    assert not run.path.exists()


def test_a_run_of_version_0_1_opens_whole(old):
    space = old.space()
    assert space.fingerprint == json.loads(old.space_path.read_text())["fingerprint"]
    front = old.front(space)
    assert front["front"][front["best"]]["arch"] == json.loads((old.path / "best/result.json").read_text())["arch"]
    supernet = old.supernet(space, CPU, "eager")
    network = old.network("best").trained(space)
    x = torch.zeros(1, space.channels, space.resolution, space.resolution)
    assert supernet.eval()(x, network.arch).shape == network(x).shape == (1, space.classes)
    assert list(old.results()) == ["best", "random-0"]
    assert len(old.metrics.read()) == 2
    child = RunFolder(OLD / "dsnas")
    assert child.found()["arch"] == list(child.child.trained(child.space()).arch)
    assert RunFolder(OLD / "nss").elite(340000.0).space().fingerprint == RunFolder(OLD / "nss").space().fingerprint


def test_a_front_of_other_weights_is_refused(old):
    space = old.space()
    front = json.loads(old.front_path.read_text())
    old.write_front(space, front["front"], front["random"], {"latency": (0.0, float("inf"))})
    old.front(space)
    state = torch.load(old.checkpoint, weights_only=True)
    name = next(iter(state["model"]))
    state["model"][name] = state["model"][name] + 1
    torch.save(state, old.checkpoint)
    with pytest.raises(UserError, match="found on other weights") as caught:
        old.front(space)
    assert caught.value.missing == "front"


def test_a_network_of_an_earlier_search_is_told(old):
    front = old.front(old.space())
    arch = tuple(front["front"][front["best"]]["arch"])
    assert not old.stale("best", arch, front)
    assert old.stale("best", (*arch[:-1], arch[-1] + 1), front)
    assert old.stale("front-99", arch, front)  # the front has become shorter
    assert not old.stale("child", arch, front)
    assert not old.stale("best", arch, None)


def test_what_is_missing_is_named(tmp_path, old):
    nothing = RunFolder(tmp_path / "none")
    for open_, missing in ((nothing.config, "supernet"), (nothing.space, "supernet")):
        with pytest.raises(UserError) as caught:
            open_()
        assert caught.value.missing == missing
    space = old.space()
    other = tiny_space(layers=2)
    with pytest.raises(SpaceMismatch, match=space.fingerprint):
        old.supernet(other, CPU, "eager")
    with pytest.raises(CheckpointError, match="not trained to the end"):
        RunFolder(OLD / "half").supernet(space, CPU, "eager")
    with pytest.raises(CheckpointError, match="holds no network but supernet"):
        old.trained(space)


def test_files_do_not_start_code(old):
    config = json.loads(old.config_path.read_text())
    trap = old.path / "trap.py"
    trap.write_text(f"open({str(old.path / 'sprung')!r}, 'w')\ndef images(root):\n    return [], []\n")
    old.config_path.write_text(json.dumps({**config, "data": f"{trap}:images"}))
    with pytest.raises(UserError, match="come from the code") as caught:
        old.images()
    assert caught.value.missing == "code"
    assert not (old.path / "sprung").exists()


def test_epochs_may_grow_and_are_recorded(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"epochs": 3, "lr": 0.1}, grows=("epochs",))
    with pytest.raises(UserError, match="epochs: 3 → 2"):
        run.begin({"epochs": 2, "lr": 0.1}, grows=("epochs",))
    with pytest.raises(UserError, match=r"lr: 0\.1 → 0\.2"):
        run.begin({"epochs": 5, "lr": 0.2}, grows=("epochs",))
    assert not run.begin({"epochs": 5, "lr": 0.1}, grows=("epochs",))
    assert run.config()["epochs"] == 5
    assert run.config()["made_with"]["extended"] == [{"epochs": 3}]


def test_a_setting_that_an_older_version_did_not_have_is_its_default(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"epochs": 3})
    assert not run.begin({"epochs": 3, "precision": "auto"}, defaults={"precision": "auto", "epochs": 12})
    with pytest.raises(UserError, match="precision: auto → bf16"):
        run.begin({"epochs": 3, "precision": "bf16"}, defaults={"precision": "auto"})


def test_weights_without_a_configuration_are_nobody_s(old):
    old.config_path.unlink()
    before = old.checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"weights without a config\.json"):
        old.begin({"lr": 1.0})
    assert old.checkpoint.read_bytes() == before
    assert old.begin({"lr": 1.0}, restart=True)
    assert not old.checkpoint.exists()


def test_the_configuration_of_a_deleted_run_goes_last_and_the_lock_stays(old, monkeypatch):
    with old.lock():
        unlink, gone = Path.unlink, []
        monkeypatch.setattr(Path, "unlink", lambda path, **options: (gone.append(path.name), unlink(path, **options)))
        old.delete()
    assert gone[-1] == "config.json"
    assert [path.name for path in old.path.iterdir()] == [".lock"]


def test_accuracies_beyond_one_and_numbers_beyond_the_front_are_refused(old):
    front = json.loads(old.front_path.read_text())
    for field, value in (("best", 99), ("knee", -1), ("best", "0"), ("front", [])):
        old.front_path.write_text(json.dumps({**front, field: value}))
        with pytest.raises(UserError, match="front"):
            old.front(old.space())
    front["front"][0]["one_shot_accuracy"] = 1e9
    old.front_path.write_text(json.dumps(front))
    with pytest.raises(UserError, match=r"one_shot_accuracy is .*expected a number from 0 to 1"):
        old.front(old.space())


def test_kernels_are_those_that_a_run_was_trained_with_on_such_a_device(tmp_path, old):
    run = RunFolder(tmp_path / "new")
    run.begin({"kernels": "eager"}, made_with={"device": "cpu"})
    assert [run.kernels(CPU, wish) for wish in ("auto", "fused", "eager")] == ["eager", "fused", "eager"]
    assert old.kernels(CPU) == "fused"  # version 0.1 did not record the device
    other = RunFolder(tmp_path / "other")
    other.begin({"kernels": "eager"}, made_with={"device": "cuda"})
    assert other.kernels(CPU) == "fused"
    assert RunFolder(tmp_path / "none").kernels(CPU) == "fused"


def test_kernels_that_do_not_synchronise_are_left_for_it(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"kernels": "fused"}, made_with={"device": "cpu"})
    assert run.kernels(CPU, sync_bn=True) == "eager"
    with pytest.raises(UserError, match="need eager kernels"):
        run.kernels(CPU, "fused", sync_bn=True)


def test_kernels_that_are_none_are_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.begin({"kernels": "fussed"}, made_with={"device": "cpu"})
    with pytest.raises(UserError, match="kernels is 'fussed', expected 'fused' or 'eager'"):
        run.kernels(CPU)
