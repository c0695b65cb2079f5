"""Two processes: the same path, gradients averaged on it, the same weights after every step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from supernet.methods import spos
from supernet.model import Supernet
from supernet.training import distributed
from supernet.training.loop import FitConfig, fit
from tests.conftest import tiny_space
from tests.test_train import images

WORKER = """
import sys, torch
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_distributed import train
from supernet.training import distributed
distributed.start(torch.device("cpu"))
torch.set_num_threads(1)
model = train(Path({folder!r}), world=distributed.world())
torch.save(model.state_dict(), f"{folder}/rank{{distributed.rank()}}.pt")
distributed.stop()
"""


def train(folder: Path, world: int) -> Supernet:
    torch.manual_seed(0)
    space = tiny_space()
    model = Supernet(space, kernels="eager")
    cfg = FitConfig(epochs=2, batch_size=20, lr=0.05)
    fit(model, images(80), spos.uniform_path(space, 0), cfg, folder, meta={})
    return model


def test_without_torchrun_there_is_one_process():
    assert (distributed.rank(), distributed.world()) == (0, 1)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_ranks_equal_the_mean_of_two_halves(tmp_path):
    script = tmp_path / "worker.py"
    root = str(Path(__file__).parents[1])
    script.write_text(WORKER.format(root=root, tests=str(Path(__file__).parent), folder=str(tmp_path)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    workers = [
        subprocess.Popen([sys.executable, str(script)], cwd=root, env={**common, "RANK": str(r)}) for r in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]

    # The same training written out in one process: each half with its own BN statistics, gradients averaged.
    torch.manual_seed(0)
    space, data, cfg = tiny_space(), images(80), FitConfig(epochs=2, batch_size=20, lr=0.05)
    model = Supernet(space, kernels="eager").train()
    from supernet.training.loop import learning_rate, sgd

    optimizer, pick, per_epoch = sgd(model, cfg), spos.uniform_path(space, 0), 2
    for step in range(4):
        halves = []
        for rank in range(2):
            batches = data.batches(
                20, seed=0, epoch=step // 2, start=step % 2, augment=True, drop_last=True, rank=rank, world=2
            )
            halves.append(next(iter(batches)))
        optimizer.zero_grad()
        for x, y in halves:
            loss = torch.nn.functional.cross_entropy(model(x, pick(step)), y, label_smoothing=0.1)
            (loss / 2).backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step, per_epoch)
        optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], p.detach(), rtol=1e-4, atol=1e-6, msg=name)
