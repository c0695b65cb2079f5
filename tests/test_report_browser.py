"""The page of a run in a real browser: it asks for nothing, and one can hover, click, filter and read it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supernet.report import load
from supernet.report.page import Page
from supernet.runs import RunFolder

playwright = pytest.importorskip("playwright.sync_api")
OLD = Path(__file__).parent / "data" / "v0.1" / "spos"
FOUND = filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser")))
# Ubuntu's chromium-browser is a script that fails where its snap is not installed.
BROWSER = next(
    (path for path in FOUND if not subprocess.run([path, "--version"], capture_output=True).returncode), None
)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
METHODS = {"global": "Grow and prune", "nss": "The elite spaces", "stage": "Growth", "dsnas": "The supernet"}
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome: apt-get install chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a run that has scored all architectures of its space."""
    folder = RunFolder(shutil.copytree(OLD, tmp_path_factory.mktemp("report") / "run"))
    space = folder.space()
    folder.population.path.unlink()
    archs = list(itertools.product(*space.allowed))
    for i, arch in enumerate(archs):
        told = {
            "arch": arch,
            "accuracy": 0.1 + 0.01 * (i % 17),
            "costs": {"latency": 0.3 + 0.01 * i},
            "generation": i // 8,
        }
        folder.population.append(told)
    file = folder.path / "page.html"
    run = load.Run.load(folder)
    file.write_text(Page([run], {run.name: ["train ARCH"]}, ["export <it>"]).render(), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield browser
        browser.close()


@contextlib.contextmanager
def in_a_window(chromium, file: Path, width: int, scheme: str) -> Iterator:
    """A page; it may have written nothing to the console and asked for nothing at the end."""
    window = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    told, asked = [], []
    window.on("console", lambda message: told.append(message.text))
    window.on("pageerror", lambda error: told.append(str(error)))
    window.on("request", lambda request: asked.append(request.url))
    window.goto(file.as_uri())
    yield window
    assert told == []
    assert [url for url in asked if url.partition("#")[0] != file.as_uri() and not url.startswith("data:")] == []
    window.close()


@pytest.fixture(params=[(1100, "light"), (360, "dark")], ids=["wide-light", "narrow-dark"])
def opened(chromium, file: Path, request: pytest.FixtureRequest) -> Iterator:
    """The page in a window of some width."""
    with in_a_window(chromium, file, *request.param) as window:
        yield window


def shown(window) -> int:
    """How many architectures the chart says that it shows."""
    return int(re.match(r"(\d+) of 48 architectures", window.locator("[role=status]").inner_text())[1])


def test_it_fits_and_its_labels_can_be_read(opened):
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    texts = "[...document.querySelectorAll('svg text')].map(text => parseFloat(getComputedStyle(text).fontSize))"
    assert min(opened.evaluate(texts)) >= 12
    scale = "one => one.getBoundingClientRect().width / one.viewBox.baseVal.width"
    scales = f"[...document.querySelectorAll('svg')].map({scale})"
    assert min(opened.evaluate(scales)) > 0.99  # a picture that is shrunk has smaller letters


def test_the_line_of_the_front_goes_through_what_was_trained_of_it(chromium, tmp_path):
    run = load.Run.load(RunFolder(OLD))
    (entry,) = run.front["front"]
    assert entry["arch"] == run.results["best"]["arch"]
    slower = [{**entry, "arch": [1, 0, i], "latency_ms": 0.4 + i, "one_shot_accuracy": 0.2 + i / 10} for i in (0, 1)]
    run = dataclasses.replace(run, front={**run.front, "front": [entry, *slower]})
    file = tmp_path / "page.html"
    file.write_text(Page([run], {}, []).render(), encoding="utf-8")
    with in_a_window(chromium, file, 1100, "light") as window:
        line = window.locator("[data-explorer] path").get_attribute("d")
        assert len(re.findall("[ML]", line)) == 3
        trained = window.get_by_role("button", name="trained as best")
        assert re.match(r"M([\d.]+)", line)[1] == f"{float(trained.get_attribute('cx')):.1f}"


def test_hovering_tells_what_a_point_is(opened):
    point = opened.locator("[data-explorer] circle[role=button]").last
    tip = opened.locator("[data-explorer] .tip")
    assert tip.is_hidden()
    point.hover(force=True)
    assert tip.is_visible()
    assert "one-shot accuracy" in tip.inner_text()
    assert tip.locator("svg rect").count() > 0  # the architecture, drawn


def test_clicking_pins_an_architecture_and_the_address_keeps_it(opened):
    assert opened.locator(".pin").count() == 0
    opened.locator("[data-explorer] circle[role=button]").last.click(force=True)
    pin = opened.locator(".pin")
    assert pin.count() == 1
    told = pin.inner_text()
    assert re.search(r"train \[\d+, \d+, \d+\]", told)
    pin.locator("summary").click()
    assert pin.locator("th").all_inner_texts()[:4] == ["layer", "output", "M multiply-adds", "k parameters"]
    opened.reload()
    assert opened.locator(".pin h3").inner_text() in told
    opened.locator(".pin button", has_text="unpin").click()
    assert opened.locator(".pin").count() == 0
    assert "pin" not in opened.url


def test_the_keyboard_does_it_too(opened):
    opened.locator("[data-explorer] circle[role=button]").first.focus()
    assert opened.locator("[data-explorer] .tip").is_visible()
    opened.keyboard.press("Enter")
    assert opened.locator(".pin").count() == 1


def test_architectures_are_filtered_by_kind_and_by_layer(opened):
    assert shown(opened) == 48
    opened.get_by_label("scored").uncheck()
    few = shown(opened)
    assert 0 < few < 48
    opened.get_by_label("scored").check()
    opened.get_by_role("searchbox").fill("ib k5")
    layers = json.loads(opened.locator("#data").text_content())["explorer"]
    told = [" ".join(layers["layers"][i][0] for i in point["layers"]) for point in layers["points"]]
    assert shown(opened) == sum("ib k5" in words for words in told)
    opened.get_by_role("searchbox").fill("no such layer")
    assert shown(opened) == 0


def test_axes_are_chosen(opened):
    label = opened.locator("[data-explorer] svg text", has_text="parameters, k")
    assert label.count() == 0
    opened.get_by_label("across").select_option(label="parameters, k")
    assert label.count() == 1
    opened.reload()
    assert opened.locator("[data-explorer] svg text", has_text="parameters, k").count() == 1


def test_a_screen_reader_finds_its_way(opened):
    opened.locator("[data-explorer] circle[role=button]").first.focus()
    opened.keyboard.press("Enter")
    assert grave(opened) == {}


def grave(window) -> dict[str, list[str]]:
    """What is in the way of a screen reader, by the rule."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    return {
        one["id"]: [node["html"][:90] for node in one["nodes"]][:3]
        for one in axe.Axe().run(window).response["violations"]
        if one["impact"] in ("serious", "critical")
    }


@pytest.mark.parametrize(("method", "heading"), METHODS.items())
def test_what_a_method_leaves_can_be_read(chromium, tmp_path, method, heading):
    folder = RunFolder(shutil.copytree(OLD.parent / method, tmp_path / method))
    file = tmp_path / "page.html"
    file.write_text(Page([load.Run.load(folder)]).render(), encoding="utf-8")
    with in_a_window(chromium, file, 360, "light") as window:
        assert window.locator("h2", has_text=heading).count() == 1
        assert window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert grave(window) == {}
