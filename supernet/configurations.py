"""Networks of elastic spaces as their authors write them down, and as architectures.

Once-for-all: ``{"ks": […], "e": […], "d": […], "r": 224}``, a number for each block, of ``d`` for each stage. Its
ResNet-50 has ``d`` and ``w`` as places in the lists of choices, ``d[0] = 2`` for the residual convolution of the stem.
AttentiveNAS: ``{"resolution": 192, "width": […], "depth": […], "kernel": […], "expand": […]}``, for each stage.
What stands there can also be ``"min"``, ``"max"``, or one number for all. ``supernet.references`` has some by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from supernet import families, files, footprint, references, spaces
from supernet.errors import UserError
from supernet.families import elastic, elastic_blocks, resolutions
from supernet.families.elastic_presets import RESNET_WIDTHS, resnet_middles
from supernet.quantities import several
from supernet.space import Arch, Space
from supernet.spec import LayerSpec

NAMES = {  # of a part, the ones that are written first: those for stages, and those for blocks
    "resolution": ("resolution", "resolution", "r", "image_size"),
    "width": ("width", "w"),
    "depth": ("depth", "d"),
    "kernel": ("kernel", "ks", "kernel_size"),
    "expand": ("expand", "e", "expand_ratio"),
}
# What may stand beside a configuration.
BESIDE = {"tag", "name", "model", "net_id", "what", "macs", "params", "flops", "cfg"}


class Slot(NamedTuple):
    """A number of a configuration: the gene that it decides, None if there is no choice; its choices by the number."""

    gene: int | None
    choices: dict[float, int]


def arch(space: Space, configuration: object, source: str = "configuration") -> Arch:
    """The architecture that a configuration describes.

    Args:
        configuration: plain JSON data in the form of the space's authors, or a row of a table that holds one under
            ``cfg``; for spaces of any family also ``{"arch": [indices]}``; ``max`` for a given network itself.
        source: what messages call it.

    Raises:
        UserError: the configuration has another form, or names a network that the space does not have.
    """
    if isinstance(configuration, dict) and "arch" in configuration:
        found = configuration["arch"]
        if not isinstance(found, list) or not all(type(i) is int for i in found):
            raise UserError(f"{source}: arch is {found!r:.60}, expected a list of indices")
        try:
            return space.check(found)
        except UserError as error:
            raise error.of(source) from error
    if space.model and configuration == "max":
        return space.check(space.whole)
    slots = _slots(space)
    given = _parts(configuration, slots, source)
    genes = [len(gene.choices) - 1 for gene in space.genes]  # what has no slot has one choice
    if unknown := sorted(set(given) - set(slots)):
        raise UserError(f"{source} has {unknown[0]}, but space {space.name} has {', '.join(slots)}")
    for part, wanted in slots.items():
        if part not in given and part == "resolution" and space.resolution in wanted[0].choices:
            given[part] = space.resolution
        for slot, value in zip(wanted, _values(given, part, len(wanted), source), strict=True):
            choice = _choice(slot, value)
            if choice is None:
                expected = ", ".join(f"{number:g}" for number in slot.choices)
                raise UserError(f"{source}: {part} {value!r:.60}, expected one of {expected}")
            if slot.gene is not None:
                genes[slot.gene] = choice
    return space.check(genes)


def configuration(space: Space, arch: Arch) -> dict[str, Any]:
    """``arch`` in the form of the space's authors; ``arch`` above is the inverse."""
    each = any(len(stage.kernels) > 1 or len(stage.expansions) > 1 for stage in _layout(space).stages)
    written: dict[str, Any] = {}
    for part, slots in _slots(space).items():
        numbers = []
        for slot in slots:
            index = 0 if slot.gene is None else space.check(arch)[slot.gene]
            number = next(number for number, choice in slot.choices.items() if choice == index)
            numbers.append(int(number) if number == int(number) else number)
        written[NAMES[part][each]] = numbers[0] if part == "resolution" else numbers
    return written


