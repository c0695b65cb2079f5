import copy

import numpy as np
import pytest
import torch
from torch import nn

from supernet.families import layerwise, resolutions
from supernet.model import Network, Supernet, batch_norms, load_network
from supernet.training.bn import recalibrate_bn
from tests.conftest import refused, tiny_space

KERNELS = ("eager", "fused")


def random_archs(space, n, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(n)]


def images(space, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, space.channels, space.resolution, space.resolution, generator=generator)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("affine", [False, True])
def test_supernet_equals_extracted_network(small_space, kernels, affine):
    """The invariant of the whole toolkit: a path of the supernet is the stand-alone network, to float rounding."""
    supernet = Supernet(small_space, affine=affine, kernels=kernels).eval()
    x = images(small_space)
    for arch in random_archs(small_space, 4):
        for bn in batch_norms(supernet.path(arch)):
            bn.running_mean.uniform_(-0.2, 0.2)
            bn.running_var.uniform_(0.5, 2)
        with torch.no_grad():
            got, expected = supernet(x, arch), supernet.extract(arch)(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_extracted_network_is_plain_pytorch_and_a_copy(small_space):
    supernet = Supernet(small_space).eval()
    arch = random_archs(small_space, 1)[0]
    network = supernet.extract(arch)
    kinds = {type(m).__module__ for m in network.modules() if not list(m.children())}
    assert kinds <= {"torch.nn.modules." + k for k in ("conv", "activation", "dropout", "linear", "pooling")} | {
        "supernet.convolution",
        "supernet.norm",
        "supernet.modules",
        "supernet.families.cells_blocks",
    }
    with torch.no_grad():
        before = network(images(small_space))
        for p in supernet.parameters():
            p.zero_()
        torch.testing.assert_close(network(images(small_space)), before, rtol=0, atol=0)


@pytest.mark.parametrize("kernels", KERNELS)
def test_what_is_not_on_the_path_has_no_gradient(small_space, kernels):
    supernet = Supernet(small_space, kernels=kernels).train()
    arch = random_archs(small_space, 1, seed=3)[0]
    supernet(images(small_space), arch).square().sum().backward()
    on_path = {id(p) for module in supernet.path(arch) for p in module.parameters()}
    for name, p in supernet.named_parameters():
        assert (p.grad is not None) == (id(p) in on_path), name


def test_fused_training_step_equals_eager(small_space):
    fused = Supernet(small_space, affine=True, kernels="fused").train()
    eager = Supernet(small_space, affine=True, kernels="eager").train()
    eager.load_state_dict(fused.state_dict())
    x = images(small_space, 8)
    for arch in random_archs(small_space, 2):
        outputs = []
        for model in (fused.double(), eager.double()):
            model.zero_grad()
            torch.manual_seed(0)  # dropout
            y = model(x.double(), arch)
            y.square().sum().backward()
            outputs.append(y)
        torch.testing.assert_close(*outputs, rtol=1e-8, atol=1e-10)
        for (name, a), b in zip(fused.named_parameters(), eager.parameters(), strict=True):
            if a.grad is not None:
                assert (a.grad - b.grad).norm() <= 1e-7 * max(b.grad.norm(), 1e-3), name
    for (name, a), b in zip(fused.named_buffers(), eager.buffers(), strict=True):
        if "num_batches" not in name:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def test_pruned_supernet_loads_the_weights_of_the_full_one():
    space = tiny_space()
    pruned = space.restrict([{1}, {0, 3}, {2}])
    full, small = Supernet(space), Supernet(pruned)
    missing, _ = small.load_state_dict(full.state_dict(), strict=False)
    assert missing == []
    x, arch = images(space), (1, 3, 2)
    torch.testing.assert_close(small.eval()(x, arch), full.eval()(x, arch), rtol=0, atol=0)


def test_layouts_of_the_input_do_not_matter(small_space):
    supernet = Supernet(small_space).eval()
    arch = random_archs(small_space, 1)[0]
    x = images(small_space)
    with torch.no_grad():
        a, b = supernet(x, arch), supernet(x.contiguous(memory_format=torch.channels_last), arch)
    assert torch.equal(a, b)


def test_spos_initialisation():

    network = Network(layerwise.shufflenet(3, 224, 1000), (3,) * 20, kernels="eager")
    for name, m in network.named_modules():
        if isinstance(m, nn.Conv2d) and m.weight.numel() > 20_000:
            expected = 0.01 if name.startswith("stem") else 1 / m.weight.shape[1]
            assert m.weight.std().item() == pytest.approx(expected, rel=0.05), name
        if isinstance(m, nn.BatchNorm2d):
            assert torch.all(m.bias == 1e-4)
    assert network.head.classifier.bias is None
    assert network.head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)


# --- recalibration


