"""From a bundle to a table: the agent without torch, ssh, adb, and what is refused on the way.

``adb`` is a stand-in on PATH that answers as recorded from adb and benchmark_model: no phone is needed here. So are
``ssh`` and ``scp``, which run the command in a home folder of their own; one test goes through a real sshd on the
loopback, where one is installed.
"""

from __future__ import annotations

import ast
import dataclasses
import getpass
import hashlib
import importlib.util
import io
import json
import os
import runpy
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from latency import bundle, remote
from latency.agent import read_bundle
from latency.measure import Protocol, parse_cores
from latency.table import LatencyTable
from supernet.errors import UserError
from supernet.families import layout, lower
from supernet.files import write_json
from tests.conftest import tiny_space

ROOT = Path(__file__).parents[1]
SPACE = tiny_space(layers=1)
KEYS = {s.key for s in (layout(SPACE).stem, *layout(SPACE).choices[0], layout(SPACE).head)}
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra [onnx]")


def run(command, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def build_lut(folder: Path, *flags) -> subprocess.CompletedProcess:
    """The real command, in this process: importing torch each time would take most of the time of these tests."""
    tool = ROOT / "tools" / "build_lut.py"
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.syspath_prepend(tool.parent)
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", [str(tool), "--run", "run", "--rounds", "10", "--quiet", *map(str, flags)])
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())


