"""The runner of `make gpu`: dry on the CPU; and with stages that are a shell script, stopped, gone on with, refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu import run
from gpu.stage import Results

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # a dozen processes that import PyTorch
def test_dry(tmp_path):
    """Every stage runs or says why it cannot; a second call does what is not done, and nothing else."""
    assert run.main(["--dry", "--output", str(tmp_path)]) == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in run.STAGES}
    states = {name: of["state"] for name, of in found.items()}
    assert states == dict.fromkeys(run.STAGES, "done") | {"profile": "unavailable"}, found
    assert all(of["results"] for name, of in found.items() if name != "profile")
    forms = {of["type"]: of["ms"].keys() for of in found["layers"]["results"]}
    assert forms.keys() == {"float32", "TF32", "bfloat16", "int8"}
    assert all(of >= ({"ours"} if kind == "int8" else {"ours", "eager"}) for kind, of in forms.items())
    text = (tmp_path / "page.md").read_text()
    assert "figures mean nothing" in text
    assert "not decided: a dry run" in text
    assert "should be" not in text
    assert not (tmp_path / run.HERE.name).exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.log")}
    (tmp_path / "build.json").unlink()
    assert run.main(["--dry", "--output", str(tmp_path), "--only", "build", "step"]) == 0
    again = {path.stem for path in before if path.stat().st_mtime_ns != before[path]}
    assert again == {"versions", "build"}


@pytest.fixture
def stages_are(monkeypatch, tmp_path):
    """Makes a script the Python of the stages, after `versions`, which always finds a GPU; gives those that ran."""
    calls = tmp_path / "calls"
    calls.touch()

    def use(script: str = "", device: str = "Some GPU"):
        found = json.dumps({"device": device, "torch": "2.14"})
        (tmp_path / "python").write_text(
            f"""#!/bin/sh
echo $3 >> {calls}
end() {{ sed -i 's/"started"/"done"/' "$1"; }}
if [ $3 = versions ]; then sed -i 's/"results": [[][]]/"results": [{found}]/' "$4"; end "$4"; exit; fi
{script or 'end "$4"'}
"""
        )
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setattr(run.sys, "executable", str(tmp_path / "python"))

    def called() -> list[str]:
        names = calls.read_text().split()
        calls.write_text("")
        return names

    return SimpleNamespace(use=use, called=called, folder=tmp_path / "gpu")


CASE = {"operator": "a", "shape": "b", "batch": 1, "type": "float32"}


def measure(folder: Path, *words: str) -> int:
    return run.main(["--output", str(folder), *words])


def test_only_what_was_made_with_the_same_is_kept(stages_are, monkeypatch):
    stages_are.use()
    step = ("--only", "step")
    assert measure(stages_are.folder, *step) == 0
    assert stages_are.called() == ["versions", "step"]
    assert measure(stages_are.folder, *step) == 0
    assert stages_are.called() == ["versions"]
    for changed in ("mode", "device", "sources"):
        if changed == "device":
            stages_are.use(device="Another GPU")
        if changed == "sources":
            monkeypatch.setattr(run, "sources", lambda: "others")
        assert measure(stages_are.folder, *step, *(["--dry"] if changed == "mode" else [])) == 0
        assert stages_are.called() == ["versions", "step"], changed
        assert "| step | done |" in (stages_are.folder / "page.md").read_text()


def test_figures_of_another_state_are_not_on_the_page(stages_are, monkeypatch):
    stages_are.use()
    assert measure(stages_are.folder, "--only", "step", "layers") == 0
    monkeypatch.setattr(run, "sources", lambda: "others")
    assert measure(stages_are.folder, "--only", "step") == 0
    text = (stages_are.folder / "page.md").read_text()
    assert "| step | done |" in text
    assert "| layers | has not run |" in text


def test_the_digest_of_the_sources_follows_them(monkeypatch, tmp_path):
    (tmp_path / "csrc" / "ops").mkdir(parents=True)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "SOURCES", ("csrc",))
    digests = [run.sources()]
    for name, text in (("ops/a.cpp", "1"), ("ops/a.cpp", "2"), ("b.cuh", "2"), ("b.cuh", "2"), ("notes.md", "3")):
        (tmp_path / "csrc" / name).write_text(text)
        digests.append(run.sources())
    assert len(set(digests[:4])) == 4
    assert len(set(digests[3:])) == 1


def test_a_dry_run_has_a_folder_of_its_own(stages_are, monkeypatch):
    stages_are.use()
    monkeypatch.setattr(run, "HERE", stages_are.folder / "measured.json")
    assert run.main(["--dry", "--only", "step"]) == 0
    assert not stages_are.folder.exists()
    assert (stages_are.folder.with_name("gpu-dry") / "page.md").exists()


@pytest.mark.parametrize("state", ["started", "stopped"])
def test_what_was_cut_off_keeps_its_figures_and_goes_on(stages_are, state):
    stages_are.use()
    assert measure(stages_are.folder, "--only", "layers") == 0
    path = stages_are.folder / "layers.json"
    partial = json.loads(path.read_text()) | {"state": state, "results": [CASE | {"ms": {}}]}
    path.write_text(json.dumps(partial))
    assert measure(stages_are.folder, "--minutes", "0") == 1
    assert json.loads(path.read_text()) == partial
    assert measure(stages_are.folder, "--only", "layers") == 0
    assert json.loads(path.read_text())["results"] == partial["results"]
    assert stages_are.called() == ["versions", "layers"] * 2


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("sleep 60", "stopped", "took over 2 s"),
        ("exit 3", "failed", "exited with 3"),
        ("kill -9 $$", "failed", "was killed by SIGKILL"),
    ],
)
def test_a_stage_that_does_not_end_is_told(stages_are, tmp_path, script, state, reason):
    stages_are.use(script)
    began = time.monotonic()
    data = run.run("step", Results(tmp_path / "step.json"), False, 2, [])
    assert data == json.loads((tmp_path / "step.json").read_text())
    assert data["state"] == state
    assert reason in data["reason"]
    assert time.monotonic() - began < 30


def test_limits_are_cut_to_the_time_that_is_left_and_grow_with_it(stages_are, monkeypatch):
    stages_are.use()
    limits, real = [], run.run

    def noted(name, results, dry, limit, signals):
        limits.append(limit)
        return real(name, results, dry, limit, signals)

    monkeypatch.setattr(run, "run", noted)
    for minutes in ("0.25", "9", "18"):
        assert measure(stages_are.folder, "--minutes", minutes) == 0
    assert limits[0] <= 15
    assert limits[-1] == 2 * run.STAGES["versions"]


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_stage_and_its_children_and_leaves_a_page(stages_are, tmp_path, asked):
    stages_are.use(f"sleep 60 & echo $! > {tmp_path}/child; wait")
    code = f"""
