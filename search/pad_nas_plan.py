"""What a run of PAD-NAS will take, by the first steps of its supernets and a few scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from search import pad_nas
from search.ces import CES
from search.costs import Cost
from search.run import SearchRun
from supernet.data.excerpt import Excerpt
from supernet.space import Arch, Space
from supernet.training.rehearsal import Rehearsal, Shadow

SCORED = 8  # architectures for each worker


def rehearse(
    space: Space,
    cfg: pad_nas.Config,
    costs: Mapping[str, Cost],
    bounds: Mapping[str, tuple[float, float]],
    objectives: Sequence[str],
    run: Shadow,
    device: torch.device,
    settings: Mapping,
    rehearsal: Rehearsal,
    networks: int = 0,
) -> list[Arch]:
    """Take the first steps of ``pad_nas.run``, with the same arguments, in a copy of its folder.

    A space that is still to be pruned counts as the one before it, of which it is a part.

    Args:
        networks: how many architectures are to be trained alone.

    Returns:
        So many random ones of the last space, to measure that.
    """
    images, supernet, drive = rehearsal.images, None, rehearsal.training()
    scored = images
    if cfg.scoring.val_limit is not None and isinstance(images.val, Excerpt):
        scored = dataclasses.replace(images, val=images.val.standing_for(cfg.scoring.val_limit))
    for number in range(1, len(cfg.epochs) + 1):
        here = run.within(f"supernet-{number}")
        supernet = pad_nas.train(space, images, cfg, number, here.path, device, settings, inherit=supernet, drive=drive)
        search = CES(space, costs, bounds, objectives, cfg.ces)
        found, random = pad_nas.begin_search(search, supernet, scored, cfg, here.path)
        score(found, random, rehearsal)
        if search.done:
            space = pad_nas.prune(search, cfg, pad_nas.scored_images(images, cfg))[1]
    return search.window.sample(np.random.default_rng(cfg.ces.seed), networks, (), cfg.ces.max_draws)


def score(found: SearchRun, random: Sequence[Arch], rehearsal: Rehearsal) -> None:
    """Score a few of the architectures that a search has still to score.

    Later generations have more layers in common than these, so their scores take less.
    """
    search, evaluator = found.search, found.evaluator
    left = search.config.population * (0 if search.done else search.config.iterations - search.generation)
    new = [arch for arch in random if arch not in evaluator.scores]
    asked = [arch for arch in search.ask() if arch not in evaluator.scores]
    at_once = evaluator.executor.at_once
    if few := [*asked, *new][: SCORED * at_once]:
        seconds = rehearsal.seconds(lambda: evaluator(few), min(at_once, len(few)))
        rehearsal.add("scoring", left + len(new), "architectures", seconds / len(few))
