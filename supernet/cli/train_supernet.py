"""Train a weight-sharing supernet on your images. --method M --help lists the options of method M."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supernet.cli import common, opening, planning, report, starting
from supernet.cli.methods import METHODS, Args
from supernet.errors import UserError
from supernet.quantities import count, several

if TYPE_CHECKING:
    from supernet.space import Space


def chosen(argv: Sequence[str]) -> type[Args]:
    """The options of the method that ``--method`` names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?", default="spos")
    name = parser.parse_known_args(argv)[0].method
    if name not in METHODS:
        common.refuse(f"--method {name}: expected one of {', '.join(METHODS)}")
    return METHODS[name]


def whole(space: Space, args: Args) -> str:
    """How much of a given network cannot be cut, and the command that lists it."""
    from supernet.families.given.layout import of_network

    layers = len(of_network(space).network.whole)
    command = common.command("count", None, *common.words(args, "space", "resolution"))
    return f"{several(layers, 'layer')} {'stays' if layers == 1 else 'stay'} whole: {common.escape(command)} says why"


def run(args: Args) -> None:
    from supernet import spaces
    from supernet.families.given import weights
    from supernet.methods import given
    from supernet.progress import silent
    from supernet.runs import RunFolder
    from supernet.training import defaults, distributed, precision
    from supernet.training.loop import FitConfig

    device = defaults.device(args.device)
    distributed.start(device)
    name, reason, images = opening.open_images(args)
    wanted = args.space or ("mobile-small" if images.size.pixels < 96**2 else "mobile")
    space = args.sized(spaces.get(wanted, images.channels, images.size, images.classes))
    folder = common.open_run(args)
    begun = common.begun(args, folder)
    args = args.settled(space, begun)
    if not begun and getattr(args, "weights", None) == weights.PRETRAINED:
        images = given.as_published(images, space.model)
    assert args.epochs is not None
    assert args.warmup_epochs is not None
    augment = begun.get("augment") if args.augment is None else args.augment  # as the first epochs of a run that grows
    fit = FitConfig(
        args.epochs,
        args.batch_size,
        defaults.learning_rate(args.batch_size, args.lr, learnt=args.learnt),
        warmup_epochs=args.warmup_epochs,
        clip=args.clip,
        clip_value=args.clip_value,
        seed=args.seed,
        augment=defaults.augments(augment, args.epochs),
        accumulate=args.accumulate,
        precision=precision.resolve(args.precision, device),
        sync_bn=args.sync_bn,
    )
    distributed.share(fit.batch_size, fit.accumulate)
    kernels = (defaults if args.restart else folder).kernels(device, args.kernels, args.sync_bn)
    cfg = args.config(space, fit, kernels)
    args = dataclasses.replace(
        args,
        data=name,
        lr=fit.lr,
        kernels=cfg.kernels,
        augment=fit.augment,
        precision=fit.precision,
        quiet=args.quiet or args.plan,
    )
    leader = distributed.rank() == 0
    begin = functools.partial(
        RunFolder.begin,
        settings={**common.settings(args), **args.contents(cfg), "space": space.name},  # which one says the space file
        space=space,
        images=images,
        restart=args.restart,
        grows=args.grows,
        defaults={**common.defaults(args), "precision": "fp32", "rule": "uniform", "distil": "none"},  # all there was
        made_with={"space": args.space, **defaults.record(device)},
    )
    if args.plan:
        with planning.planning(args) as making:
            if leader:
                begin(making.folder)
            distributed.wait()
            rehearsal = making.rehearsal(images, device)
            args.train(space, rehearsal.images, cfg, device, making.folder, rehearsal)
            making.add(rehearsal)
        distributed.stop()
        return
    with folder.lock() if leader else folder.unlocked():
        if leader:
            new = begin(folder)
            common.say(
                f"[bold]{space.name}[/bold]: {several(len(space.genes), 'gene')}, "
                f"{several(space.size, 'architecture', form=count)}; "
                f"{opening.in_words(images, name, reason)}; {precision.in_words(fit.precision, device)}; "
                f"{common.escape(str(args.run))}"
            )
            if space.model:
                common.say(whole(space, args))
        distributed.wait()  # until a run that is to be deleted is gone
        try:
            args.train(space, folder.decoded(images, args.progress if leader else silent), cfg, device, folder)
        except UserError:
            if leader and new and not (folder.checkpoint.exists() or folder.failure.exists()):
                folder.delete()  # nothing was trained: what is mended may begin here
            raise
        if leader:
            common.answer(args, args.report(space, cfg, folder))
    distributed.stop()


def main() -> None:
    """The command line."""
    starting.main(run, chosen(sys.argv[1:]), torchrun=True, after=report.leave_page)
