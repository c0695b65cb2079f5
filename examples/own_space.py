"""A block and a space of your own, without a command; commands take it by --space examples/own_space.py:space."""

from pathlib import Path

import torch

from latency import measure, runtimes
from search import costs, evolution
from supernet import Block, Space, families
from supernet.data import sets
from supernet.methods import spos
from supernet.modules import ConvBN
from supernet.space import Choice, Gene
from supernet.spec import Conv
from supernet.training import loop, standalone


class Fire(Block, torch.nn.Module):  # SqueezeNet's: of a few channels a 1×1 and a k×k convolution give half each
    op = "fire"

    @staticmethod
    def convs(spec):  # what is counted, and the names in memory and latency
        few, half, size = spec.out_channels // 4, spec.out_channels // 2, spec.out_size
        small, wide = (Conv(few, half, k, size, spec.stride, act=spec.act) for k in (1, spec.kernel))
        return {"squeeze": Conv(spec.in_channels, few, 1, spec.size, act=spec.act), "small": small, "wide": wide}

    @staticmethod
    def kept(spec, conv):  # the first half of the output waits for the second
        return spec.out_channels // 2 * spec.out_size.pixels if conv == "wide" else 0

    def __init__(self, spec, affine, eps, kernels):
        super().__init__()
        self.squeeze, self.small, self.wide = (ConvBN(c, affine, eps, kernels) for c in self.convs(spec).values())

    def forward(self, x):
        x = self.squeeze(x)
        return torch.cat((self.small(x), self.wide(x)), 1)


def space(channels=1, resolution=28, classes=10):
    choices, images = (Choice("ib", 3, 1), Choice("ib", 3, 3), Choice("fire", 3)), (channels, resolution, classes)
    genes = tuple(Gene(f"layer{i}", choices, 8 if i == 0 else 16, 16, 2 if i < 2 else 1) for i in range(4))
    return Space("fire", *images, 8, 2, 64, "relu6", genes, ((0, 1, 2),) * 4).with_operations(Fire)


if __name__ == "__main__":
    run, own, cpu, data = Path("runs/own_space"), space(), torch.device("cpu"), sets.open_train("digits", Path("data"))
    supernet = spos.run(own, data, spos.Config(loop.FitConfig(3), kernels="eager"), run, cpu)
    layout = families.layout(own)
    layers = [(s.key, s.build(kernels="eager"), s.input_shape) for s in layout.every()]
    times = runtimes.time_modules(runtimes.get("torch"), layers, measure.Protocol(rounds=6, attempts=0))
    latency = costs.AdditiveCost(*layout.priced(lambda spec: times[spec.key].median_ms))
    bound, budget = {"latency": (0, sum(latency.bounds(own)) / 2)}, evolution.SPOSConfig(8, 3)
    search = evolution.SPOSEvolution(own, {"latency": latency}, bound, ["latency"], budget)
    images, weights = spos.recalibration_images(data, 4, 64), {"kernels": "eager", "supernet": supernet}
    while not search.done:
        search.tell(archs := search.ask(), [spos.score(supernet, images, data, arch) for arch in archs])
    best = max(search.records(), key=lambda record: record.accuracy)
    _, log = standalone.train(own, best.arch, data, loop.FitConfig(3), run / "best", cpu, **weights)
    print(f"{own.describe(best.arch)}: {best.costs['latency']:.3f} ms, {100 * log['val_accuracy']:.1f} %")
