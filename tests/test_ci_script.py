"""What ``.ci/run`` installs, with a PATH of stand-ins: it ends at the first ``make``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
REAL = ("bash", "dirname", "grep")
THERE = ("g++", "ssh", "python3", "nvcc", "sudo")
DEBIAN = "chromium:\n  Installed: (none)\n  Candidate: 156.0.1-1~deb12u1\n"
NOTHING = "chromium:\n  Installed: (none)\n  Candidate: (none)\n"
SNAP = "chromium:\n  Installed: (none)\n  Candidate: 2:1snap1-0ubuntu2\n"


@pytest.mark.parametrize(
    ("policy", "browser", "installed"),
    [
        (DEBIAN, None, True),
        (NOTHING, None, False),
        (SNAP, None, False),
        ("", None, False),
        (DEBIAN, "google-chrome", False),
        (DEBIAN, "chromium-browser", False),
    ],
)
def test_chromium_is_installed_where_apt_has_it_and_no_browser_is_there(tmp_path, policy, browser, installed):
    def stand_in(name: str, text: str = "") -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    for name in REAL:
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in (*THERE, *filter(None, [browser])):
        stand_in(name)
    stand_in("id", "echo 0")
    stand_in("make", "exit 9")
    stand_in("apt-get", f'echo "$@" >>{tmp_path}/log')
    stand_in("apt-cache", f"printf '{policy}'".replace("\n", "\\n"))
    done = subprocess.run([SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    assert ("chromium" in log) == installed
