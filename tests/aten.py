"""The forms that operators have for every device, run on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forms_for_every_device() -> Iterator[None]:
    """The CPU takes what a device without kernels of its own takes, here XPU; gradients are wired as ever.

    Without oneDNN, which is the CPU's alone: of bfloat16 images of one pixel it leaves parts of a depthwise weight's
    gradient unwritten.
    """
    library = torch.library.Library("supernet", "IMPL")
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("supernet::"):
            library.impl(name, torch.library.get_kernel(name, "XPU").call_boxed, "CPU", with_keyset=True)
    onednn, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = onednn
        library._destroy()