def two_pass(model, batches, arch):
    """Plain reference: statistics of every BN input over all images at once, layer after layer."""
    model = copy.deepcopy(model).eval()
    x = torch.cat(batches).double()
    model = model.double()
    norms, unbiased = list(batch_norms(model.path(arch))), []
    for bn in norms:
        seen = []
        handle = bn.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model(x, arch)
        handle.remove()
        values = seen[0].movedim(1, 0).flatten(1)
        bn.running_mean.copy_(values.mean(1))
        bn.running_var.copy_(values.var(1, unbiased=False))  # what training mode normalises with
        unbiased.append(values.var(1))
    for bn, var in zip(norms, unbiased, strict=True):
        bn.running_var.copy_(var)  # what BN keeps for inference
    return model


def test_recalibration_equals_a_two_pass_reference():
    """One batch: a layer's input depends on batch statistics, as the reference's does on pooled ones."""
    space = tiny_space()
    supernet = Supernet(space, kernels="eager")
    x, arch = images(space, 16), (2, 3, 1)
    reference = two_pass(supernet, [x], arch)
    recalibrate_bn(supernet, [x], arch)
    for own, expected in zip(batch_norms(supernet.path(arch)), batch_norms(reference.path(arch)), strict=True):
        torch.testing.assert_close(own.running_mean, expected.running_mean.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.running_var, expected.running_var.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
def test_recalibration_pools_unequal_batches(kernels):
    """Every BN gets the exact mean and variance of all values that passed it, whatever the batch sizes."""
    space = tiny_space()
    supernet = Supernet(space, kernels=kernels)
    arch = (2, 3, 1)
    batches = [images(space, n, seed=n) + shift for n, shift in ((3, 0.0), (11, 5.0), (6, -2.0))]
    watched = Supernet(space, kernels="eager")
    watched.load_state_dict(supernet.state_dict())
    watched.train()
    seen = [[] for _ in batch_norms(watched.path(arch))]
    for bn, values in zip(batch_norms(watched.path(arch)), seen, strict=True):
        bn.register_forward_pre_hook(
            lambda module, args, values=values: values.append(args[0].movedim(1, 0).flatten(1))
        )
    with torch.no_grad():
        for x in batches:
            watched(x, arch)
    recalibrate_bn(supernet, batches, arch)
    for bn, values in zip(batch_norms(supernet.path(arch)), seen, strict=True):
        together = torch.cat(values, 1).double()
        torch.testing.assert_close(bn.running_mean, together.mean(1).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bn.running_var, together.var(1).float(), rtol=1e-4, atol=1e-6)


def test_recalibration_touches_the_path_only_and_restores_on_failure():
    space = tiny_space()
    supernet = Supernet(space, kernels="eager").train()
    arch = (0, 1, 2)
    on_path = {id(bn) for bn in batch_norms(supernet.path(arch))}
    before = copy.deepcopy(supernet.state_dict())

    def failing():
        yield images(space)
        raise OSError("disk")

    with pytest.raises(ValueError, match="expected an architecture"):
        recalibrate_bn(supernet, [images(space)])
    with pytest.raises(OSError, match="disk"):
        recalibrate_bn(supernet, failing(), arch)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(m.training for m in supernet.modules())

    recalibrate_bn(supernet, [images(space)], arch)
    after = supernet.state_dict()
    for name, bn in supernet.named_modules():
        if isinstance(bn, nn.BatchNorm2d):
            changed = not torch.equal(after[f"{name}.running_var"], before[f"{name}.running_var"])
            assert changed == (id(bn) in on_path), name
    for name, p in supernet.named_parameters():
        assert torch.equal(p, before[name]), name
    assert all(m.training for m in supernet.modules())


def test_network_has_the_layers_of_its_architecture(small_space):
    arch = random_archs(small_space, 1)[0]
    network = Network(small_space, arch)
    searched = len(arch) - resolutions.varies(small_space)
    if small_space.name.startswith("residual"):
        searched = sum(choice.count for choice in small_space.decode(arch)[::2])
    elif small_space.name.startswith("elastic"):
        searched = sum(choice.count for choice in small_space.decode(arch) if choice.op == "mobile")
    elif small_space.cells:
        searched = len(small_space.cells) * (5 + 3)  # edges; inputs and output
    assert len(network.path()) == searched + 2
    with pytest.raises(ValueError, match="this network is"):
        network.path(tuple(i + 1 for i in arch))


def test_an_architecture_that_the_space_does_not_have_is_refused_by_its_gene():
    space = tiny_space()
    model = Supernet(space, kernels="eager")
    x = torch.zeros(2, space.channels, space.resolution, space.resolution)
    assert "3" in refused(model, x, (0, 0))  # genes
    assert "layer1" in refused(model, x, (0, 99, 0))


def test_a_file_is_no_folder_of_a_network(tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(b"")
    assert "expected the folder" in refused(load_network, file)


def test_a_norm_on_the_path_that_does_not_run_is_named():
    """Not taken for missing images."""
    space = tiny_space()
    model = Supernet(space, kernels="eager")
    model.head.forward = lambda x: torch.zeros(len(x), space.classes)
    x = torch.zeros(2, space.channels, space.resolution, space.resolution)
    assert "head.conv.bn lies on the path" in refused(recalibrate_bn, model, [x], (0, 0, 0))
    assert "no images" in refused(recalibrate_bn, model, [], (0, 0, 0))
