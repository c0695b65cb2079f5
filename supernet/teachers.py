"""What a network learns from besides the labels: the supernet's largest network, the given one, or another one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor, nn

from supernet import plugins, state_dicts
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.extremes import largest
from supernet.families.given import family, source, weights
from supernet.families.given.layout import of_network
from supernet.methods import given, spos
from supernet.model import Supernet, load_network
from supernet.quantities import several
from supernet.runs import RECORD, RunFolder
from supernet.training import distributed
from supernet.training.bn import recalibrate_bn
from supernet.training.measured import Kernels

Values = source.Values
SUPERNET, GIVEN = "supernet", "given"
RECALIBRATION = (16, 64)  # batches, images per batch


def opened(
    run: RunFolder,
    name: str,
    file: Path | None,
    device: torch.device,
    kernels: Kernels,
    images: TrainVal | None = None,
) -> nn.Module:
    """The teacher that ``name`` names, for the images of a run, in eval mode and without gradients.

    Args:
        name: ``supernet``, its largest network; ``given``, the network that the space is of, as it was;
            ``timm:NAME`` or ``torchvision:NAME`` with the weights in ``file``; or the folder of a trained network.
        file: a state dict of the images' classes, as ``state_dicts.read`` takes it.
        images: of the run, where they are open; the statistics of the supernet's largest network are taken from them.
            A network of a registry, or of another run, gets them normalised as it learnt.

    Raises:
        UserError: there is none, or it is for other images or classes.
    """
    if file is not None and not plugins.is_registered(name):
        raise UserError(f"weights {file} for the teacher {name}: only networks of timm and torchvision take a file")
    if name == SUPERNET:
        found: nn.Module = _largest(run, device, kernels, images)
    elif name == GIVEN:
        found = _given(run, kernels)
    elif plugins.is_registered(name):
        train = (images or run.images()).train
        found = _registered(run, name, file)
        if (learnt := given.published_values(name, train)) is not None:
            distributed.tell(f"{given.other_values(name, train)}: the teacher gets them by the former")
            found = Renormalised(found, (train.mean, train.std), learnt)
    elif not Path(name).is_dir():
        kinds = f"{SUPERNET}, {GIVEN}, timm:NAME, torchvision:NAME, or the folder of a trained network"
        raise UserError(f"no teacher {name}: expected {kinds}")
    else:
        wanted = run.space()
        found = load_network(Path(name), kernels, wanted.operations, wanted.make)
        if found.space.images != wanted.images:
            its, runs = (
                f"{c}×{size} and {several(classes, 'class', 'classes')}"
                for c, size, classes in (found.space.images, wanted.images)
            )
            raise UserError(f"the teacher {name} is for images of {its}, the run for {runs}")
        train = (images or run.images()).train
        learnt, ours = _learnt_by(Path(name)), (train.mean, train.std)
        if learnt not in (None, ours) and train.fit is not None:
            found = Renormalised(found, ours, learnt)
    return found.to(device).eval().requires_grad_(False)


class Renormalised(nn.Module):
    """A network that learnt by images normalised by ``theirs``, given images normalised by ``ours``."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, ours: Values, theirs: Values):
        super().__init__()
        self.network = network
        (mean, std), (own_mean, own_std) = (
            (torch.tensor(of, dtype=torch.float64)[:, None, None] for of in values) for values in (ours, theirs)
        )
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.network(x * self.scale + self.shift)


def _learnt_by(network: Path) -> Values | None:
    """Mean and deviation of the images of the run that a trained network is of, as it recorded them."""
    for folder in map(RunFolder, (network, *network.absolute().parents[:2])):
        with contextlib.suppress(UserError):  # somebody's config.json
            known = folder.config().get(RECORD, {}).get("preparation")
            if known is not None:
                return tuple(known["mean"]), tuple(known["std"])
    return None


def _largest(run: RunFolder, device: torch.device, kernels: Kernels, images: TrainVal | None) -> nn.Module:
    space = run.space()
    model, arch = run.supernet(space, device, kernels), largest(space)
    recalibrate_bn(model, spos.recalibration_images(images or run.images(), *RECALIBRATION), arch)
    return model.extract(arch, kernels)


def _given(run: RunFolder, kernels: Kernels) -> nn.Module:
    space = run.space()
    if not space.model or not run.given_path.exists():
        raise UserError(f"no network was given to {run.path}: expected the teacher {SUPERNET}, a network or a folder")
    model = Supernet(space, kernels=kernels)
    family.load(model.shared, weights.read(of_network(space).network, str(run.given_path)).state)
    return given.teacher(model)


def _registered(run: RunFolder, name: str, file: Path | None) -> nn.Module:
    if file is None:
        raise UserError(f"the teacher {name} needs weights that know the images: expected a file of them")
    channels, size, classes = run.space().images
    model = source.make(name, channels, size, classes)
    own = model.state_dict()
    runs = weights.running(model, name, channels, size)
    model.load_state_dict(weights.fitted(own, state_dicts.read(file, own), name, str(file), runs).state)
    return model
