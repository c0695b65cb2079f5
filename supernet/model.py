"""The shared network, and the stand-alone network of one architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from supernet import families, plain, shape
from supernet.errors import CheckpointError
from supernet.families import resolutions
from supernet.families.base import Shared
from supernet.norm import BatchNorm
from supernet.size import Size
from supernet.space import Arch, Space
from supernet.spec import Block, BuildOptions
from supernet.training import checkpoint
from supernet.training.folder import TrainingFolder

NETWORK = {"model": dict, "meta": {"kind": str, "space": dict, "arch": [shape.COUNT], "eps?": shape.Number(0)}}
NETWORK["search?"] = {f"{checkpoint.AVERAGE}?": dict}


class Supernet(nn.Module):
    """Every open choice of ``space`` with weights of its own; a forward pass runs one path.

    The family of the space decides how weights are shared: in a space of stages all depths and widths share one set.

    Args:
        affine: learn BN's scale and shift; SPOS trains its supernet without them.
        eps: of every BN.
        kernels: ``fused`` runs our operators, ``eager`` plain PyTorch; the results agree within rounding.

    Raises:
        UserError: such a space has no supernet, or a gene of it cannot be built.
    """

    def __init__(self, space: Space, *, affine: bool = False, eps: float = 1e-5, kernels: str = "fused"):
        super().__init__()
        self.space, self.options = space, BuildOptions(affine=affine, eps=eps, kernels=kernels)
        self.family, self.layout = families.of(space), families.layout(space)
        self.stem, self.layers, self.head = self.family.share(self.layout, **self.options)
        initialise(self, space.init)

    @property
    def shared(self) -> Shared:
        """What the architectures share."""
        return Shared(self.stem, self.layers, self.head)

    def path(self, arch: Arch) -> list[nn.Module]:
        """The modules that run for ``arch``, in order; a UserError if the space has no such architecture."""
        try:
            return self.family.path(self.layout, self.shared, arch)
        except (LookupError, AttributeError, ValueError, TypeError):
            self.space.check(arch)  # says what is wrong with it; looking first would cost at every step
            raise

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]`` along the path ``arch``."""
        return run_path(self.path(arch), x)

    def extract(self, arch: Arch, kernels: str = "eager") -> Network:
        """``arch`` as a network of its own, with copies of the weights and statistics on its path.

        Raises:
            UserError: the space does not allow ``arch``.
        """
        arch = self.space.check(arch)
        network = Network(self.space, arch, affine=self.options["affine"], eps=self.options["eps"], kernels=kernels)
        for own, shared in zip(network.path(), self.path(arch), strict=True):
            own.load_state_dict(shared.state_dict())
        return network.train(self.training).to(next(self.parameters()).device)


class Network(nn.Module):
    """The stand-alone network of one architecture."""

    def __init__(self, space: Space, arch: Arch, *, affine: bool = True, eps: float = 1e-5, kernels: str = "fused"):
        super().__init__()
        self.space, self.arch = space, space.check(arch)
        self.stem, *chosen, self.head = (
            spec.build(affine=affine, eps=eps, kernels=kernels) for spec in families.layout(space).pick(self.arch)
        )
        self.layers = nn.ModuleList(chosen)
        self.size = Size(*self.input_shape[1:]) if resolutions.varies(space) else None  # others take images of any size
        initialise(self, space.init)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return families.input_shape(self.space, self.arch)

    def path(self, arch: Arch | None = None) -> list[nn.Module]:
        """The modules in order. ``arch`` is accepted as by a supernet; if given, it must be this network's own."""
        if arch is not None and arch != self.arch:
            raise ValueError(f"this network is {self.arch}, not {arch}")
        return [self.stem, *self.layers, self.head]

    def named_path(self) -> dict[str, nn.Module]:
        """The modules in order, by their names."""
        return {"stem": self.stem, **{f"layers.{i}": layer for i, layer in enumerate(self.layers)}, "head": self.head}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which parameters make a layer, as timm asks its models for layer-wise decay; the head comes last."""
        return {"stem": r"^stem", "blocks": r"^layers\.(\d+)"}

    def forward(self, x: Tensor, arch: Arch | None = None) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]``. Those of another resolution than the network's are
        resized, if the space has several.
        """
        return run_path(self.path(arch), resolutions.resized(x, self.size) if self.size else x)

    def plain(self) -> fx.GraphModule:
        """This eager network as modules of ``torch.nn`` alone, with copies of the weights.

        A given network's parameters have the names that they had there, others' those that they have here. Tables that
        it computes once, such as those of relative positions, are buffers. It takes images of any size that its layers
        take, and resizes none.

        Raises:
            UserError: what it runs cannot be written with torch alone.
        """
        return plain.plain(self.named_path())

    def inherit(self, supernet: Supernet) -> None:
        """Copy the supernet's weights; where its BN has no scale and shift, ours keep their initial values."""
        for own, shared in zip(self.path(), supernet.path(self.arch), strict=True):
            own.load_state_dict(shared.state_dict(), strict=supernet.options["affine"])