import signal, sys
from gpu import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.executable = {run.sys.executable!r}
sys.exit(run.main(sys.argv[1:]))
"""
    words = [sys.orig_argv[0], "-c", code, "--output", str(stages_are.folder), "--only", "step", "layers"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools")))}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    child, deadline = tmp_path / "child", time.monotonic() + 60
    while not (child.exists() and child.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(asked)
    assert process.wait(120) == 128 + asked
    assert not alive(int(child.read_text()))
    assert f"| step | stopped | 0 | ended by {asked.name} |" in (stages_are.folder / "page.md").read_text()
    assert not (stages_are.folder / "layers.json").exists()


def test_a_stage_does_not_outlive_a_runner_that_is_killed(stages_are):
    stages_are.use('case "$*" in *" --parent $PPID"*) end "$4";; esac')
    assert measure(stages_are.folder, "--only", "step") == 0
    stage = """
import os, subprocess, sys, time
from gpu import one
one.end_with(int(sys.argv[1]))
print(os.getpid(), subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""
    runner = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {stage!r}, str(os.getpid())], start_new_session=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    words = [sys.orig_argv[0], "-c", runner]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        time.sleep(1.5)  # longer than it waits between two looks
        assert all(map(alive, pids))
        process.kill()
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2
    assert not any(map(alive, pids))


def one_line(capsys) -> str:
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_folder_that_cannot_be_written_is_one_line(stages_are, capsys):
    stages_are.use()
    stages_are.folder.touch()
    assert measure(stages_are.folder / "in a file") == 2
    assert "cannot write in" in one_line(capsys)


def test_a_damaged_result_is_one_line_before_anything_runs(stages_are, capsys):
    stages_are.use()
    assert measure(stages_are.folder, "--only", "step") == 0
    (stages_are.folder / "step.json").write_text('{"state": "do')
    stages_are.called()
    assert measure(stages_are.folder) == 2
    assert "step.json is not a readable result of a stage" in one_line(capsys)
    assert stages_are.called() == []


def test_without_pytorch_it_is_one_line(tmp_path):
    words = [sys.executable, "-S", "-m", "gpu.run", "--output", str(tmp_path / "gpu")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools")))}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {sys.executable} has no PyTorch: install it there, or take the Python that has it"
    ]


def test_without_a_gpu_it_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert measure(tmp_path, "--only", "versions") == 2
    assert "PyTorch sees no CUDA device" in one_line(capsys)