def line_of(result: subprocess.CompletedProcess) -> str:
    """The one line of a refusal."""
    lines = [line for line in result.stderr.splitlines() if line]
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def emitted(tmp_path_factory) -> Path:
    """A folder with a run and the real ``bundle.tar`` of its space."""
    folder = tmp_path_factory.mktemp("emitted")
    write_json(folder / "run" / "space.json", SPACE.to_json())
    result = build_lut(folder, "--emit", "bundle.tar", "--runtime", "onnxruntime")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def home(emitted, tmp_path) -> Path:
    """A copy of that folder, to be spoiled."""
    shutil.copytree(emitted, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def torchless(tmp_path_factory) -> list[str]:
    """A Python that sees numpy and onnxruntime and nothing else that is installed."""
    site = tmp_path_factory.mktemp("site")
    for package in ("numpy", "onnxruntime"):
        place = Path(importlib.util.find_spec(package).origin).parents[1]
        for entry in place.glob(f"{package}*"):
            (site / entry.name).symlink_to(entry)
    python = ["env", f"PYTHONPATH={site}", sys.executable, "-S"]
    assert run([*python, "-c", "import torch"], site).returncode == 1
    assert run([*python, "-c", "import onnxruntime, numpy"], site).returncode == 0
    return python


def unpack(tar: Path, folder: Path) -> Path:
    with tarfile.open(tar) as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.mark.chain
@needs_onnx
def test_agent_without_torch_and_back(home, torchless, tmp_path):
    device = unpack(home / "bundle.tar", tmp_path / "device")
    assert not (home / "run" / "converted" / "networks").exists()
    readme = (device / "README").read_text().splitlines()
    assert len(readme) == 4
    assert "pip install numpy onnxruntime" in readme[0]
    result = run([*torchless, "agent.py", "run", "bundle", "-o", "samples.json"], device)
    assert result.returncode == 0, result.stderr
    assert "layers: measuring" in result.stderr
    samples = json.loads((device / "samples.json").read_text())
    assert samples["finished"]
    assert samples["header"]["runtime"]["delegate"] == "CPUExecutionProvider"
    shutil.copy(device / "samples.json", home)
    result = build_lut(home, "--collect", "samples.json")
    assert result.returncode == 0, result.stderr
    table = LatencyTable.load(home / "run" / "lut.json", SPACE)
    assert set(table.operations) == KEYS
    assert table.device == samples["header"]["device"]
    for key, visits in samples["layers"].items():
        clock = table.operations[key].source == "cpu"
        assert table.layer_ms(key) == pytest.approx(statistics.median(visit[clock] for visit in visits))
    archs = {c.arch for c in (*table.calibration.fitted_on, *table.calibration.held_out)}
    assert archs == set(SPACE.enumerate())
    for check in table.calibration.fitted_on:
        assert check.sum_ms == pytest.approx(sum(table.layer_ms(s.key) for s in lower(SPACE, check.arch)))

    # Killed in the second round of the networks: what was measured stays, the rest is measured.
    cut = {key: visits[:1] for key, visits in samples["networks"].items()}
    write_json(device / "samples.json", {**samples, "finished": False, "networks": cut})
    assert "is unfinished" in line_of(build_lut(home, "--collect", device / "samples.json"))
    assert run([*torchless, "agent.py", "run", "bundle", "-o", "samples.json"], device).returncode == 0
    again = json.loads((device / "samples.json").read_text())
    assert again["layers"] == samples["layers"]
    assert all(again["networks"][key][:1] == cut[key] for key in cut)
    assert all(len(visits) >= 10 for visits in again["networks"].values())


@needs_onnx
@pytest.mark.slow
def test_agent_in_a_clean_virtual_environment(home, tmp_path):
    """What the bundle's README says, word by word, in an environment that has nothing yet."""
    device = unpack(home / "bundle.tar", tmp_path / "device")
    words = [line.partition(": ")[2] for line in (device / "README").read_text().splitlines()]
    python = str(device / "venv" / "bin" / "python")
    assert words[0] == "python3 -m venv venv && venv/bin/python -m pip install numpy onnxruntime"
    installed = run(["sh", "-c", words[0]], device)
    if installed.returncode:
        pytest.skip(f"pip cannot install here: {installed.stderr.strip().splitlines()[-1]}")
    assert run([python, "-c", "import torch"], device).returncode == 1
    result = run(["sh", "-c", words[1]], device)
    assert result.returncode == 0, result.stderr
    result = build_lut(home, "--collect", device / "samples.json")
    assert result.returncode == 0, result.stderr
    assert set(LatencyTable.load(home / "run" / "lut.json", SPACE).operations) == KEYS


@needs_onnx
def test_agent_refuses(home, torchless, tmp_path):
    device = unpack(home / "bundle.tar", tmp_path / "device")

    def refusal(*flags) -> str:
        return line_of(run([*torchless, "agent.py", "run", *flags], device))

    assert "no complete bundle" in refusal("missing")
    assert "expected cores" in refusal("bundle", "--cores", "x")
    assert "expected cores among" in refusal("bundle", "--cores", "4095")
    assert "below 4096" in refusal("bundle", "--cores", "4096")
    assert "cannot write" in refusal("bundle", "-o", "missing/samples.json")
    bare = [*torchless[:1], f"PYTHONPATH={device}", *torchless[2:]]
    (device / "numpy.py").write_text("ndarray = None")  # onnxruntime is not there, numpy is
    assert "pip install onnxruntime" in line_of(run([*bare, "agent.py", "run", "bundle"], device))
    (device / "numpy.py").unlink()
    assert "pip install numpy" in line_of(run([*bare, "agent.py", "run", "bundle"], device))
    file = next((device / "bundle").glob("*.onnx"))
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert "is damaged" in refusal("bundle")
    file.unlink()
    assert file.name in refusal("bundle")
    file.write_bytes(content)
    manifest = json.loads((device / "bundle" / "manifest.json").read_text())
    write_json(device / "bundle" / "manifest.json", {**manifest, "schema": 99})
    assert "schema 1, found 99" in refusal("bundle")
    (device / "bundle" / "manifest.json").write_text("{")
    assert "damaged" in refusal("bundle")


def test_the_agent_is_python_3_8():
    for path in bundle.AGENT.values():
        tree = ast.parse((ROOT / path).read_text(), feature_version=(3, 8))
        allowed = {"latency", "supernet", "numpy", *sys.stdlib_module_names}
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def manifest_of(folder: Path, **changes) -> Path:
    """A small bundle, made by hand."""
    folder.mkdir()
    (folder / "a.onnx").write_bytes(b"a")
    header = {"runtime": {"name": "onnxruntime"}, "threads": 1, "protocol": dataclasses.asdict(Protocol())}
    manifest = {"schema": 1, "header": header, "layers": {"a": "a.onnx"}, "networks": {}}
    manifest["files"] = {"a.onnx": hashlib.sha256(b"a").hexdigest()}
    write_json(folder / "manifest.json", {**manifest, **changes})
    return folder


def test_read_bundle(tmp_path):
    assert read_bundle(manifest_of(tmp_path / "good"))["protocol"] == Protocol()


@pytest.mark.parametrize(
    "changes",
    [
        {"header": {}},
        {"files": ["a.onnx"]},
        {"layers": {"a": "../../secret"}},
        {"layers": {"a": ["a.onnx"]}},
        {"header": {"runtime": {"name": "abacus"}, "threads": 1, "protocol": {}}},
    ],
)
def test_a_manifest_is_not_trusted(tmp_path, changes):
    with pytest.raises(UserError, match="damaged"):
        read_bundle(manifest_of(tmp_path / "bundle", **changes))


# --- samples


def samples_of() -> dict:
    header = {
        "space": {"name": SPACE.name, "fingerprint": SPACE.fingerprint},
        "device": {"cpu": "abacus", "cores": 1, "platform": "Linux", "core": 0},
        "runtime": {"name": "onnxruntime", "options": {}, "version": "1", "delegate": "none"},
        "batch": 1,
        "threads": 1,
        "input": [1, 14, 14],
        "protocol": dataclasses.asdict(Protocol(rounds=10)),
    }
    visits = [[1.0, 1.0]] * 10
    networks = {",".join(map(str, arch)): [[6.0, 6.0]] * 10 for arch in SPACE.enumerate()}
    layer_visits = dict.fromkeys(sorted(KEYS), visits)
    return {"schema": 1, "finished": True, "header": header, "layers": layer_visits, "networks": networks}


def collect(tmp_path, data) -> bundle.Collected:
    path = tmp_path / "samples.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return bundle.read_samples(path, SPACE.fingerprint, KEYS)


def test_samples_that_are_right(tmp_path):
    assert collect(tmp_path, samples_of()).layers == samples_of()["layers"]


def changed(*path, value) -> dict:
    data = samples_of()
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return data


KEY = sorted(KEYS)[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "copy them again"),
        ("[]", "schema 1, found list"),
        (changed("schema", value=2), "schema 1, found 2"),
        (changed("finished", value=False), "unfinished"),
        (changed("finished", value="yes"), "unfinished"),
        (changed("header", "space", "fingerprint", value="0123"), f"0123, the space here is {SPACE.fingerprint}"),
        (changed("header", "device", value=None), "damaged"),
        (changed("header", "protocol", value={"rounds": 1}), "expected rounds from 2"),
        (changed("header", "protocol", value={"gates": 1}), "damaged"),
        (changed("layers", KEY, value=[[1.0, 1.0]]), "damaged"),
        (changed("layers", KEY, value=[[-1.0, 1.0]] * 9), "damaged"),
        (changed("layers", KEY, value=[["x", 1.0]] * 9), "damaged"),
        (changed("layers", KEY, value=[[1.0]] * 9), "damaged"),
        (changed("layers", "other", value=[[1.0, 1.0]] * 9), "1 differ, e.g. other"),
    ],
)
def test_samples_are_not_trusted(tmp_path, data, says):
    with pytest.raises(UserError, match=says):
        collect(tmp_path, data)


