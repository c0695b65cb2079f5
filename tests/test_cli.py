"""The four commands as people type them: the chain, a kill in between, and every refusal."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn import datasets

from supernet.data import sets
from supernet.errors import UserError
from supernet.model import load_network
from supernet.runs import RunFolder
from supernet.training import checkpoint
from supernet.training.evaluation import evaluate
from tests.conftest import tiny_space
from tests.forks import forks

ROOT = Path(__file__).parents[1]
TRAIN = ("--data", "digits", "--batch-size", "32", "--limit", "320", "--epochs", "4")
SEARCH = ("--population", "5", "--iterations", "8", "--random", "4", "--recalibration", "4", "64")
WIDE = (*SEARCH, "--lat-max", "70")  # every architecture of the tiny space: enough generations to be killed in


def command(tool: str, *args: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, args)]


def run(tool: str, *args: object) -> subprocess.CompletedProcess:
    return forks().run(tool, *args)


def ok(tool: str, *args: object) -> str:
    result = run(tool, *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(tool: str, *args: object) -> str:
    """The one line on stderr of a command that must exit with code 2."""
    result = run(tool, *args)
    lines = [line for line in result.stderr.splitlines() if line]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def chain(tmp_path_factory, space_file) -> tuple[Path, dict[str, str]]:
    """A finished run of all four commands, and what each printed."""
    folder = tmp_path_factory.mktemp("runs") / "chain"
    printed = {
        "train": ok("train_supernet", "--run", folder, "--space", space_file, *TRAIN),
        "lut": ok("build_lut", "--run", folder, "--rounds", 10, "--check-archs", 2),
        "evolve": ok("evolve", "--run", folder, *WIDE),
        "retrain": ok("retrain", "--run", folder, "--controls", 2, "--epochs", 1, "--limit", 320, "--batch-size", 32),
    }
    return folder, printed


@pytest.fixture
def copy(chain, tmp_path) -> Path:
    """The finished run, to be spoiled."""
    shutil.copytree(chain[0], tmp_path / "run")
    return tmp_path / "run"


def test_each_command_prints_the_next(chain):
    folder, printed = chain
    assert f"next: python tools/build_lut.py --run {folder}" in printed["train"]
    assert f"next: python tools/evolve.py --run {folder} --lat-max" in printed["lut"]
    assert f"next: python tools/retrain.py --pick best --run {folder}" in printed["evolve"]
    assert "2 random" in printed["retrain"]
    assert f"next: python tools/report.py --run {folder}" in printed["retrain"]


def test_the_chain_leaves_what_it_names(chain):
    folder, _ = chain
    front = json.loads((folder / "front.json").read_text())
    space = tiny_space()
    accuracies = [entry["one_shot_accuracy"] for entry in front["front"]]
    latencies = [entry["latency_ms"] for entry in front["front"]]
    assert latencies == sorted(latencies)
    assert accuracies == sorted(accuracies)  # a front: more time, more accuracy
    assert max(latencies) <= front["bounds"]["latency"][1]
    for entry in front["front"] + front["random"]:
        space.check(entry["arch"])
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((folder / "best" / "result.json").read_text())
    assert result["arch"] == front["front"][front["best"]]["arch"]
    assert 0 <= result["test_accuracy"] <= 1
    assert result["measured_latency_ms"] > 0


class Page(HTMLParser):
    """What a browser would show and load."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.loads, self.tags = [], [], []
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_tells_the_whole_run(copy):
    ok("report", "--run", copy)
    page = Page(copy / "report.html")
    text = " ".join(page.text)
    for name in ("best", "random-0", "random-1"):
        result = json.loads((copy / name / "result.json").read_text())
        assert name in text
        assert f"{100 * result['test_accuracy']:.2f}" in text
    front = json.loads((copy / "front.json").read_text())
    assert all(entry["layers"] in text for entry in front["front"])
    pictures = [
        base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in page.loads if "png" in source
    ]
    assert len(pictures) >= 3  # of mistakes
    assert all(source.startswith("data:") for source in page.loads)  # nothing comes from elsewhere
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_a_page_about_half_a_run_and_about_names_that_are_code(copy):
    for name in ("lut.json", "front.json", "population.jsonl"):
        (copy / name).unlink()
    for name in ("best", "random-0", "random-1"):
        shutil.rmtree(copy / name)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "data": "<script>alert(1)</script>"}))
    ok("report", "--run", copy, "--output", copy / "page.html")
    page = Page(copy / "page.html")
    assert "No network is trained yet" in " ".join(page.text)
    assert page.tags.count("script") == 2  # the data and what draws them
    assert refused("report", "--run", copy / "nothing").count("train_supernet.py") == 1


