"""Golden numbers: the published counts, re-derived from the papers and their code."""

import json

import numpy as np
import pytest
import torchvision
from torch import nn

from supernet import families, spaces
from supernet.errors import UserError
from supernet.families import layerwise
from supernet.space import Space


def test_shufflenet_has_the_published_multiply_adds():
    space = layerwise.shufflenet()
    layers = families.layout(space)
    assert space.size == 4**20
    assert round((layers.stem.flops + layers.head.flops) / 1e6, 3) == 38.556
    spos = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)
    assert round(families.flops(space, spos) / 1e6, 2) == 322.92


def test_uniform_shufflenet_paths_have_the_published_distribution():
    layers = families.layout(layerwise.shufflenet())
    rng = np.random.default_rng(0)
    n = 40_000
    cost = layers.stem.flops + layers.head.flops
    cost = cost + sum(np.array([c.flops for c in choices])[rng.integers(4, size=n)] for choices in layers.choices)
    assert cost.mean() / 1e6 == pytest.approx(327.2, abs=0.05 + 4 * 11.8 / n**0.5)
    assert cost.std() / 1e6 == pytest.approx(11.8, abs=0.2)
    assert (cost <= 330e6).mean() == pytest.approx(0.588, abs=0.011)


def test_mobile_has_the_published_sizes():
    assert layerwise.mobile().size == 3 * 6**6 * 7**15
    assert layerwise.mobile("large").size == 3 * 18**6 * 19**15


def test_mobile_layers_follow_table_1():
    space = layerwise.mobile()
    assert len(space.genes) == 22
    out = [gene.out_channels for gene in space.genes]
    assert out == [16] + [32] * 4 + [40] * 4 + [80] * 4 + [96] * 4 + [192] * 4 + [320]
    assert [i for i, gene in enumerate(space.genes) if gene.stride == 2] == [1, 5, 9, 17]
    forbidden = [i for i, gene in enumerate(space.genes) if "identity" not in {c.name for c in gene.choices}]
    assert forbidden == [0, 1, 5, 9, 13, 17, 21]
    assert {c.expand for c in space.genes[0].choices} == {1}
    assert layerwise.mobile("large").stem_channels == 16


def test_mobile_v3_has_squeeze_excite_and_hard_swish_where_mobilenetv3_has_them():
    """By the stages of torchvision's, whose 24, 112 and 160 channels are Table 1's 32, 96 and 192."""
    space = layerwise.mobile("v3")
    layers = families.layout(space)
    theirs = torchvision.models.mobilenet_v3_large().features
    ours = {gene.out_channels: choices[-1] for gene, choices in zip(space.genes, layers.choices, strict=True)}
    assert [isinstance(theirs[i][2], nn.Hardswish) for i in (0, -1)] == [True, True]
    assert {layers.stem.act, layers.head.act} == {"hard_swish"}
    for block in theirs[1:-1]:
        names = {type(module).__name__ for module in block.modules()}
        spec = ours[{24: 32, 112: 96, 160: 192}.get(block.out_channels, block.out_channels)]
        assert spec.act == ("hard_swish" if "Hardswish" in names else "relu")
        assert spec.squeeze_excite == ("SqueezeExcitation" in names)
    block = theirs[5]  # 40 channels, kernel 5, expanded 3 times
    spec = next(s for s in layers.choices[6] if (s.kernel, s.expand) == (5, 3))
    assert spec.params == sum(parameter.numel() for parameter in block.parameters())
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize("name", sorted(spaces.presets()))
def test_choices_are_ordered_by_kernel_and_expansion(name):
    for gene in spaces.get(name, 3, 32, 10).genes:
        if gene.choices[-1].op == "ib":
            assert list(gene.choices) == sorted(gene.choices, key=lambda c: (c.kernel, c.expand))
        assert len({c.name for c in gene.choices}) == len(gene.choices)


def test_fingerprints_tell_spaces_apart():
    made = [spaces.get(name, 3, size, 10).fingerprint for name in spaces.presets() for size in (28, 32)]
    assert len(set(made)) == len(made)


def test_unknown_space_lists_the_known():
    with pytest.raises(UserError, match=r"nope.*mobile-small.*shufflenet"):
        spaces.get("nope", 3, 32, 10)


def test_a_space_file_must_fit_the_images(tmp_path):
    import json

    path = tmp_path / "space.json"
    path.write_text(json.dumps(spaces.get("mobile-small", 1, 28, 10).to_json()))
    assert spaces.get(str(path), 1, 28, 10) == spaces.get("mobile-small", 1, 28, 10)
    with pytest.raises(UserError, match="3×32² of 100"):
        spaces.get(str(path), 3, 32, 100)
