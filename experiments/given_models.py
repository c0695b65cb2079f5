"""Which networks of timm and torchvision become a space, and why not: one or two of every family, random weights."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._common import alone, main
from supernet import families, files, spaces
from supernet.errors import UserError
from supernet.families.given import source, verify
from supernet.families.given.layout import GivenLayout

# Beside one of each family: those that people ask for.
NAMED = """
resnet18 resnet50 resnext50_32x4d wide_resnet50_2 regnetx_002 regnety_002 mobilenetv1_100 mobilenetv2_050
mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv4_hybrid_medium
efficientnet_b0 efficientnet_lite0 tf_efficientnetv2_b0 mnasnet_100 semnasnet_100 fbnetc_100 spnasnet_100
ghostnet_100 ghostnetv2_100 densenet121 vgg11 vgg16_bn convnext_atto convnext_tiny convnextv2_atto repvgg_a0
hrnet_w18_small seresnet50 skresnet18 resnetv2_50 resnetblur18 mixnet_s tinynet_e lcnet_050 hardcorenas_a
deit_tiny_patch16_224 vit_tiny_patch16_224
"""
TORCHVISION = """
alexnet vgg11_bn resnet18 resnext50_32x4d wide_resnet50_2 densenet121 googlenet inception_v3 mobilenet_v2
mobilenet_v3_small mnasnet0_5 shufflenet_v2_x1_0 squeezenet1_1 efficientnet_b0 efficientnet_v2_s regnet_x_400mf
regnet_y_400mf convnext_tiny vit_b_16 swin_t
"""
SMALL = "atto pico femto nano tiny xxs xx_small _xs _s small _p0 _b0 _a0 18 26 _t0 _t1 _m0 s0 _0"  # in names, in order
Row = dict[str, Any]
GENES = ("width", "heads", "depth", "kernel")


@dataclass(frozen=True)
class Args:
    output: Path = Path("docs/results/given_models.json")
    """File of the rows; those that are there are kept. The table is written beside it, as .md."""
    only: tuple[str, ...] = ()
    """Networks, such as timm:resnet18; defaults to all."""
    quick: bool = False
    """The first three, to see that it runs."""


def models() -> list[str]:
    """References of the networks: the named ones, a small one of each family of timm, torchvision's."""
    import timm
    from timm.models import _registry

    of_family: defaultdict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        of_family[_registry._model_to_module[name]].append(name)
    smallest = [min(names, key=lambda n: (_size(n), len(n))) for _, names in sorted(of_family.items())]
    timms = [f"{source.TIMM}{name}" for name in (*NAMED.split(), *smallest)]
    return list(dict.fromkeys([*timms, *(f"{source.TORCHVISION}{name}" for name in TORCHVISION.split())]))


def _size(name: str) -> int:
    words = SMALL.split()
    return next((i for i, word in enumerate(words) if word in name), len(words))


def converted(reference: str) -> dict[str, Any]:
    """What becomes of a network: counts and genes, or the reason why it does not convert."""
    began = time.monotonic()
    try:
        space = spaces.usual(reference)
        layout = families.layout(space)
        assert isinstance(layout, GivenLayout)
        row = {
            "macs": families.flops(space, layout.whole),
            "params": families.params(space, layout.whole),
            "smallest_macs": families.flops(space, tuple(open_[0] for open_ in space.allowed)),
            "genes": dict(Counter(gene.choices[0].op for gene in space.genes)),
            "layers": len(layout.units()),
            "whole": layout.network.whole,
            "difference": verify.difference(space),
        }
    except UserError as error:
        row = {"reason": str(error)}
    return {"model": reference, **row, "seconds": round(time.monotonic() - began, 1)}


def page(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    """The table, in Markdown."""
    good = [row for row in rows if "reason" not in row]
    yield f"# Networks as spaces\n\n`python -m experiments.given_models`: {len(good)} of {len(rows)} networks convert,"
    yield "at the sizes that their registries have, with random weights. The difference is that of the logits of the"
    yield "largest architecture from the network's own, relative to the largest by which those of two images differ.\n"
    yield f"| network | M multiply-adds | smallest | layers | genes: {', '.join(GENES)} | whole layers | difference |"
    yield "|---|---|---|---|---|---|---|"
    for row in good:
        genes = ", ".join(str(row["genes"].get(op, 0)) for op in GENES)
        macs = f"{row['macs'] / 1e6:,.1f} | {row['smallest_macs'] / 1e6:,.1f}"
        layers = f"{row['layers']} | {genes} | {len(row['whole'])}"
        yield f"| `{row['model']}` | {macs} | {layers} | {row['difference']:.0e} |"
    yield "\n## Why layers stay whole\n\n| network | reasons, with the number of layers |\n|---|---|"
    for row in good:
        reasons = Counter(reason for reason in row["whole"].values() if "network's output" not in reason)
        if reasons:
            told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
            yield f"| `{row['model']}` | {told} |"
    yield "\n## Networks that do not convert\n\n| network | reason |\n|---|---|"
    for row in rows:
        if "reason" in row:
            yield f"| `{row['model']}` | {row['reason'].removeprefix(row['model']).strip()} |"


def collect(args: Args, row_of: Callable[[str], Row | None], page: Callable[[list[Row]], Iterable[str]]) -> None:
    """Make the rows that are lacking, each kept at once, and write their page."""
    rows = files.read_json(args.output, "table of networks") if args.output.exists() else []
    for reference in (args.only or models())[: 3 if args.quick else None]:
        if reference not in {row["model"] for row in rows} and (row := row_of(reference)) is not None:
            rows.append(row)
            print({key: value for key, value in row.items() if key != "whole"}, flush=True)
            files.write_json(args.output, rows)
    files.write_bytes(args.output.with_suffix(".md"), ("\n".join(page(rows)) + "\n").encode())


def run(args: Args) -> None:
    collect(args, lambda reference: alone(converted, reference), page)


if __name__ == "__main__":
    main(run, Args)
