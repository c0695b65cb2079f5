"""Heads of attention as genes: against networks whose heads are removed by hand, and ones that nothing reads."""

import numpy as np
import pytest
import timm
import torch
from test_given import sub_networks
from timm.layers import Mlp
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from supernet import families
from supernet.families.given import family, network, sorting, verify
from supernet.model import Supernet
from supernet.size import Size

SIZE, WIDTH, HEADS, HEAD = 32, 64, 4, 16
IMAGES = (3, Size.of(SIZE), 10)
VIT = {"img_size": SIZE, "num_classes": 10, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}


def vit():
    return timm.models.VisionTransformer(**VIT)


def normed():
    """Norms of each head's queries and keys, a norm of what the heads give, scales of layers."""
    return timm.models.VisionTransformer(**VIT, qk_norm=True, scale_attn_norm=True, init_values=0.5)


def biased():
    """A table of relative positions with a column for each head."""
    sizes = {"img_size": SIZE, "num_classes": 10, "patch_size": 4, "window_size": 4}
    return timm.models.SwinTransformer(**sizes, embed_dim=WIDTH, depths=(2,), num_heads=(HEADS,))


def rotary():
    """Embeddings of positions that turn queries and keys, and a bias that keys do not have."""
    return timm.models.Eva(**VIT, use_rot_pos_emb=True, ref_feat_shape=(4, 4), dynamic_img_size=False)


def of_torch():
    """torch's module of attention."""
    return VisionTransformer(SIZE, 8, 2, HEADS, WIDTH, 2 * WIDTH, num_classes=10)


class Queries(nn.Module):
    """Attention written out, of queries, keys and values from layers of their own; keys and values can be shared."""

    def __init__(self, shared):
        super().__init__()
        self.shared = shared
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = (nn.Linear(WIDTH, HEAD if shared else WIDTH) for _ in range(2))

    def forward(self, x):
        b, n, c = x.shape
        q = self.query(x).view(b, n, HEADS, HEAD).transpose(1, 2)
        k, v = (f(x).view(b, n, -1, HEAD).transpose(1, 2) for f in (self.key, self.value))
        scores = (q * HEAD**-0.5) @ k.transpose(-2, -1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))


