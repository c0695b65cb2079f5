"""batch_norm_act_train against torch's own batch norm and activation."""

import pytest
import torch
from torch.nn import functional as F

from supernet import ops

ACTS = {"none": lambda z: z, "relu": F.relu, "relu6": F.relu6, "hard_swish": F.hardswish, "swish": F.silu}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make(shape, dtype, affine, device="cpu", offset=0.0):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator, dtype=torch.double) * 2 + offset).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    vectors = [None, None]
    if affine:
        vectors = [torch.rand(shape[1], generator=generator, dtype=torch.double).to(device, dtype) for _ in range(2)]
        vectors = [v.add_(0.5).requires_grad_() for v in vectors]
    return x, *vectors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(4, 17, 7, 5), (1, 3, 2, 1), (2, 64, 14, 14), (64, 5, 9, 9)])
def test_equals_batch_norm_and_activation(shape, affine, act, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, gamma, beta = make(shape, torch.double, affine, device)
    y, (mean, var) = ops.batch_norm_act_train(x, gamma, beta, eps=1e-3, act=act)
    expected = ACTS[act](F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-3))
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, x.detach().mean((0, 2, 3)))
    torch.testing.assert_close(var, x.detach().var((0, 2, 3), unbiased=False))
    wanted = [t for t in (x, gamma, beta) if t is not None]
    seed = torch.randn_like(expected)
    for own, reference in zip(
        torch.autograd.grad(y, wanted, seed), torch.autograd.grad(expected, wanted, seed), strict=True
    ):
        assert (own - reference).norm() <= 1e-8 * max(1.0, reference.norm().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precisions_stay_close_to_double(dtype, tolerance):
    x, gamma, beta = make((8, 33, 7, 7), dtype, True)
    exact = [t.detach().double().requires_grad_() for t in (x, gamma, beta)]
    seed = torch.randn(x.shape)
    y, _ = ops.batch_norm_act_train(x, gamma, beta, eps=1e-5, act="relu6")
    reference = F.relu6(F.batch_norm(exact[0], None, None, exact[1], exact[2], training=True))
    grads = torch.autograd.grad(y, (x, gamma, beta), seed.to(dtype))
    expected = torch.autograd.grad(reference, exact, seed.to(dtype).double())
    for own, other in zip((y, *grads), (reference, *expected), strict=True):
        assert (own.double() - other).norm() <= tolerance * other.norm()


def test_the_variance_survives_a_large_mean():
    x, _, _ = make((8, 4, 7, 7), torch.float32, False, offset=3000.0)
    _, (_, var) = ops.batch_norm_act_train(x, None, None, eps=1e-5)
    torch.testing.assert_close(var.double(), x.detach().double().var((0, 2, 3), unbiased=False), rtol=1e-3, atol=0)


def test_gradients_do_not_depend_on_the_threads():
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        x, gamma, beta = make((64, 24, 14, 14), torch.float32, True)
        y, _ = ops.batch_norm_act_train(x, gamma, beta, eps=1e-5, act="relu")
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, gamma, beta))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradcheck_and_opcheck():
    x, gamma, beta = make((3, 4, 3, 2), torch.double, True)
    assert torch.autograd.gradcheck(
        lambda *a: ops.batch_norm_act_train(*a, eps=1e-2, act="hard_swish")[0], (x, gamma, beta)
    )
    sample = [t.detach().requires_grad_() for t in (x, gamma, beta)]
    torch.library.opcheck(
        torch.ops.supernet.batch_norm_act_train.default,
        (*sample, 1e-3, "relu"),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, "4"),
        ({"gamma": torch.zeros(5)}, "gamma"),
        ({"beta": None}, "together"),
        ({"eps": 0.0}, "eps should be positive"),
        ({"act": "swoosh"}, "swoosh"),
        ({"x": torch.zeros(1, 3, 1, 1)}, "more than one value per channel"),
    ],
)
def test_refusals(change, message):
    arguments = {"x": torch.zeros(2, 3, 4, 4), "gamma": torch.ones(3), "beta": torch.zeros(3), "eps": 1e-5, **change}
    with pytest.raises(RuntimeError, match=message):
        ops.batch_norm_act_train(**arguments)