def read(space: Space, path: Path) -> Arch:
    """The architecture that a JSON file describes, or a name of ``references`` where there is no such file.

    Raises:
        UserError: names the file, or the space that the named network belongs to.
    """
    name = str(path)
    if name in references.NETWORKS and not path.exists():
        return _published(space, name)
    try:
        data = files.parse(path.read_bytes())
    except OSError as error:
        names = f"; names are {', '.join(references.NETWORKS)}" if path.parent == Path() and not path.suffix else ""
        raise UserError(f"cannot read the configuration {path}: {error.strerror}{names}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    return arch(space, data, str(path))


def _published(space: Space, name: str) -> Arch:
    """The architecture of a published network."""
    own, written = references.NETWORKS[name]
    same = space.model == own if space.model else space.genes == spaces.get(own, *space.images).genes
    if not same:
        raise UserError(f"{name} is a network of the space {own}, not of {space.name} as it is here")
    return arch(space, written, name)


def counts(space: Space, arch: Arch) -> dict[str, Any]:
    """What a network costs, as its authors count, in plain JSON.

    Returns:
        ``macs`` (multiply-adds of convolutions and linear layers for one image of the ``resolution``), ``params``, of
        which ``unused_params`` are in the authors' network only, ``arch``, and ``layers`` with the same for each;
        ``flash`` and ``ram``, bytes of its file and of working memory at the peak, by precision.
    """
    specs = families.lower(space, arch)
    prices = {precision: footprint.ram_of(specs[0].input_shape, precision) for precision in footprint.VALUE}
    layers = [{"key": spec.key, "macs": spec.flops, "params": spec.params + unused(spec)} for spec in specs]
    return {
        "space": space.name,
        "resolution": specs[0].size.plain,
        "macs": sum(layer["macs"] for layer in layers),
        "params": sum(layer["params"] for layer in layers),
        "unused_params": sum(map(unused, specs)),
        "flash": {precision: sum(footprint.flash(spec, precision) for spec in specs) for precision in prices},
        "ram": {precision: max(map(price, specs)) for precision, price in prices.items()},
        "arch": list(arch),
        "layers": layers,
    }


def unused(spec: LayerSpec) -> int:
    """Parameters that the authors' network has beside ``spec.params`` and never uses; ours leaves them out.

    AttentiveNAS gives each block the 1×1 convolution of its shortcut, also those that keep their channels.
    """
    keeps = issubclass(spec.block, elastic_blocks.Attentive) and spec.in_channels == spec.out_channels
    return spec.in_channels**2 if keeps else 0


def _layout(space: Space) -> elastic.ElasticLayout:
    layout = families.layout(space)
    if not isinstance(layout, elastic.ElasticLayout):
        raise UserError(
            f'space {space.name} is not elastic: expected {{"arch": [indices]}}, or one of the spaces '
            f"{', '.join(elastic.FAMILY.presets)}"
        )
    return layout


def _slots(space: Space) -> dict[str, list[Slot]]:
    """The numbers of a configuration by its parts, in their order."""
    slots: dict[str, list[Slot]] = {part: [] for part in NAMES}

    def add(part: str, gene: int) -> None:
        percent = 100 if space.genes[gene].choices[0].op == "expand_percent" else 1
        slots[part].append(Slot(gene, {c.count / percent: i for i, c in enumerate(space.genes[gene].choices)}))

    layout = _layout(space)
    add("resolution", resolutions.GENE)
    for stage in layout.stages:
        if stage.width is not None:
            add("width", stage.width)
        depths = space.genes[stage.depth].choices
        if len(depths) == 1 and not stage.kernels and not stage.expansions:
            continue  # nothing of it varies: configurations leave it out
        add("depth", stage.depth)
        for part, own, fixed in (
            ("kernel", stage.kernels, depths[0].kernel),
            ("expand", stage.expansions, depths[0].expand),
        ):
            for gene in own:
                add(part, gene)
            if fixed and not own:
                slots[part].append(Slot(None, {fixed: 0}))
    if len(space.genes[layout.head].choices) > 1:
        add("width", layout.head)
    if layout.stages[-1].kind is elastic_blocks.KINDS["resnet_d"]:
        _by_places(slots)
    return {part: own for part, own in slots.items() if own}


def _by_places(slots: dict[str, list[Slot]]) -> None:
    """Depths and widths as once-for-all's ResNet-50 has them: places in the lists of choices."""
    residual, *depths = slots["depth"]
    slots["depth"] = [Slot(residual.gene, {0: 0, 1: 0, 2: 1})]
    middle, *widths = slots["width"]
    middles = {float(place): middle.choices[width] for place, width in enumerate(resnet_middles())}
    slots["width"] = [Slot(middle.gene, middles)]
    for part, others in (("depth", depths), ("width", widths)):
        slots[part] += [
            Slot(slot.gene, {float(place): place for place in range(len(RESNET_WIDTHS))}) for slot in others
        ]


def _parts(configuration: object, wanted: Iterable[str], source: str) -> dict[str, Any]:
    """What a configuration gives for each part, by the names of ``NAMES``."""
    outer: Mapping = configuration if isinstance(configuration, dict) else {"cfg": configuration}
    inner, usual = outer.get("cfg", {}), {}
    if inner in ("min", "max"):
        inner, usual = {}, dict.fromkeys(wanted, inner)
    if not isinstance(inner, dict):
        raise UserError(f"{source} is {inner!r:.60}, expected an object, min or max")
    parts = {alias: part for part, aliases in NAMES.items() for alias in aliases}
    given: dict[str, Any] = {}
    for name, value in (*inner.items(), *outer.items()):
        if name in BESIDE or value is None:
            continue
        if name not in parts:
            raise UserError(f"{source} has the unknown field {name!r:.40}, expected {', '.join(parts)}")
        part = parts[name]
        if given.setdefault(part, value) != value:
            raise UserError(f"{source} has two values for {part}: expected one")
    return usual | given


def _values(given: Mapping[str, Any], part: str, length: int, source: str) -> list[Any]:
    """The numbers of a part, as many as there are slots."""
    if part not in given:
        raise UserError(f"{source} has no {part}: expected {length} number{'s' * (length > 1)}")
    value = given[part]
    if not isinstance(value, list):
        return [value] * length
    if len(value) != length:
        raise UserError(f"{source} has {several(len(value), 'number')} for {part}, expected {length}")
    return value


def _choice(slot: Slot, value: object) -> int | None:
    """The index that a number, ``min`` or ``max`` stands for; None if there is no such choice."""
    if value == "min":
        return min(slot.choices.values())
    if value == "max":
        return max(slot.choices.values())
    return slot.choices.get(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
