"""Published networks by name: their multiply-adds and parameters, by others' counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from supernet import configurations, spaces
from supernet.families import resolutions
from supernet.families.given import source
from supernet.references import NETWORKS
from supernet.size import Size
from tests.conftest import refused
from tests.test_cli import ok
from tests.test_cli import refused as command_refused
from tests.test_elastic import ROWS

GIVEN = [name for name, reference in NETWORKS.items() if ":" in reference.space]
ATTENTIVE = [name for name in NETWORKS if name.startswith("attentivenas-")]
# Millions of multiply-adds, and parameters from and to: SPOS's README (323M, 3.5M); PAD-NAS's Table 3, row 13 (320M,
# 4.1M), and for ProxylessNAS's parameters pytorchcv, which counts them in the authors' model.
PUBLISHED = {"spos": (323, 3_500_000, 3_599_999), "proxylessnas-mobile": (320, 4_080_512, 4_080_512)}


def counted(name: str) -> tuple[int, int]:
    """Multiply-adds and parameters as our space has them."""
    space = spaces.usual(NETWORKS[name].space)
    counts = configurations.counts(space, configurations.read(space, Path(name)))
    return counts["macs"], counts["params"]


@pytest.mark.parametrize("name", GIVEN)
def test_counts_are_those_of_the_registry_s_own_model(name):
    with torch.device("meta"):
        model = source.make(NETWORKS[name].space, 3, Size.of(224), 1000)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    assert counted(name) == (counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    macs, params = counted(name)
    millions, least, most = PUBLISHED[name]
    assert round(macs / 1e6) == millions
    assert least <= params <= most


@pytest.mark.parametrize("name", ATTENTIVE)
def test_counts_are_those_of_attentivenas_s_model(name):
    row = ROWS[f"attentive-nas {name.removeprefix('attentivenas-')}"]
    assert counted(name) == (row["macs"], row["params"])


def test_each_is_under_one_of_these():
    assert {*GIVEN, *PUBLISHED, *ATTENTIVE} == set(NETWORKS)


def test_a_name_belongs_to_its_space():
    told = refused(configurations.read, spaces.usual("mobile"), Path("spos"))
    assert told == "spos is a network of the space shufflenet, not of mobile as it is here"
    told = refused(configurations.read, spaces.usual("torchvision:mobilenet_v2"), Path("fbnet-c"))
    assert "space timm:fbnetc_100, not of torchvision:mobilenet_v2" in told
    assert "names are spos, proxylessnas-mobile" in refused(configurations.read, spaces.usual("mobile"), Path("pnas"))


def test_a_space_of_one_s_own_is_not_the_one_of_that_name():
    """The same layers after a gene for the resolution: indices mean something else."""
    own = resolutions.with_gene(spaces.usual("mobile"), [192, 224])
    assert "not of mobile as it is here" in refused(configurations.read, own, Path("proxylessnas-mobile"))


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    (tmp_path / "spos").write_text(json.dumps({"arch": [0] * 20}))
    monkeypatch.chdir(tmp_path)
    assert configurations.read(spaces.usual("shufflenet"), Path("spos")) == (0,) * 20


def test_the_commands_take_names():
    told = ok("count", "--space", "shufflenet", "--config", "spos")
    assert "322,918,720 multiply-adds" in told  # 322.92M, as SPOS's own table of operations gives
    run = Path(__file__).parent / "data" / "v0.1" / "spos"
    assert "spos is a network of the space shufflenet" in command_refused(
        "retrain", "--run", run, "--arch-config", "spos"
    )
