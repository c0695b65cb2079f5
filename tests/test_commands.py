"""What every command promises: quick help, refusals in one line, files that belong together, the next command."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from supernet.cli import common
from supernet.cli.common import COMMANDS
from supernet.errors import UserError
from supernet.runs import RunFolder
from tests.conftest import tiny_space
from tests.test_cli import command, ok, refused
from tests.test_cli import run as run_tool

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).parent / "data" / "v0.1"
SEARCH = ("--population", 4, "--iterations", 2, "--random", 2, "--recalibration", 2, 64, "--quiet")
TRAIN = ("--data", "digits", "--limit", 320, "--batch-size", 32, "--epochs", 1, "--quiet")
ALONE = ("--epochs", 1, "--limit", 320, "--batch-size", 32, "--quiet")


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run."""
    shutil.copytree(OLD / "spos", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("tool", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "--no-such-flag"])
def test_help_and_mistyped_flags_do_not_wait_for_pytorch(tool, flag):
    code = f"""
import sys
from supernet.cli.{tool} import main
sys.argv = ["{tool}.py", {flag!r}]
try:
    main()
except SystemExit as stop:
    print(stop.code, sorted({{"torch", "scipy", "sklearn", "matplotlib"}} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == f"{0 if flag == '--help' else 2} []"


def test_the_installed_command_is_the_same_code():
    code = "import sys; sys.argv = ['supernet', *sys.argv[1:]]; from supernet.cli.app import main; main()"

    def supernet(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)

    listed = supernet("--help").stdout
    assert all(f"  {name} " in listed for name in (*COMMANDS.values(), "bench"))
    assert "usage: supernet evolve" in supernet("evolve", "--help").stdout
    wrong = supernet("evole")
    assert wrong.returncode == 2
    assert "expected one of train, lut" in wrong.stderr
    assert wrong.stderr.endswith("; perhaps evolve\n")


def test_bounds_on_counts_alone_need_no_table(run):
    (run / "lut.json").unlink()
    printed = ok("evolve", "--run", run, *SEARCH, "--flops-max", 60e3)
    front = json.loads((run / "front.json").read_text())
    assert front["objectives"] == ["flops"]
    assert "latency" not in front["bounds"]
    assert all(entry["flops"] <= 60e3 for entry in (*front["front"], *front["random"]))
    assert "latency ≤" not in printed


def test_the_winner_of_an_earlier_search_is_not_sold_as_this_one_s(run, tmp_path):
    front = json.loads((run / "front.json").read_text())
    old = tuple(front["front"][front["best"]]["arch"])
    other = next(arch for arch in tiny_space().enumerate() if arch != old)
    front["front"][front["best"]]["arch"] = list(other)
    (run / "front.json").write_text(json.dumps(front))
    message = refused("export", "--run", run, "--output", tmp_path / "x.pt2")
    assert "was trained for an earlier search" in message
    assert "run python tools/retrain.py" in message
    assert not (tmp_path / "x.pt2").exists()
    assert "best was trained for an earlier search: it is left out" in ok("report", "--run", run)
    test_accuracy = json.loads((run / "best/result.json").read_text())["test_accuracy"]
    assert f"best: {100 * test_accuracy:.2f} %" not in (run / "report.html").read_text()


def test_outputs_do_not_replace_files_of_a_run(run):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert "expected the name of a page" in refused("report", "--run", run, "--output", run / "checkpoint.pt")
    assert "is no latency table" in refused("build_lut", "--run", run, "--output", run / "front.json")
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--lr", "inf"), "lr inf: expected a number above 0"),
        (("--lr", "1e300"), "lr 1e+300: expected a number above 0"),
        (("--clip", "inf"), "clip inf: expected at least 0"),
        (("--accumulate", 3), "cannot be split evenly"),
        (("--batch-size", 10**6), "needs a set of at least as many"),
        (("--batch-size", 10**12), "expected at most 2,147,483,647"),
        (("--epochs", 10**20), "expected at most 2,147,483,647"),
        (("--limit", 1), "needs a set of at least as many"),
        (("--warmup-epochs", 2), "2 epochs of warm-up in 1"),
        (("--batch-size", 9, "--cutmix", 1), "9 images at once"),
        (("--train-resolution", 28, "--epochs", 2), "below the run's, 28"),
        (("--train-resolution", 14), "1 fine-tuning epoch in 1 epoch: expected 1 or more, and some before them"),
        (("--finetune-epochs", 1), "1 fine-tuning epoch needs a smaller training resolution before it"),
        (("--auto-augment", "rand", "--no-augment"), "without augmentation"),
    ],
)
def test_nothing_is_set_aside_for_a_training_that_cannot_be(words, expected, run):
    names = sorted(path.name for path in run.iterdir())
    assert expected in refused("retrain", "--run", run, "--epochs", 1, "--controls", 0, "--quiet", *words)
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == names


def test_a_run_that_grows_keeps_its_augmentation_and_kernels(tmp_path, space_file):
    at = ("train_supernet", "--run", tmp_path / "run", "--space", space_file, *TRAIN[:-3], "--quiet")
    ok(*at, "--epochs", 1, "--kernels", "eager")
    ok(*at, "--plan", "--epochs", 40)  # from 30 epochs on a new run is augmented, on the CPU it is fused
    assert "augment: False → True" in refused(*at, "--epochs", 40, "--augment")
    assert "kernels: eager → fused" in refused(*at, "--epochs", 40, "--kernels", "fused")


@pytest.mark.chain
def test_a_search_by_balanced_accuracy_and_its_winner_by_the_modern_recipe(run):
    """The metric goes from the search to what comes after it; the recipe is recorded in full."""
    assert "scores by the metric top1, not balanced" in refused("evolve", "--run", run, *SEARCH, "--metric", "balanced")
    (run / "scores.jsonl").unlink()
    printed = ok("evolve", "--run", run, *SEARCH, "--metric", "balanced")
    assert "one-shot balanced accuracy" in printed
    assert " images, an interval of 95 %" in printed
    front = json.loads((run / "front.json").read_text())
    low, high = front["front"][front["best"]]["one_shot_accuracy_interval"]
    assert low < front["front"][front["best"]]["one_shot_accuracy"] < high
    recipe = ("--recipe", "modern", "--mixup", 0.2, "--optimizer", "lamb", "--auto-augment", "trivial")
    printed = ok("retrain", "--run", run, *ALONE, "--controls", 1, *recipe)
    assert "points of test balanced accuracy" in printed
    result = json.loads((run / "best/result.json").read_text())
    assert result["metric"] == "balanced"
    for name, value in {"recipe": "modern", "optimizer": "lamb", "mixup": 0.2, "schedule": "cosine"}.items():
        assert result["settings"][name] == value
        assert json.loads((run / "best/config.json").read_text())[name] == value
    assert result["test_balanced_accuracy_interval"][0] < result["test_balanced_accuracy"]
    assert "The classes" in ok_page(run)
    assert "other settings" not in ok("retrain", "--run", run, *ALONE, "--controls", 1, *recipe)  # it is finished
    assert "held another training" in ok("retrain", "--run", run, *ALONE, "--controls", 0, "--recipe", "paper")


def ok_page(run: Path) -> str:
    ok("report", "--run", run)
    return (run / "report.html").read_text()


def test_a_single_control_is_in_the_table(run):
    (run / "lut.json").unlink()
    printed = ok("retrain", "--run", run, *ALONE, "--controls", 1)
    assert "random-0" in printed
    assert "against a random architecture" in printed


@pytest.mark.chain
def test_other_classes_than_those_of_the_run(tmp_path):
    for label in range(3):
        for split, n in (("train", 54), ("val", 4)):
            folder = tmp_path / "images" / split / f"grey {label}"
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (32, 32), (80 * label + i % 60,) * 3).save(folder / f"{i}.png")
    at = ("--run", tmp_path / "run")
    images = ("--data", "folder", "--data-root", tmp_path / "images", "--resolution", 32)
    printed = ok("train_supernet", *at, *images, "--space", "mobile-small", "--epochs", 1, "--batch-size", 4, "--quiet")
    assert shlex.split(printed.split("next: ")[1].splitlines()[0])[-2:] == ["--run", str(tmp_path / "run")]
    search = ("evolve", *at, *SEARCH, "--objectives", "flops")
    ok(*search)
    moved = tmp_path / "moved here"
    (tmp_path / "images").rename(moved)
    printed = ok(*search, "--data-root", moved)  # the same images elsewhere
    assert shlex.split(printed.split("next: ")[1].splitlines()[0])[-2:] == ["--data-root", str(moved)]
    for split in ("train", "val"):
        (moved / split / "grey 1").rename(moved / split / "blue")
    for tool in (search, ("retrain", *at, *ALONE)):
        assert "'grey 1' is called 'blue' now" in refused(*tool, "--data-root", moved)
    for split in ("train", "val"):
        (moved / split / "blue").rename(moved / split / "grey 1")
        shutil.copytree(moved / split / "grey 1", moved / split / "more")
    later = run_tool(*search, "--data-root", moved)  # the run goes on with the classes that it has
    assert later.returncode == 0
    assert "classes have been added and are not used: 'more'" in later.stderr


def test_spaces_that_cannot_be_built_name_the_gene(tmp_path):
    at = ("--run", tmp_path / "run", *TRAIN)
    space = json.loads((OLD / "spos/space.json").read_text())
    space.pop("fingerprint")
    train, lut = ("train_supernet", *at), ("build_lut", "--run", tmp_path / "run", "--runtime", "torch")
    pad = ("pad_nas", "--run", tmp_path / "run", "--data", "digits", "--quiet", "--epochs", 1)
    odd = {"choices": [{"op": "shuffle", "kernel": 3, "expand": 0}], "out_channels": 13}
    unknown = {"choices": [{"op": "warp", "kernel": 3, "expand": 0}]}
    for change, message, tools in ((odd, "gene layer0 cannot be", [train, lut]), (unknown, "'warp'", [lut, pad])):
        genes = [{**space["genes"][0], **change}, *space["genes"][1:]]
        allowed = [[0], *space["allowed"][1:]]
        (tmp_path / "own.json").write_text(json.dumps({**space, "genes": genes, "allowed": allowed}))
        for tool in tools:
            assert message in refused(*tool, "--space", tmp_path / "own.json")
    assert not (tmp_path / "run").exists()


def test_dsnas_needs_layers():
    message = refused("train_supernet", "--method", "dsnas", "--space", "residual-small", *TRAIN)
    assert "not one for each layer" in message


def test_a_method_that_is_none():
    assert "expected one of spos, ofa, dsnas, nss" in refused("train_supernet", "--method", "darts")


@pytest.mark.chain
def test_sigterm_ends_a_command_in_order(run, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = command("retrain", "--run", run, "--epochs", 500, "--limit", 320, "--jobs", 2, "--quiet")
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    log = run / "best" / "metrics.jsonl"
    while not (log.exists() and time.time() - log.stat().st_mtime < 5 and log.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in told
    assert "semaphore" not in told


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        ("train_supernet", ("--lr", "nan"), "--lr nan: expected a number"),
        ("train_supernet", ("--epochs", "0"), "--epochs 0: expected at least 1"),
        ("train_supernet", ("--batch-size", "-1"), "--batch-size -1: expected at least 1"),
        ("train_supernet", ("--seed", "-1"), "--seed -1: expected at least 0"),
        (
            "train_supernet",
            ("--method", "nss", "--targets", "nan", "--data", "digits"),
            "--targets nan: expected numbers",
        ),
        ("evolve", ("--flops-max", "nan"), "--flops-max nan: expected a number"),
        ("evolve", ("--workers", "-1"), "--workers -1: expected at least 0"),
        ("retrain", ("--jobs", "0"), "--jobs 0: expected at least 1"),
        ("rank", ("--seeds", "0"), "--seeds 0: expected at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(module, arguments, told, tmp_path, monkeypatch, capsys):
    command = importlib.import_module(f"supernet.cli.{module}")
    monkeypatch.setattr(sys, "argv", [f"tools/{module}.py", "--run", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit) as caught:
        command.main()
    lines = capsys.readouterr().err.splitlines()
    assert (caught.value.code, len(lines)) == (2, 1)
    assert told in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("evolve", ("--flops-max", "1e9")),
        ("specialise", ()),
        ("rank", ("--n", "3", "--epochs", "1")),
        ("retrain", ("--jobs", "1", "--controls", "0", "--epochs", "0", "--inherit")),
    ],
)
def test_a_trained_run_is_run_as_it_was_trained(module, words, run, monkeypatch, capsys):
    """Unless another form is wished for."""
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**settings, "kernels": "eager", "made_with": {"device": "cpu"}}))

    def supernet(self, space, device, kernels):
        raise UserError(f"asked for {kernels}")

    monkeypatch.setattr(RunFolder, "supernet", supernet)
    command = importlib.import_module(f"supernet.cli.{module}")
    for flags, expected in ((), "eager"), (("--kernels", "fused"), "fused"):
        flags = (*words, *flags, "--run", str(run), "--device", "cpu", "--workers", "1", "--quiet")
        monkeypatch.setattr(sys, "argv", [f"tools/{module}.py", *flags])
        with pytest.raises(SystemExit):
            command.main()
        assert f"error: asked for {expected}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pick", "options"),
    [
        ("best", ""),
        ("knee", " --pick knee"),
        ("front-3", " --pick 3"),
        ("best-int8", " --qat"),
        ("knee-int8", " --pick knee --qat"),
        ("config", ""),
    ],
)
def test_a_network_that_is_missing_is_trained_by_its_name(pick, options):
    args = SimpleNamespace(run=Path("r"), pick=pick)
    told = common.with_advice(UserError("none", missing="network"), args)
    assert told.endswith(f"retrain{options} --run r") or told.endswith(f"retrain.py{options} --run r")


def test_a_reader_who_leaves_is_no_error():
    """Such as ``| head -1``."""
    told = subprocess.run(
        f"{sys.executable} tools/train_supernet.py --help | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "usage" in told.stdout
    assert told.stderr == ""


@pytest.mark.parametrize(
    ("model", "distil", "expected"),
    [
        (None, "none", ()),
        ("timm:resnet18", "teacher", ("--inherit", "--teacher", "given")),
        ("timm:resnet18", "inplace", ("--inherit",)),  # weights of other classes: it does not know these images
    ],
)
def test_the_next_command_keeps_the_weights_of_a_given_network(model, distil, expected):
    folder: Any = SimpleNamespace(space=lambda: SimpleNamespace(model=model), config=lambda: {"distil": distil})
    assert common.keeping(folder) == expected


@pytest.mark.parametrize(
    ("name", "path", "started", "told"),
    [
        ("python", "mine", ["mine/python", "tools/evolve.py"], "python"),
        ("python", "theirs", ["mine/python", "tools/evolve.py"], "mine/python"),
        ("python", "", ["mine/python3.11", "tools/evolve.py"], "mine/python3.11"),
        ("supernet", "mine", ["/any/mine/python3", "mine/supernet", "evolve"], "supernet"),
        ("supernet", "theirs", ["/any/mine/python3", "mine/supernet", "evolve"], "mine/supernet"),
        ("supernet", "", ["/any/mine/python3", "-c", "…"], "supernet"),
    ],
)
def test_the_next_command_is_that_of_the_environment_that_runs(name, path, started, told, tmp_path, monkeypatch):
    """As where `make` runs ``.venv/bin/python``: what a shell calls python is another one, or nothing."""
    for place in ("mine", "theirs"):
        for program in ("python", "supernet"):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / program).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / path) if path else "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "mine" / "python3"))
    monkeypatch.setattr(sys, "orig_argv", started)
    assert common.known_as(name) == told
