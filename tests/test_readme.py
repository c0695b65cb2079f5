"""The figures of the README are those of the pages that have their commands."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))


def rows(page: str) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_a_step_is_as_fast_and_as_small_as_the_page_says():
    table = rows("performance.md")
    (ours,) = (row for row in table if row[0] == "ours" and len(row) == 10)
    (plain,) = (row for row in table if row[0] == "plain PyTorch, channels_last")
    steps = [row for row in table if row[0].startswith("`--space") and len(row) == 7 and row[3].endswith("×")]
    faster = [float(ratio.rstrip("×")) for ratio in (*plain[2::3], *(row[3] for row in steps))]
    memory = [*(int(ours[i]) / int(plain[i]) for i in (3, 6, 9)), *(float(row[5]) for row in steps)]
    assert len(faster) == 7
    assert f"{min(faster):.1f} to {max(faster):.1f} times as fast as PyTorch in channels_last" in README
    assert f"{min(memory):.2f} to {max(memory):.2f} of the memory".replace("0.", ".") in README


def test_files_keep_what_tables_promise_as_the_page_says():
    made = json.loads((ROOT / "docs" / "bench" / "promises-zen5.json").read_text(encoding="utf-8"))["promises"]
    off = [100 * (one["promised_ms"] / one["file_ms"] - 1) for one in made]
    told: dict[str, list[str]] = {}
    for one, percent in zip(made, off, strict=True):
        row = told.setdefault(f"{one['runtime']}{', int8' * (one['precision'] == 'int8')}", [])
        row += [f"{one['promised_ms']:#.3g}, {one['file_ms']:#.3g} ms", f"{percent:+.1f} %".replace("-", "−")]
    assert {row[0]: row[1:] for row in rows("devices.md") if row[0] in told and len(row) == 7} == told
    assert len(off) == 12
    assert f"within {max(map(abs, off)):.1f} % as ONNX and TFLite files" in README


def test_the_quickstart_takes_as_long_as_it_took():
    seeds = json.loads((ROOT / "docs" / "results" / "quickstart.json").read_text(encoding="utf-8"))["seeds"]
    minutes = round(statistics.median(seed["minutes"] for seed in seeds))
    assert f"{('no', 'one', 'two', 'three', 'four', 'five', 'six')[minutes]} minutes of two fast cores" in README


def test_a_supernet_at_224_pixels_takes_as_long_as_was_planned():
    plan = json.loads((ROOT / "docs" / "bench" / "plan-224-zen5.json").read_text(encoding="utf-8"))
    assert f"busy for {plan['seconds'] / 60:.0f} minutes with the supernet" in README
    tutorial = " ".join((ROOT / "docs/tutorials/phone.md").read_text(encoding="utf-8").split())
    assert f"10,000 pictures: {plan['seconds'] / 60:.0f} minutes of [fast ones]" in tutorial
    (told,) = (row[-1] for row in rows("performance.md") if row[0].startswith("all of it"))
    assert told == f"{plan['seconds'] / 60:.1f} min"


def test_few_images_give_what_they_gave():
    made = json.loads((ROOT / "docs" / "results" / "few_images.json").read_text(encoding="utf-8"))
    mean = {
        (count, arm): 100 * statistics.fmean(one["accuracy"] for one in rows)
        for count in ("10", "30", "100", "300", "1000")
        for arm, rows in made[count].items()
    }
    found = {count: value for (count, arm), value in mean.items() if arm == "found, from scratch"}
    behind = [value - mean[count, "fine-tuned"] for count, value in found.items()]
    assert f"100 gave {found['100']:.0f} %, 1,000 {found['1000']:.0f} %" in README
    assert f"{min(behind):.0f} to {max(behind):.0f} points behind what a search finds on 10 to 1,000 images" in README


def test_the_example_is_as_small_as_it_says():
    from supernet.cli import example

    size = sum(file.stat().st_size for file in example.HERE.iterdir())
    assert f"({size / 1e6:.1f} MB)" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_network_that_python_opens_is_the_one_that_the_quickstart_leaves():
    run = re.search(r"^RUN \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f'load_network("{run}/best")' in README