def test_collecting_by_the_command(tmp_path):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    data = samples_of()
    write_json(tmp_path / "samples.json", data)
    result = build_lut(tmp_path, "--collect", "samples.json")
    assert result.returncode == 0, result.stderr
    table = LatencyTable.load(tmp_path / "run" / "lut.json", SPACE)
    assert table.calibration.scale == pytest.approx(2.0)  # three layers of 1 ms each, networks of 6 ms
    assert "abacus" in result.stdout
    before = (tmp_path / "run" / "lut.json").read_bytes()
    for arch, says in (("9", "layer0 allows"), ("__import__('os')", "expected an architecture")):
        write_json(tmp_path / "samples.json", {**data, "networks": {arch: [[6.0, 6.0]] * 10}})
        assert says in line_of(build_lut(tmp_path, "--collect", "samples.json"))
    noisy = dict.fromkeys(data["layers"], [[1.0, 1.0], [2.0, 2.0]] * 5)
    write_json(tmp_path / "samples.json", {**data, "layers": noisy})
    assert "too noisy" in line_of(build_lut(tmp_path, "--collect", "samples.json"))
    assert "cannot read the samples" in line_of(build_lut(tmp_path, "--collect", "missing.json"))
    assert (tmp_path / "run" / "lut.json").read_bytes() == before


