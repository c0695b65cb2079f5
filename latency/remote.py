"""Measuring on another device in one go: a bundle over ssh, or benchmark_model over adb."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from latency.converter import Converter, Layer
from latency.measure import Timer, parse_cores
from supernet.errors import UserError
from supernet.footprint import Precision

REMOTE = ".supernet"  # folder in the home of the remote user; venv/bin/python there is used where it exists
PHONE = "/data/local/tmp/supernet"  # on an Android device; benchmark_model lies one folder up
UNREACHABLE = 255  # exit status of ssh itself


def over_ssh(
    bundle: Path, name: str, url: str, cores: str | None, output: Path, told: Callable[[str], None] | None = None
) -> None:
    """Copy a bundle to ``ssh://[user@]host[:port]``, run the agent, fetch its samples. Continues where it stopped.

    Args:
        name: of the bundle on the device; the same one is copied once.
        told: called with each line of progress that the agent tells; None: it tells none.

    Raises:
        UserError: no such host, or the agent's own message.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.hostname.startswith("-") or parts.path not in ("", "/"):
        raise UserError(f"device {url}: expected ssh://user@host or ssh://user@host:port")
    host = parts.netloc.rpartition("@")[0] + "@" + parts.hostname if parts.username else parts.hostname
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    ssh = ["ssh", *options, *(["-p", str(parts.port)] if parts.port else []), "--", host]
    scp = ["scp", "-q", *options, *(["-P", str(parts.port)] if parts.port else []), "--"]
    folder = f"{REMOTE}/{name}"
    there = _call([*ssh, f"mkdir -p {folder} && test -f {folder}/bundle.tar && echo there || true"], url)
    if "there" not in there:
        _call([*scp, str(bundle), f"{host}:{folder}/bundle.tar.part"], url)
        _call([*ssh, f"cd {folder} && mv bundle.tar.part bundle.tar && tar xf bundle.tar"], url)
    flags = (f" --cores {shlex.quote(cores)}" if cores else "") + ("" if told else " --quiet")
    python = "$(test -x ../venv/bin/python && echo ../venv/bin/python || echo python3)"
    _call([*ssh, f"cd {folder} && {python} agent.py run bundle -o samples.json{flags}"], url, told)
    _call([*scp, f"{host}:{folder}/samples.json", str(output)], url)


def _call(command: Sequence[str], device: str, told: Callable[[str], None] | None = None) -> str:
    """Output of a command; ``told`` gets its messages as they come, the last is kept for the error."""
    last = "no message"
    try:
        # A file takes any output while messages are read; of two pipes the one that is not read could fill and block.
        with (
            tempfile.TemporaryFile("w+") as output,
            subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process,
        ):
            assert process.stderr is not None  # a pipe
            for line in process.stderr:
                last = line.strip() or last
                if told and not line.startswith("error: "):
                    told(line.rstrip("\n"))
            process.wait()
            output.seek(0)
            text = output.read()
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not installed: it is needed for the device {device}") from error
    if process.returncode:
        reach = "cannot reach" if process.returncode == UNREACHABLE or command[0] == "scp" else "failed on"
        raise UserError(f"{reach} {device}: {last.removeprefix('error: ')}; earlier results are kept")
    return text


class AdbRuntime(Converter):
    """TFLite files timed on an Android device by LiteRT's ``benchmark_model`` under ``taskset``.

    A visit is one call of the binary, which prints the mean of its runs. Its CPU time cannot be told.
    """

    def __init__(
        self,
        batch: int = 1,
        threads: int = 1,
        cores: str | None = None,
        cache: Path | None = None,
        precision: Precision = "float32",
    ):
        super().__init__("litert", batch, threads, cache, precision)
        self.mask = f"{sum(1 << core for core in parse_cores(cores)):x}" if cores else None
        self.cores = cores

    def host(self) -> dict[str, Any]:
        """The phone, as a table names it."""
        names = ("ro.product.model", "ro.soc.model", "ro.build.version.release")
        model, soc, release = (_call(["adb", "shell", "getprop", name], "adb").strip() for name in names)
        count = _call(["adb", "shell", "nproc"], "adb").strip()
        return {
            "cpu": f"{model} {soc}".strip(),
            "cores": int(count) if count.isdigit() else None,
            "platform": f"Android {release}",
            "core": self.cores,
        }

    def describe(self) -> dict[str, Any]:
        found = _call(["adb", "shell", "sha256sum", f"{PHONE}/../benchmark_model"], "adb").split()
        if not found or not re.fullmatch(r"[0-9a-f]{64}", found[0]):
            raise UserError(f"no benchmark_model in {PHONE.rpartition('/')[0]} on the device: see docs/devices.md")
        return {
            "name": "litert",
            "options": self.options,
            "version": f"benchmark_model {found[0][:12]}",
            "delegate": "XNNPACK",
            "form": self.form,
        }

    def prepare(self, layer: Layer) -> str:
        path = self.convert([layer])[layer.key]
        _call(["adb", "shell", "mkdir", "-p", PHONE], "adb")
        _call(["adb", "push", str(path), f"{PHONE}/{path.name}"], "adb")
        return path.name

    def timer(self, artefact: str) -> Timer:
        pinned = ["taskset", self.mask] if self.mask else []

        def timer(n: int) -> tuple[float, None]:
            flags = [f"--graph={PHONE}/{artefact}", f"--num_threads={self.threads}", "--use_xnnpack=true"]
            flags += [f"--num_runs={n}", "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]
            text = _call(["adb", "shell", *pinned, f"{PHONE}/../benchmark_model", *flags], "adb")
            return mean_us(text) * 1e3 * n, None

        return timer


def mean_us(text: str) -> float:
    """The mean in microseconds that ``benchmark_model`` prints last.

    Raises:
        UserError: it printed none.
    """
    found = re.findall(r"Inference \(avg\): ([0-9.e+]+)", text)
    if not found or not float(found[-1]) > 0:
        last = (text.strip() or "nothing").splitlines()[-1]
        raise UserError(f"benchmark_model gave no time ({last}): run it by hand on the device")
    return float(found[-1])