def run_path(path: list[nn.Module], x: Tensor, drop_path: float = 0.0) -> Tensor:
    """Run modules in order, on the images in channels_last, the memory layout of every kernel.

    Args:
        drop_path: the probability, for each image, that the last of the blocks that add to their input adds nothing
            (stochastic depth, Huang et al. 2016); it grows evenly from the first module on.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    place = 0
    for module, layers in joined(path):
        place += layers
        rate = drop_path * place / len(path)
        if rate and getattr(module, "drops", False):
            x = module(x, rate)
            continue
        y = module(x)
        if rate and getattr(module, "adds", False):
            from torchvision.ops import stochastic_depth  # seconds to import

            y = x + stochastic_depth(y - x, rate, "row")
        x = y
    return x


def adds(path: Sequence[nn.Module]) -> bool:
    """Whether ``run_path`` can drop something: a block of the path adds to its input."""
    return any(getattr(module, "adds", False) or getattr(module, "drops", False) for module in path)


def joined(path: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, int]]:
    """What runs of a path, and how many layers each runs.

    A module whose operators can run more than its own layer says how many by ``joins``, and ``join`` gives one module
    for it and those that follow.
    """
    place = 0
    while place < len(path):
        first: Any = path[place]
        n = getattr(first, "joins", 1)
        yield (first.join(path[place + 1 : place + n]) if n > 1 else first), n
        place += n


def batch_norms(path: list[nn.Module]) -> Iterator[BatchNorm]:
    """The BN layers of a path."""
    return (m for module in path for m in module.modules() if isinstance(m, BatchNorm))


@torch.no_grad()
def zero_gamma(model: nn.Module) -> None:
    """Make every block that adds to its input the identity: γ of its last BN is 0 (Goyal et al. 2017, §5.1)."""
    for block in model.modules():
        if getattr(block, "adds", False):
            *_, last = (norm for norm in block.modules() if isinstance(norm, BatchNorm))
            last.weight.zero_()


@torch.no_grad()
def initialise(model: nn.Module, scheme: str) -> None:
    """Set the initial weights; those of convolutions become channels_last.

    Args:
        scheme: ``spos``: as SPOS's code (first conv N(0, .01), other convs N(0, 1/fan), BN bias 1e-4);
            ``kaiming``: as MobileNetV2; ``pytorch``: as the modules initialise themselves; ``given``: as they are.
    """
    if scheme == "given":
        return
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d):
            if scheme == "kaiming":
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif scheme == "spos":
                nn.init.normal_(m.weight, 0, 0.01 if name.startswith("stem") else 1.0 / m.weight.shape[1])
            if m.bias is not None:
                nn.init.zeros_(m.bias)
            m.weight.data = m.weight.data.contiguous(memory_format=torch.channels_last)
        elif isinstance(m, nn.BatchNorm2d) and m.affine:
            nn.init.constant_(m.bias, 1e-4 if scheme == "spos" else 0.0)
        elif isinstance(m, nn.Linear) and scheme != "pytorch":
            nn.init.normal_(m.weight, 0, 0.01)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def load_network(
    folder: str | Path,
    kernels: str = "eager",
    operations: Sequence[type[Block]] = (),
    make: Callable[..., Any] | None = None,
) -> Network:
    """The network that was trained alone in ``folder``, in eval mode.

    Args:
        operations: the space's own block classes, which the files only name; ``spaces.operations`` gives them.
        make: the function of one's own that makes the given network, which the files only name.

    Raises:
        CheckpointError: there is none, or its files are damaged.
    """
    if Path(folder).is_file():
        raise CheckpointError(f"{folder} is a file: expected the folder of a trained network", missing="network")
    path = TrainingFolder(folder).checkpoint
    state = checkpoint.load(path, missing="network")
    meta: Any = state.get("meta")
    kind = meta.get("kind") if isinstance(meta, dict) else None
    if kind != "network":
        raise CheckpointError(f"{path} holds no network but {kind}", missing="network")
    checkpoint.require(state, NETWORK, path, missing="network")
    space = Space.from_json(meta["space"], str(path), operations, make)
    network = Network(space, meta["arch"], eps=meta.get("eps", 1e-5), kernels=kernels)
    try:
        network.load_state_dict(checkpoint.weights(state))
    except RuntimeError as error:
        reason = str(error).split(":")[0]
        raise CheckpointError(f"{path} does not fit its architecture ({reason})", missing="network") from error
    return network.eval()