# --- ssh, by stand-ins

SSH = """#!/bin/sh
echo "ssh $*" >> $LOG
test -n "$DOWN" && { echo "ssh: connect to host pi port 22: No route to host" >&2; exit 255; }
while test "$1" != "--"; do shift; done
shift; shift
cd $REMOTE_HOME && exec sh -c "$*"
"""
SCP = """#!/bin/sh
echo "scp $*" >> $LOG
while test "$1" != "--"; do shift; done
from=${2#pi@pi:}; to=${3#pi@pi:}
cd $REMOTE_HOME && exec cp "$from" "$to"
"""


@pytest.fixture
def network(tmp_path, monkeypatch) -> Path:
    """PATH's first folder, with ssh and scp that reach another home folder on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ssh", SSH), ("scp", SCP)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (tmp_path / "pi" / ".supernet" / "venv" / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("REMOTE_HOME", str(tmp_path / "pi"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return folder


@needs_onnx
def test_over_ssh(home, network, torchless, tmp_path, monkeypatch):
    python = tmp_path / "pi" / ".supernet" / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(torchless)} "$@"\n')
    python.chmod(0o755)
    flags = ("--device", "ssh://pi@pi:2222", "--cores", min(os.sched_getaffinity(0)), "--runtime", "onnxruntime")
    monkeypatch.setenv("DOWN", "1")
    assert "cannot reach ssh://pi@pi:2222: ssh: connect" in line_of(build_lut(home, *flags))
    assert not (home / "run" / "lut.json").exists()
    monkeypatch.delenv("DOWN")
    result = build_lut(home, *flags)
    assert result.returncode == 0, result.stderr
    table = LatencyTable.load(home / "run" / "lut.json", SPACE)
    assert set(table.operations) == KEYS
    assert table.device["core"] == min(os.sched_getaffinity(0))
    log = (tmp_path / "log").read_text()
    assert "-p 2222 -- pi@pi" in log
    assert "BatchMode=yes" in log
    assert log.count("bundle.tar.part\n") == 2  # the first one holds nothing but the agent


@needs_onnx
def test_what_the_device_lacks_is_told_before_anything_is_converted(tmp_path, network, torchless, monkeypatch):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    python = tmp_path / "pi" / ".supernet" / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(torchless)} "$@"\n')
    python.chmod(0o755)
    flags = ("--device", "ssh://pi@pi", "--runtime", "onnxruntime")
    assert "expected cores among" in line_of(build_lut(tmp_path, *flags, "--cores", 4095))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    assert "failed on ssh://pi@pi: numpy is not installed here" in line_of(build_lut(tmp_path, *flags))
    monkeypatch.setenv("DOWN", "1")
    assert "cannot reach ssh://pi@pi" in line_of(build_lut(tmp_path, *flags))
    assert not (tmp_path / "run" / "converted").exists()


@pytest.fixture
def sshd(tmp_path, monkeypatch):
    """A real sshd on the loopback with keys of its own: user@host:port, the home folder there, the process."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd and ssh: apt-get install openssh-server openssh-client")
    home, user = tmp_path / "pi", getpass.getuser()
    home.mkdir()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A command, or the server of scp's files, starts in the test's home folder instead of the user's.
    settings = f"""
        ListenAddress 127.0.0.1:{port}
        HostKey {tmp_path}/host
        AuthorizedKeysFile {tmp_path}/user.pub
        PidFile none
        StrictModes no
        PasswordAuthentication no
        Subsystem sftp /usr/lib/openssh/sftp-server
        ForceCommand cd {home} && eval "$SSH_ORIGINAL_COMMAND"
    """
    (tmp_path / "sshd_config").write_text(settings)
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "ssh_config").write_text(f"IdentityFile {tmp_path}/user\nUserKnownHostsFile {tmp_path}/known_hosts\n")
    (tmp_path / "bin").mkdir()
    for name in ("ssh", "scp"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {tmp_path}/ssh_config "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it separates its privileges; the service makes it at boot
    log = tmp_path / "sshd.log"
    with subprocess.Popen([server, "-D", "-f", tmp_path / "sshd_config", "-E", log]) as process:
        while "listening" not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield f"ssh://{user}@127.0.0.1:{port}", home, process
        process.terminate()


@pytest.mark.chain
@needs_onnx
def test_through_a_real_sshd(home, sshd, torchless):
    device, there, process = sshd
    python = there / ".supernet" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {" ".join(torchless)} "$@"\n')
    python.chmod(0o755)
    result = build_lut(home, "--device", device, "--runtime", "onnxruntime")
    assert result.returncode == 0, result.stderr
    table = (home / "run" / "lut.json").read_bytes()
    assert set(LatencyTable.load(home / "run" / "lut.json", SPACE).operations) == KEYS
    measured = [json.loads(path.read_text()) for path in there.glob(".supernet/*/samples.json")]
    assert all(samples["finished"] for samples in measured)
    assert sorted(bool(samples["layers"]) for samples in measured) == [False, True]  # what it lacks was asked first
    process.terminate()
    process.wait()
    line = line_of(build_lut(home, "--device", device, "--runtime", "onnxruntime"))
    assert f"cannot reach {device}" in line
    assert "refused" in line
    assert (home / "run" / "lut.json").read_bytes() == table


def fake_bundle(tmp_path, agent="import sys; sys.exit('error: onnxruntime is not installed here')") -> Path:
    path = tmp_path / "bundle.tar"
    (tmp_path / "agent.py").write_text(agent)
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "agent.py", "agent.py")
    return path


