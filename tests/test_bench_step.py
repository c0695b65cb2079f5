"""The benchmark of a training step: its forms take the same steps, and the allocator's switch is one."""

import numpy as np
import pytest
import torch
from bench import step
from bench.step import FORMS, stepper

from supernet import active, spaces
from supernet.training import defaults


@pytest.mark.parametrize(("name", "size"), [("mobile-small", 14), ("elastic-small", 28), ("timm:mobilenetv2_050", 64)])
def test_the_forms_take_the_same_step(name, size):
    """Ours, plain PyTorch and plain PyTorch in NCHW: equal weights before, equal weights after.

    Where a value lies at the kink of ReLU6, rounding decides on which side, and gradients differ, between PyTorch's own
    two forms, too. So the images of one of five draws must do.
    """
    space = spaces.get(name, 3, size, 10)
    drawn = torch.Generator().manual_seed(0)
    for last in (False, False, False, False, True):
        weights = after_a_step(space, torch.randn(4, 3, size, size, generator=drawn))
        close = [torch.allclose(weights[name], weights["ours"], rtol=1e-3, atol=1e-4) for name in list(weights)[1:]]
        assert len(close) == 2
        if all(close):
            return
        assert not last, close


def after_a_step(space, x):
    """The weights of each form after one step from equal ones, ours first."""
    torch.manual_seed(0)
    models = {name: make(space) for name, make in FORMS.items()}
    for model in models.values():
        model.load_state_dict(models["ours"].state_dict())
    for name, model in models.items():
        stepper(model, x, torch.arange(4), name == "eager NCHW")(3)
    return {name: torch.cat([p.detach().flatten() for p in model.parameters()]) for name, model in models.items()}


def test_every_form_is_timed_on_every_path():
    class Bar:
        count = 0

        def advance(self):
            self.count += 1

    bar = Bar()
    times = step.interleave(("mobile-small", 14, 2, torch.get_num_threads()), 3, bar)
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(FORMS, 3)
    assert bar.count == 9
    assert np.all(np.array(list(times.values())) > 0)


@pytest.mark.parametrize("name", ["elastic-small", "timm:mobilenetv2_050"])
def test_the_plain_forms_slice_as_pytorch_does(name, monkeypatch):
    """None of our views is left, in forward or backward."""
    space = spaces.get(name, 3, 28, 10)
    monkeypatch.setattr(active._Active, "apply", lambda *_: pytest.fail("ours"))
    one = stepper(FORMS["eager channels_last"](space), torch.randn(4, 3, 28, 28), torch.arange(4), False)
    one(step.LARGEST)
    with pytest.raises(pytest.fail.Exception):
        stepper(FORMS["ours"](space), torch.randn(4, 3, 28, 28), torch.arange(4), False)(step.LARGEST)


@pytest.mark.parametrize(("value", "kept"), [(None, True), ("1", True), ("0", False)])
def test_keeping_memory_is_a_switch(monkeypatch, value, kept):
    if value is None:
        monkeypatch.delenv("SUPERNET_KEEP_MEMORY", raising=False)
    else:
        monkeypatch.setenv("SUPERNET_KEEP_MEMORY", value)
    assert defaults.keeps_memory() is kept