def test_the_trained_network_loads_as_plain_pytorch(chain):
    folder, _ = chain
    network = load_network(folder / "best")
    result = json.loads((folder / "best" / "result.json").read_text())
    test = sets.open_test("digits", Path("data"))
    accuracy = evaluate(network, test.batches(64, seed=0, epoch=0, augment=False, drop_last=False))
    assert accuracy == pytest.approx(result["test_accuracy"], abs=1.5 / len(test))
    with pytest.raises(UserError, match="holds no network but supernet"):
        load_network(folder)


def test_a_profile_tells_the_slowest_operators(chain, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra [onnx]")
    printed = ok("export", "--run", chain[0], "--output", tmp_path / "best.onnx", "--no-timed", "--profile")
    assert "by the profiler of onnxruntime" in printed
    rows = [re.split(r" {2,}", line.strip()) for line in printed.splitlines() if line.rstrip().endswith("%")]
    assert any(row[1].strip().startswith("Conv ") for row in rows)
    ms = [float(row[2]) for row in rows]
    assert ms == sorted(ms, reverse=True)
    assert all(0 <= float(row[3].strip(" %")) <= 100 for row in rows)


def test_the_winners_are_measured_beside_their_prediction(chain, copy):
    assert re.search(r"best: [\d.]+ ms predicted, [\d.]+ ms measured", chain[1]["evolve"])
    lut = json.loads((copy / "lut.json").read_text())
    checks = [*lut["calibration"]["fitted_on"], *lut["calibration"]["held_out"]]
    for check in checks:
        check["measured_ms"] = 65.0
    lut["device"]["cpu"] = "abacus"
    (copy / "lut.json").write_text(json.dumps(lut))
    printed = ok("evolve", "--run", copy, *WIDE)
    assert "lies outside of what" in printed
    assert "65 to 65 ms" in printed
    assert "latency is not measured" in printed
    assert "was measured on abacus" in printed


def test_own_images(tmp_path):
    """A folder of images for each class; only the first command is told where they lie."""
    images = datasets.load_digits().images
    labels = datasets.load_digits().target
    for label in range(3):
        own = [Image.fromarray((16 * image.clip(max=15.9)).astype("uint8")) for image in images[labels == label]]
        for split, part in (("train", own[:90]), ("val", own[90:120])):
            folder = tmp_path / "images" / split / f"digit {label}"
            folder.mkdir(parents=True)
            for i, image in enumerate(part):
                image.resize((32, 32)).convert("RGB").save(folder / f"{i}.png")
    root = ("--data", "folder", "--data-root", tmp_path / "images", "--resolution", 32)
    at = ("--run", tmp_path / "run")
    ok("train_supernet", *root, *at, "--space", "mobile-small", "--epochs", 1, "--batch-size", 20)
    ok("evolve", *at, "--objectives", "flops", "--population", 3, "--iterations", 2, "--random", 0)
    ok("retrain", *at, "--epochs", 1, "--controls", 0)
    result = json.loads((tmp_path / "run" / "best" / "result.json").read_text())
    assert result["test_images"] == 90
    ok("export", *at, "--arch", *result["arch"], "--output", tmp_path / "best.pt2", "--no-timed")


def test_finished_commands_are_idempotent(chain):
    """The same command on a finished run trains nothing again and changes no result."""
    folder, _ = chain
    names = ("checkpoint.pt", "metrics.jsonl", "front.json", "population.jsonl", "search.json")
    before = {name: (folder / name).read_bytes() for name in names if name != "checkpoint.pt"}
    weights = checkpoint.load(folder / "checkpoint.pt")["model"]
    ok("train_supernet", "--run", folder, *TRAIN, "--space", json_space(folder))
    ok("evolve", "--run", folder, *WIDE)
    assert {name: (folder / name).read_bytes() for name in before} == before
    again = checkpoint.load(folder / "checkpoint.pt")["model"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def json_space(folder: Path) -> Path:
    return folder / "space.json"


def kill_when(process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_killed_training_ends_with_the_same_weights(chain, tmp_path, space_file):
    whole, _ = chain
    folder = tmp_path / "killed"
    train = command("train_supernet", "--run", folder, "--space", space_file, *TRAIN)
    process = subprocess.Popen(train, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    kill_when(process, lambda: lines(folder / "metrics.jsonl") >= 2)
    assert not checkpoint.load(folder / "checkpoint.pt")["finished"]
    ok("train_supernet", "--run", folder, "--space", space_file, *TRAIN)
    a, b = (checkpoint.load(path / "checkpoint.pt")["model"] for path in (whole, folder))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_at_which_another_works_is_not_written_to(copy, tmp_path):
    with RunFolder(copy).lock():
        assert f"(pid {os.getpid()})" in refused("export", "--run", copy, "--pick", "best")
        assert not (copy / "best.onnx").exists()
        ok("export", "--run", copy, "--pick", "best", "--output", tmp_path / "best.onnx", "--no-timed")
        ok("report", "--run", copy)  # a page about a run that is under way
    assert (copy / "report.html").exists()


@pytest.mark.chain
def test_a_killed_search_finds_the_same_front(chain, copy):
    whole, _ = chain
    for name in ("search.json", "population.jsonl", "scores.jsonl", "front.json", "front.png"):
        (copy / name).unlink()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("evolve", "--run", copy, *WIDE), cwd=ROOT, **quiet)
    kill_when(process, lambda: lines(copy / "population.jsonl") >= 5)  # the first of eight generations
    assert lines(copy / "population.jsonl") < lines(whole / "population.jsonl")
    assert not (copy / "front.json").exists()
    ok("evolve", "--run", copy, *WIDE)
    for name in ("front.json", "population.jsonl"):
        assert (copy / name).read_text() == (whole / name).read_text(), name


# --- refusals


def test_commands_out_of_order_name_the_one_before(tmp_path, copy):
    missing = tmp_path / "none"
    for tool in ("build_lut", "evolve", "retrain"):
        assert "run python tools/train_supernet.py" in refused(tool, "--run", missing)
    assert not missing.exists()
    (copy / "lut.json").unlink()
    assert "run python tools/build_lut.py" in refused("evolve", "--run", copy)
    (copy / "front.json").unlink()
    assert "run python tools/evolve.py" in refused("retrain", "--run", copy)


def test_a_table_of_another_space_or_without_a_layer(copy):
    path = copy / "lut.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "space": {"name": "other", "fingerprint": "0123456789abcdef"}}))
    message = refused("evolve", "--run", copy)
    assert "0123456789abcdef" in message
    assert tiny_fingerprint(copy) in message
    removed = next(key for key in table["operations"] if key.startswith("ib_"))
    del table["operations"][removed]
    path.write_text(json.dumps(table))
    assert removed in refused("evolve", "--run", copy)


def tiny_fingerprint(run: Path) -> str:
    return json.loads((run / "space.json").read_text())["fingerprint"]


def test_a_damaged_checkpoint(copy):
    path, previous = copy / "checkpoint.pt", copy / "checkpoint.previous.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    result = run("evolve", "--run", copy)
    assert result.returncode == 2
    assert "damaged or not a checkpoint; the one before is used" in result.stderr
    assert "not trained to the end" in result.stderr
    ok("train_supernet", "--run", copy, *TRAIN, "--space", json_space(copy))
    assert path.read_bytes() == whole

    path.write_bytes(whole[:2000])
    previous.unlink(missing_ok=True)
    assert "damaged" in refused("evolve", "--run", copy)
    message = refused("train_supernet", "--run", copy, *TRAIN, "--space", json_space(copy))
    assert "damaged" in message
    assert "--restart" in message
    ok("train_supernet", "--run", copy, *TRAIN, "--space", json_space(copy), "--restart")


def test_an_unfinished_supernet_is_not_searched(copy):
    state = checkpoint.load(copy / "checkpoint.pt")
    checkpoint.save(copy / "checkpoint.pt", {**state, "finished": False, "step": 3})
    assert "not trained to the end" in refused("evolve", "--run", copy)


def test_bounds_out_of_reach_and_bounds_that_do_not_bind(copy):
    before = (copy / "front.json").read_bytes()
    message = refused("evolve", "--run", copy, *SEARCH, "--lat-max", 1e-4)
    assert "below the fastest architecture" in message
    assert "ms" in message
    assert "no latency lies between" in refused("evolve", "--run", copy, *SEARCH, "--lat-min", 1e4, "--lat-max", 2e4)
    assert "cannot be met" in refused("evolve", "--run", copy, *SEARCH, "--flops-max", 10)
    assert "--eta: random search has no such" in refused("evolve", "--run", copy, "--algorithm", "random", "--eta", 2)
    assert "crossover" in refused("evolve", "--run", copy, *SEARCH, "--crossover", 2)
    assert (copy / "front.json").read_bytes() == before
    assert "does not bind" in ok("evolve", "--run", copy, *SEARCH, "--lat-max", 70)


def test_other_settings_do_not_overwrite_a_run(copy):
    message = refused("train_supernet", "--run", copy, *TRAIN, "--space", json_space(copy), "--seed", 5)
    assert "seed: 0 → 5" in message
    assert "--restart" in message


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--data", "nope"), "fashion-mnist"),
        (("--data", "digits", "--space", "nope"), "mobile-small"),
        (("--data", "digits", "--space", "missing.json"), "missing.json"),
        (("--data", "digits", "--device", "warp"), "warp"),
        (("--data", "digits", "--batch-size", "100000"), "batch"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_things(tmp_path, args, expected):
    message = refused("train_supernet", "--run", tmp_path / "run", *args)
    assert expected in message
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused("train_supernet", "--run", tmp_path / "file" / "run", *TRAIN)
    assert "cannot write" in message


def test_a_loss_that_explodes(tmp_path, space_file):
    message = refused("train_supernet", "--run", tmp_path / "run", "--space", space_file, *TRAIN, "--lr", 1e12)
    assert "lower the learning rate" in message


def test_restart_deletes_runs_only(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    message = refused("train_supernet", "--run", tmp_path / "photos", *TRAIN, "--restart")
    assert "not a run" in message
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_picks_that_do_not_exist(chain):
    for choice in ("worst", "999", "-1"):
        assert "expected best, knee, all" in refused("retrain", "--run", chain[0], f"--pick={choice}")


# --- other algorithms, objectives and devices


@pytest.mark.parametrize("algorithm", ["spos", "random"])
def test_other_algorithms_share_the_scores_and_the_log(copy, algorithm):
    printed = ok("evolve", "--run", copy, *SEARCH, "--lat-max", 70, "--algorithm", algorithm)
    assert "a new search, as the search state was made with algorithm = CES" in " ".join(printed.split())
    front = json.loads((copy / "front.json").read_text())
    assert front["algorithm"] == {"spos": "SPOS evolution", "random": "random search"}[algorithm]
    assert front["evaluated"] == lines(copy / "population.jsonl") == 40
    scored = [json.loads(line)["arch"] for line in (copy / "scores.jsonl").read_text().splitlines()[1:]]
    told = [json.loads(line)["arch"] for line in (copy / "population.jsonl").read_text().splitlines()]
    assert len(set(map(tuple, scored))) == len(scored)  # nothing was scored twice, by either search
    assert set(map(tuple, told)) <= set(map(tuple, scored))


@pytest.mark.chain
def test_several_devices_and_objectives(copy):
    table = json.loads((copy / "lut.json").read_text())
    for samples in table["operations"].values():
        samples["median_ms"] *= 3
    table["calibration"]["overhead_ms"] *= 3
    (copy / "slow.json").write_text(json.dumps(table))
    both = ("--lut", copy / "lut.json", "--lut", copy / "slow.json", "--lat-max", 70, "--lat-max", 200)
    ok("evolve", "--run", copy, *SEARCH, *both, "--objectives", "latency", "params", "activations")
    front = json.loads((copy / "front.json").read_text())
    assert front["objectives"] == ["latency", "latency-2", "params", "activations"]
    assert [device["cost"] for device in front["devices"]] == ["latency", "latency-2"]
    for entry in front["front"]:
        assert entry["latency-2_ms"] == pytest.approx(3 * entry["latency_ms"])
        assert entry["activations"] > 0
    assert "--lat-max is given 1 time, for 2" in refused("evolve", "--run", copy, *both[:6])
    (copy / "lut.json").unlink()
    ok("evolve", "--run", copy, *SEARCH, "--objectives", "flops")  # needs no table