@pytest.mark.parametrize("quiet", [True, False])
def test_the_agents_lines_are_told_as_they_come(network, tmp_path, capfd, quiet):
    agent = """
import sys
open("samples.json", "w").write(" ".join(sys.argv[1:]))
print("layers: 1/2", "layers: 2/2", sep="\\n", file=sys.stderr)
"""
    told = []
    packed, samples = fake_bundle(tmp_path, agent), tmp_path / "samples.json"
    remote.over_ssh(packed, "x", "ssh://pi@pi", None, samples, None if quiet else told.append)
    assert told == ([] if quiet else ["layers: 1/2", "layers: 2/2"])
    assert ("--quiet" in samples.read_text()) == quiet
    assert capfd.readouterr() == ("", "")


def test_ssh_gives_the_agents_own_message(network, tmp_path):
    with pytest.raises(UserError, match="failed on ssh://pi@pi: onnxruntime is not installed here"):
        remote.over_ssh(fake_bundle(tmp_path), "x", "ssh://pi@pi", None, tmp_path / "samples.json")
    before = (tmp_path / "log").read_text().count("scp")
    with pytest.raises(UserError):
        remote.over_ssh(tmp_path / "bundle.tar", "x", "ssh://pi@pi", None, tmp_path / "samples.json")
    assert (tmp_path / "log").read_text().count("scp") == before  # the bundle is there already


@pytest.mark.parametrize("url", ["ssh://", "ssh://-oProxyCommand=touch", "ssh://pi@host/folder"])
def test_ssh_urls(tmp_path, url):
    with pytest.raises(UserError, match="expected ssh://user@host"):
        remote.over_ssh(tmp_path / "bundle.tar", "x", url, None, tmp_path / "samples.json")


def test_without_ssh(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="ssh is not installed"):
        remote.over_ssh(tmp_path / "bundle.tar", "x", "ssh://pi@pi", None, tmp_path / "samples.json")


# --- adb, by a stand-in that answers as adb and benchmark_model do

ADB = """#!/usr/bin/env python3
import os, sys
args = sys.argv[1:]
open(os.environ["LOG"], "a").write(" ".join(args) + "\\n")
if os.environ.get("DOWN"):
    sys.exit("adb: no devices/emulators found")
answers = {"ro.product.model": "Pixel 4", "ro.soc.model": "SM8150", "ro.build.version.release": "13"}
if args[:2] == ["shell", "getprop"]:
    print(answers[args[2]])
elif args[:2] == ["shell", "nproc"]:
    print(8)
elif args[:2] == ["shell", "sha256sum"]:
    print("ab" * 32, args[2])
elif args[0] == "push":
    print(f"{args[1]}: 1 file pushed, 0 skipped. 10.0 MB/s ({os.path.getsize(args[1])} bytes in 0.001s)")
elif args[:2] == ["shell", "taskset"]:
    runs = int(next(arg for arg in args if arg.startswith("--num_runs=")).partition("=")[2])
    print("STARTING!")
    print("Log parameter values verbosely: [0]")
    print("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.")
    print(f"count={runs} first=2100 curr=2000 min=1990 max=2100 avg=2000.5 std=20")
    print("Inference timings in us: Init: 1234, First inference: 3456, Warmup (avg): 2100, Inference (avg): 2000.5")
"""


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "adb").write_text(ADB)
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return folder


