"""Settings of Stage-Wise NAS: the paper's or small ones, the space of a search, and what bounds it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search import priced
from search.stage_wise import Config, Modules, StageWise
from supernet import donors
from supernet.data.sets import TrainVal
from supernet.errors import UserError
from supernet.families import module_stages
from supernet.model import Network
from supernet.space import Arch, Space
from supernet.training import defaults
from supernet.training.loop import FitConfig

LARGE = 96  # pixels from which on images get ResNet-50's four stages and its stem


@dataclass(frozen=True)
class Settings:
    """Sizes and training; the defaults are small ones, for two cores."""

    initial: int = 2  # modules in each stage of the initial network
    step: int = 1
    iterations: int = 3
    width: int = 8  # channels of the first stage
    epochs: int = 4  # of every network
    further_epochs: int = 0  # of candidates, once their importance is measured
    passes: int = 1  # over the training images in an epoch, each augmented anew
    batch_size: int = 64
    lr: float = 0.1


def preset(paper: bool, module: str, donor: str | None = None, **given: Any) -> Settings:
    """The paper's settings (§IV), or small ones, with what is not None of ``given``.

    Args:
        module: a kind of ``module_stages``. donor: networks begin with its weights, so fewer epochs suffice.

    Raises:
        UserError: an unknown module, or epochs that cannot be.
    """
    kind = module_stages.kind_of(module)
    found = Settings(width=4 if module == "nasnet" else 8)
    if paper:
        widths = {"residual": 16, "bottleneck": 64, "nasnet": 32}
        initial = 2 if module == "nasnet" else 6  # Table IV: the first candidate has 109 layers, which are seven cells
        found = Settings(initial, kind.step, 5, widths[module], 200 if donor is None else 50, 100, 3, 128, 0.01)
    found = dataclasses.replace(found, **{name: value for name, value in given.items() if value is not None})
    if found.epochs == 0 and donor is None:
        raise UserError("0 epochs train nothing: expected at least one epoch, or a donor")
    if min(found.epochs, found.further_epochs) < 0:
        raise UserError(f"{found.epochs} epochs, {found.further_epochs} further ones: expected no negative number")
    if found.passes < 1:
        raise UserError(f"{found.passes} passes in an epoch: expected at least 1")
    return found


def fit_config(paper: bool, given: Settings, seed: int) -> FitConfig:
    """The paper's §IV: SGD .01, ÷10 at a half and three quarters, where the rate then stays; or a short cosine.

    The authors' l2 of 1e-4 in Keras adds 1e-4 · w² to the loss, which is a weight decay of 2e-4.
    """
    epochs = given.epochs * given.passes
    shared: dict[str, Any] = {"batch_size": given.batch_size, "lr": given.lr, "seed": seed}
    if paper:
        shared |= {"schedule": "step", "schedule_epochs": epochs, "nesterov": True}
        return FitConfig(epochs, weight_decay=2e-4, label_smoothing=0.0, **shared)
    augment = defaults.augments(None, epochs)
    return FitConfig(epochs, schedule="cosine", weight_decay=1e-4, clip=5.0, augment=augment, **shared)


def stages_for(images: TrainVal) -> int:
    """How many stages images of this size have room for: a CIFAR ResNet's three, or ResNet-50's four."""
    return 4 if min(images.size) >= LARGE else 3


def space_for(images: TrainVal, module: str, config: Config, width: int, paper: bool) -> Space:
    """The space of all networks that a search with ``config`` can ask for; the stem halves small images unless as in
    the paper."""
    space = module_stages.space(
        module,
        images.channels,
        images.resolution,
        images.classes,
        width=width,
        stages=config.stages,
        stem_stride=4 if min(images.size) >= LARGE else 1 if paper else 2,
        deepest=max(config.reach),
    ).at(images.size)
    module_stages.arch(space, config.first)  # refuses an initial network that is not in it
    return space


def controller(
    config: Config,
    space: Space,
    flops_max: float = math.inf,
    params_max: float = math.inf,
    latency_max: float = math.inf,
    latency: Callable[[Space, Arch], float] | None = None,
) -> StageWise:
    """The search, with bounds on the candidates.

    Args:
        latency: gives ms, for the bound on it.
    """

    def network(modules: Modules) -> tuple[Space, Arch]:
        return space, module_stages.arch(space, modules)

    return StageWise(config, *priced.bounded(network, flops_max, params_max, latency_max, latency))


def open_donor(source: str, space: Space, config: Config) -> Network:
    """The donor of ``donors.load``, if it fits every network that the search can ask for."""
    donor = donors.load(source)
    donors.require_depth(donor, config.reach)
    donors.transfer(Network(space, module_stages.arch(space, config.first), kernels="eager"), donor)
    return donor