class Own(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.stem, self.attn = nn.Conv2d(3, WIDTH, 8, 8), attention
        self.norm, self.mlp, self.head = nn.LayerNorm(WIDTH), Mlp(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm(x))
        return self.head((x + self.mlp(x)).mean(1))


def written_out():
    return Own(Queries(shared=False))


def shared_keys():
    return Own(Queries(shared=True))


OUT = {  # the layer behind the attention of the first block
    vit: "blocks.0.attn.proj",
    normed: "blocks.0.attn.proj",
    biased: "layers.0.blocks.0.attn.proj",
    rotary: "blocks.0.attn.proj",
    of_torch: "encoder.layers.encoder_layer_0.self_attention.out_proj",
    written_out: "attn.out",
    shared_keys: "attn.out",
}


def made(make):
    torch.manual_seed(0)
    return network.of(network.opened(f"own:{make.__name__}", *IMAGES, make))


def supernet_of(space):
    """One of random weights, also where the network begins with zeros, and the network with the same."""
    torch.manual_seed(1)
    supernet = Supernet(space, affine=True, kernels="eager").eval()
    model = supernet.layout.network.new().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    load(supernet, model)
    return supernet, model


def load(supernet, model):
    family.load(supernet.shared, model.state_dict())


def arch_of(space, **counts):
    """The network, but for these counts of genes."""
    return tuple([c.count for c in g.choices].index(counts.get(g.name, g.choices[-1].count)) for g in space.genes)


@pytest.fixture(scope="module", params=OUT, ids=lambda make: make.__name__)
def space(request):
    return made(request.param)


@pytest.fixture(scope="module")
def attention(space):
    """Name of the layer behind the first attention."""
    return OUT[space.make]


@torch.no_grad()
def output(model, *args):
    torch.manual_seed(2)
    return model(torch.randn(2, 3, SIZE, SIZE), *args)


def test_each_attention_has_a_gene(space, attention):
    heads = {gene.name: [choice.count for choice in gene.choices] for gene in space.genes if "heads" in gene.name}
    assert heads[f"heads {attention.rpartition('.')[0]}"] == [1, 2, 3, 4]
    assert len(heads) == (1 if isinstance(space.make(), Own) else 2)


def test_the_largest_architecture_is_the_network(space):
    assert verify.difference(space) < 1e-5
    supernet, model = supernet_of(space)
    torch.testing.assert_close(output(supernet, supernet.layout.whole), output(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("make", [make for make in OUT if make is not normed])  # its norm is of the heads that are left
def test_a_head_that_goes_is_one_that_nothing_reads(make, kept):
    """Zeros in the columns of the layer behind the attention."""
    space, attention = made(make), OUT[make]
    supernet, model = supernet_of(space)
    arch = arch_of(space, **{f"heads {attention.rpartition('.')[0]}": kept})
    assert arch != supernet.layout.whole
    with torch.no_grad():
        model.get_submodule(attention).weight[:, kept * HEAD :] = 0
    torch.testing.assert_close(output(supernet, arch), output(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [vit, normed])
def test_fewer_heads_are_timms_own_attention_of_them(make):
    """Rows of queries, keys and values, and columns of the projection, taken out by hand."""
    space, kept = made(make), 3
    supernet, model = supernet_of(space)
    options = {"qk_norm": True, "scale_norm": True, "norm_layer": nn.LayerNorm} if make is normed else {}
    for i in (0, 1):
        attn = model.blocks[i].attn
        own = timm.layers.Attention(WIDTH, kept, attn_head_dim=HEAD, qkv_bias=True, **options).eval()
        state = attn.state_dict()
        for name in ("qkv.weight", "qkv.bias"):
            state[name] = state[name].unflatten(0, (3, HEADS, HEAD))[:, :kept].flatten(0, 2)
        state["proj.weight"] = state["proj.weight"][:, : kept * HEAD]
        state |= {name: value[: kept * HEAD] for name, value in state.items() if name.startswith("norm.")}
        own.load_state_dict(state)
        model.blocks[i].attn = own
    arch = arch_of(space, **{f"heads blocks.{i}.attn": kept for i in (0, 1)})
    torch.testing.assert_close(output(supernet, arch), output(model), rtol=1e-4, atol=1e-5)
    assert families.params(space, arch) == sum(p.numel() for p in model.parameters())


def test_sub_networks_run_as_slices_and_alone(space):
    supernet, _ = supernet_of(space)
    for arch in sub_networks(space, 4):
        alone = supernet.extract(arch)
        torch.testing.assert_close(output(alone), output(supernet, arch), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in alone.parameters()) == families.params(space, arch)


def test_sorting_leaves_the_function(space):
    supernet, model = supernet_of(space)
    sorting.sort(supernet.shared, supernet.layout)
    torch.testing.assert_close(output(supernet, supernet.layout.whole), output(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", [sorting.magnitude, sorting.taylor])
def test_the_most_important_head_stays(score):
    """The one whose queries, keys, values and projection have most of the sums of |w| or |w · dL/dw|."""
    space = made(vit)
    supernet, model = supernet_of(space)
    for net in (model, lambda x: supernet(x, supernet.layout.whole)):
        torch.manual_seed(3)
        F.cross_entropy(net(torch.randn(4, 3, SIZE, SIZE)), torch.arange(4)).backward()
    attn = model.blocks[0].attn
    made_by, read_by = (score(layer.weight).double() for layer in (attn.qkv, attn.proj))
    rows = made_by.unflatten(0, (3, HEADS, HEAD)).sum((0, 2, 3)) / made_by.sum()
    columns = read_by.unflatten(1, (HEADS, HEAD)).sum((0, 2)) / read_by.sum()
    best = int((rows + columns).argmax())
    sorting.sort(supernet.shared, supernet.layout, score)
    arch = arch_of(space, **{"heads blocks.0.attn": 1})
    with torch.no_grad():
        others = [i for i in range(WIDTH) if i // HEAD != best]
        attn.proj.weight[:, others] = 0
    torch.testing.assert_close(output(supernet, arch), output(model), rtol=1e-4, atol=1e-5)


def test_counts_and_keys_are_those_of_the_heads():
    space = made(vit)
    layout = families.layout(space)
    tokens = (SIZE // 8) ** 2 + 1
    whole, costs, keys = families.flops(space, layout.whole), set(), set()
    for kept in (1, 2, 3, 4):
        arch = arch_of(space, **{"heads blocks.1.attn": kept})
        gone = (HEADS - kept) * HEAD
        assert families.flops(space, arch) == whole - tokens * WIDTH * 4 * gone
        specs = {name: spec for spec in families.lower(space, arch) for name in spec.convs}
        keys |= {specs["blocks.1.attn.qkv"].key, specs["blocks.1.attn.proj"].key}
        costs.add(families.flops(space, arch))
    assert len(costs) == 4
    assert len(keys) == 8


def test_heads_and_the_width_of_the_stream_are_apart():
    space = made(vit)
    supernet, _ = supernet_of(space)
    (stream,) = (gene.name for gene in space.genes if "patch_embed" in gene.name)
    arch = arch_of(space, **{stream: WIDTH // 4, "heads blocks.0.attn": 3})
    state = {name.split(".", 2)[-1]: value for name, value in supernet.extract(arch).state_dict().items()}
    assert state["blocks/0/attn/qkv.weight"].shape == (3 * 3 * HEAD, WIDTH // 4)
    assert state["blocks/0/attn/proj.weight"].shape == (WIDTH // 4, 3 * HEAD)
    assert state["blocks/1/attn/qkv.weight"].shape == (3 * WIDTH, WIDTH // 4)


def test_heads_that_are_left_out_do_not_learn():
    space = made(vit)
    supernet, _ = supernet_of(space)
    supernet(torch.randn(2, 3, SIZE, SIZE), arch_of(space, **{"heads blocks.0.attn": 2})).square().mean().backward()
    grads = {name: p.grad for name, p in supernet.named_parameters()}
    (qkv,) = (grad for name, grad in grads.items() if name.endswith("blocks/0/attn/qkv.weight"))
    learnt = qkv.unflatten(0, (3, HEADS, HEAD)).abs().sum((0, 2, 3)) > 0
    assert learnt.tolist() == [True, True, False, False]


class Crossed(nn.Module):
    """torch's attention of vectors to others, or one that is asked for its weights."""

    def __init__(self, weights):
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), weights

    def forward(self, x):
        return self.inner(x, x, x)[0] if self.weights else self.inner(x, x.flip(1), x, need_weights=False)[0]


def crossed():
    return Own(Crossed(weights=False))


def asked():
    return Own(Crossed(weights=True))


@pytest.mark.parametrize("make", [crossed, asked])
def test_other_attention_of_torch_stays_whole(make):
    space = made(make)
    assert not any("heads" in gene.name for gene in space.genes)
    assert verify.difference(space) < 1e-5


def test_shared_keys_stay():
    """Each head of queries reads all of the one head of keys and values."""
    layout = families.layout(made(shared_keys))
    assert "needs all of them" in layout.network.whole["attn.key"]
    assert "attn.query" not in layout.network.whole


def test_random_heads_of_deit():
    space = network.of(network.opened("timm:deit_tiny_patch16_224", *IMAGES, None))
    heads = [[c.count for c in gene.choices] for gene in space.genes if "heads" in gene.name]
    assert heads == [[1, 2, 3]] * 12
    arch = space.sample(np.random.default_rng(0))
    assert families.params(space, arch) < families.params(space, families.layout(space).whole)