def converted(tmp_path) -> list[remote.Layer]:
    """Layers whose TFLite files are there already: the converter lives in an environment of its own."""
    runtime = remote.AdbRuntime(cache=tmp_path / "run" / "converted")
    runtime.cache.mkdir(parents=True)
    choices = {s.key: s for s in (layout(SPACE).stem, *layout(SPACE).choices[0], layout(SPACE).head)}
    shapes = {key: s.input_shape for key, s in choices.items()}
    made = [remote.Layer(key, s.build(kernels="eager"), shapes[key]) for key, s in choices.items()]
    for layer in made:
        runtime.path(layer).write_bytes(b"tflite")
    return made


def test_adb_runs_benchmark_model_under_taskset(phone, tmp_path):
    (layer, *_) = converted(tmp_path)
    runtime = remote.AdbRuntime(cores="4-5", threads=2, cache=tmp_path / "run" / "converted")
    timer = runtime.timer(runtime.prepare(layer))
    assert timer(30) == (pytest.approx(30 * 2000.5e3), None)
    call = (tmp_path / "log").read_text().splitlines()[-1]
    assert call.startswith("shell taskset 30 /data/local/tmp/supernet/../benchmark_model --graph=/data/local/tmp/")
    assert all(flag in call for flag in ("--num_threads=2", "--use_xnnpack=true", "--num_runs=30"))
    assert runtime.host() == {"cpu": "Pixel 4 SM8150", "cores": 8, "platform": "Android 13", "core": "4-5"}
    assert runtime.describe()["version"] == "benchmark_model abababababab"


def test_adb_refusals(phone, tmp_path, monkeypatch):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    assert "name no other runtime" in line_of(build_lut(tmp_path, "--device", "adb", "--runtime", "torch"))
    monkeypatch.setenv("DOWN", "1")
    assert "no devices/emulators found" in line_of(build_lut(tmp_path, "--device", "adb"))
    with pytest.raises(UserError, match=r"gave no time .*STARTING"):
        remote.mean_us("STARTING!\n")
    assert not (tmp_path / "run" / "lut.json").exists()


# --- the command's own refusals


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--emit", "bundle.tar", "--runtime", "torch"), "cannot leave this machine"),
        (("--device", "warp"), "expected cpu, cuda, cuda-graph, ssh://user@host or adb"),
        (("--device", "cuda", "--runtime", "onnxruntime"), "torch runs eager modules on cuda"),
        (("--cores", "a"), "expected cores"),
        (("--device", "ssh://pi@pi", "--check", "run/lut.json"), "no latency table"),
    ],
)
def test_flags(tmp_path, flags, says):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    assert says in line_of(build_lut(tmp_path, *flags))
    assert not (tmp_path / "bundle.tar").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("litert", "ai_edge_litert.interpreter", "litert"),
        ("executorch", "executorch.runtime", "executorch"),
    ],
)
def test_a_missing_runtime_names_its_extra(tmp_path, monkeypatch, name, module, extra):
    write_json(tmp_path / "run" / "space.json", SPACE.to_json())
    (tmp_path / "run" / "lut.json").write_text("earlier")
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'supernet[{extra}]'" in line_of(build_lut(tmp_path, "--runtime", name))
    assert (tmp_path / "run" / "lut.json").read_text() == "earlier"


def test_cores():
    assert parse_cores("4") == {4}
    assert parse_cores("4-7") == {4, 5, 6, 7}
    assert parse_cores("0,2-3") == {0, 2, 3}


def test_a_device_may_print_more_than_a_pipe_holds():
    """Messages come between, so neither stream may wait for the other to be read."""
    code = "import sys; print('x' * 2**20); print('told', file=sys.stderr); print('y' * 2**20)"
    told = []
    assert remote._call([sys.executable, "-c", code], "it", told.append) == f"{'x' * 2**20}\n{'y' * 2**20}\n"
    assert told == ["told"]
