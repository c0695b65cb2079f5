"""Search spaces and architectures. No torch.

An architecture is a tuple of indices, one per gene: hashable, a cache key, a JSON list. A space names its
genes and their choices once and for all; pruning only narrows ``allowed``, so an index never changes its
meaning and weights, caches and latency tables survive it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from supernet import files
from supernet.errors import SpaceMismatch, UserError
from supernet.quantities import several
from supernet.size import Size
from supernet.spec import Block

Arch = tuple[int, ...]
SCHEMA = 1
INITS = ("kaiming", "spos", "pytorch", "given")
SMALLEST = {
    "channels": 1,
    "resolution": 1,
    "width": 0,
    "classes": 0,
    "stem_channels": 1,
    "stem_stride": 1,
    "head_channels": 0,
}
LARGEST = 2**16  # of any size, so that products of several fit into 64 bits
TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
}


@dataclass(frozen=True)
class Choice:
    """A candidate operation: ``op`` names a ``spec.Block``; kernel and expansion where they mean something.

    Or a size of a stage: ``op`` is ``depth`` or ``width``, and ``count`` that many blocks or channels; or ``op`` is a
    kind of module and ``count`` how many of them make the stage.
    """

    op: str
    kernel: int = 0
    expand: int = 0
    count: int = 0

    @property
    def name(self) -> str:
        """Short and unique within a gene: ``identity``, ``k3_e6``, ``shuffle_k5``, ``depth3``, ``width24``."""
        kernel = f"k{self.kernel}" if self.kernel else ""
        expand = f"e{self.expand}" if self.expand else ""
        op = "" if self.op == "ib" else f"{self.op}{self.count}" if self.count else self.op
        return "_".join(part for part in (op, kernel, expand) if part)


@dataclass(frozen=True)
class Gene:
    """One decision: which of ``choices`` runs between ``in_channels`` and ``out_channels`` at ``stride``.

    In a space of stages the choices are a stage's depths or its widths, and the channels the largest ones. In one of
    layers ``act`` and ``se`` are what a layer has in place of, or besides, the space's ``act`` and ``squeeze_excite``.
    """

    name: str
    choices: tuple[Choice, ...]
    in_channels: int
    out_channels: int
    stride: int
    act: str = ""  # relu | relu6 | hard_swish | swish; the space's if empty
    se: bool = False  # squeeze-excite as wide as in MobileNetV3's code


@dataclass(frozen=True)
class Space:
    """A family of networks: a fixed stem and head around one searched layer per gene.

    Or around stages of identical blocks, each with a gene for its depth and one for its width: its family, in
    ``supernet.families``, is told by its operations. ``allowed[i]`` holds the indices into ``genes[i].choices`` that
    are still open, ascending. ``operations`` are block classes of its own, for choices that no family knows; files
    hold their names only.
    """

    name: str
    channels: int  # of the input image
    resolution: int  # height of the input image, pixels; and its width, if it has no ``width``
    classes: int  # 0 where the head gives an embedding
    stem_channels: int
    stem_stride: int
    head_channels: int
    act: str  # relu | relu6 | hard_swish | swish
    genes: tuple[Gene, ...]
    allowed: tuple[tuple[int, ...], ...]
    squeeze_excite: bool = False
    dropout: float = 0.0
    classifier_bias: bool = True
    init: str = "kaiming"  # kaiming | spos | pytorch | given
    width: int = 0  # of the input image where it is not square, else 0
    cells: str = ""  # kinds of the cells in order, n(ormal) or r(eduction), where there are some
    model: str = ""  # the given network of whose parts the space consists, as supernet.families.given.source takes it
    operations: tuple[type[Block], ...] = field(default=(), compare=False)
    make: Callable[..., Any] | None = field(default=None, compare=False)  # of the given network, where that is code

    def __post_init__(self) -> None:
        if self.width == self.resolution:
            object.__setattr__(self, "width", 0)
        problem = next(self._problems(), None)
        if problem:
            raise UserError(f"space {self.name}: {problem}")

    def _problems(self) -> Iterator[str]:
        """What is wrong with the values, in words."""
        for name, least in SMALLEST.items():
            if getattr(self, name) < least:
                yield f"{name} {getattr(self, name)}: expected at least {least}"
        numbers = [getattr(self, name) for name in SMALLEST]
        for gene in self.genes:
            numbers += [gene.in_channels, gene.out_channels, gene.stride]
            numbers += [n for choice in gene.choices for n in (choice.kernel, choice.expand, choice.count)]
        if max(numbers) > LARGEST:
            yield f"a size of {max(numbers):.3g}: expected at most {LARGEST}"
        if not 0 <= self.dropout < 1:
            yield f"dropout {self.dropout}: expected a share in [0, 1)"
        if self.init not in INITS:
            yield f"init {self.init!r}: expected one of {', '.join(INITS)}"
        if not self.genes:
            yield "no genes: expected at least one"
        if twice := _repeated(gene.name for gene in self.genes):
            yield f"two genes have the name {twice!r}: expected a name of its own for each"
        for gene in self.genes:
            if min(gene.in_channels, gene.out_channels, gene.stride) < 1:
                yield (
                    f"gene {gene.name} has {gene.in_channels} input, {gene.out_channels} output channels, stride "
                    f"{gene.stride}: expected at least 1"
                )
            if not gene.choices:
                yield f"gene {gene.name} has no choices: expected at least one"
            if twice := _repeated(choice.name for choice in gene.choices):
                yield f"gene {gene.name} has the choice {twice!r} twice: expected different ones"
            for choice in gene.choices:
                if not choice.op or min(choice.kernel, choice.expand, choice.count) < 0:
                    yield f"gene {gene.name} has the choice {choice}: expected an op, and no number below 0"
        if len(self.allowed) != len(self.genes):
            yield f"{several(len(self.genes), 'gene')} but {several(len(self.allowed), 'allowed list')}"
        for gene, open_ in zip(self.genes, self.allowed, strict=False):
            if not open_ or list(open_) != sorted(set(open_)) or not 0 <= open_[0] <= open_[-1] < len(gene.choices):
                yield (
                    f"gene {gene.name} allows {list(open_)}; expected ascending indices below {len(gene.choices)}, "
                    "at least one"
                )

    @property
    def input_size(self) -> Size:
        """Of the input image."""
        return Size(self.resolution, self.width or self.resolution)

    @property
    def images(self) -> tuple[int, Size, int]:
        """Channels, size and classes of the images, as ``spaces.get`` takes them."""
        return self.channels, self.input_size, self.classes

    def at(self, size: Size) -> Space:
        """The same space for images of another size."""
        return dataclasses.replace(self, resolution=size.height, width=size.width)

    @property
    def whole(self) -> Arch:
        """The last choice of every gene: the network itself, where one is given."""
        return tuple(len(gene.choices) - 1 for gene in self.genes)

    @property
    def size(self) -> int:
        """Number of architectures, exactly."""
        return math.prod(len(open_) for open_ in self.allowed)

    def __contains__(self, arch: object) -> bool:
        return (
            isinstance(arch, tuple)
            and len(arch) == len(self.genes)
            and all(i in open_ for i, open_ in zip(arch, self.allowed, strict=True))
        )

    def check(self, arch: Sequence[int]) -> Arch:
        """``arch`` as a tuple, or a UserError that names the first gene it breaks."""
        arch = tuple(int(i) for i in arch)
        if len(arch) != len(self.genes):
            raise UserError(
                f"space {self.name} has {several(len(self.genes), 'gene')}, the architecture has {len(arch)}"
            )
        for gene, open_, i in zip(self.genes, self.allowed, arch, strict=True):
            if i not in open_:
                raise UserError(f"space {self.name}: gene {gene.name} allows {list(open_)}, the architecture has {i}")
        return arch

    def decode(self, arch: Arch) -> tuple[Choice, ...]:
        """The choices that the indices stand for."""
        return tuple(gene.choices[i] for gene, i in zip(self.genes, arch, strict=True))

    def describe(self, arch: Arch) -> str:
        """One line for people: the names of the choices."""
        return " ".join(choice.name for choice in self.decode(arch))

    def sample(self, rng: np.random.Generator) -> Arch:
        """An architecture drawn uniformly."""
        return tuple(open_[int(rng.integers(len(open_)))] for open_ in self.allowed)

    def sample_where(self, rng: np.random.Generator, accept: Callable[[Arch], bool], tries: int = 1000) -> Arch | None:
        """The first of at most ``tries`` uniform draws that ``accept`` takes, else None."""
        for _ in range(tries):
            arch = self.sample(rng)
            if accept(arch):
                return arch
        return None

    def enumerate(self) -> list[Arch]:
        """Every architecture, in lexicographic order. For small spaces."""
        archs: list[Arch] = [()]
        for open_ in self.allowed:
            archs = [(*arch, i) for arch in archs for i in open_]
        return archs

    def restrict(self, keep: Sequence[Collection[int]]) -> Space:
        """The same space with fewer open choices: ``allowed`` becomes its intersection with ``keep``."""
        if len(keep) != len(self.genes):
            raise UserError(f"space {self.name} has {several(len(self.genes), 'gene')}, restrict got {len(keep)}")
        allowed = tuple(tuple(i for i in open_ if i in k) for open_, k in zip(self.allowed, keep, strict=True))
        return dataclasses.replace(self, allowed=allowed)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name what indices mean: everything but ``allowed``, which pruning changes."""
        fields = self._fields()
        del fields["allowed"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict:
        """A plain dict; ``from_json`` is its inverse."""
        return {"schema": SCHEMA, "fingerprint": self.fingerprint, **self._fields()}

    def _fields(self) -> dict:
        """What files and fingerprints are older than stands only where it means something."""
        plain = dataclasses.replace(self, operations=(), make=None)
        left_out = (
            ("count", 0),
            ("width", 0),
            ("cells", ""),
            ("model", ""),
            ("operations", ()),
            ("make", None),
            ("act", ""),
            ("se", False),
        )
        return dataclasses.asdict(plain, dict_factory=lambda items: {k: v for k, v in items if (k, v) not in left_out})

    def with_operations(self, *blocks: type[Block]) -> Space:
        """The same space with more operations of its own; those that it has stay.

        Raises:
            UserError: no block class with an ``op``, or two of the same ``op``.
        """
        operations = tuple(dict.fromkeys((*self.operations, *blocks)))
        for block in operations:
            if not (isinstance(block, type) and issubclass(block, Block) and isinstance(getattr(block, "op", 0), str)):
                raise UserError(f"expected a subclass of supernet.spec.Block with a text as its op, got {block!r}")
        if twice := _repeated(block.op for block in operations):
            both = " and ".join(block.__name__ for block in operations if block.op == twice)
            raise UserError(f"{both} have the same op {twice!r}: give each an op of its own")
        return dataclasses.replace(self, operations=operations)

    @classmethod
    def from_json(
        cls,
        data: object,
        source: str = "space",
        operations: Sequence[type[Block]] = (),
        make: Callable[..., Any] | None = None,
    ) -> Space:
        """Rebuild a space; a UserError names ``source`` where the data is no space of this schema.

        Args:
            data: as ``to_json`` gives it, or written by hand: ``fingerprint`` can be left out, and ``allowed``
                where everything is open.
            operations: of its own, and make: of the given network; the data holds their names only.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise UserError(f"{source}: expected a space of schema {SCHEMA}, found {found}")
        fields = {key: value for key, value in data.items() if key not in ("schema", "fingerprint")}
        try:
            space = dataclasses.replace(_space(fields), make=make).with_operations(*operations)
        except UserError as error:
            raise error.of(source) from error
        if data.get("fingerprint", space.fingerprint) != space.fingerprint:
            raise UserError(
                f"{source}: says fingerprint {data['fingerprint']} but its content gives {space.fingerprint}; "
                "the file was edited or damaged (leave the fingerprint out if you edited it)"
            )
        return space

    @classmethod
    def load(cls, path: str | Path, operations: Sequence[type[Block]] = ()) -> Space:
        """Read a space file; ``operations`` as in ``from_json``."""
        try:
            data = files.parse(Path(path).read_bytes())
        except OSError as error:
            raise UserError(f"cannot read the space file {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error})") from error
        return cls.from_json(data, str(path), operations)

    def require(self, fingerprint: str, source: str) -> None:
        """Refuse a file made for another space, naming both."""
        if fingerprint != self.fingerprint:
            raise SpaceMismatch(
                f"{source} was made for the space {fingerprint}, but the space here is {self.fingerprint} "
                f"({self.name}); make it again for this space"
            )


def _repeated(names: Iterable[str]) -> str | None:
    """A name that comes twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _space(data: dict) -> Space:
    """A space of plain JSON; a UserError says which field is missing, unknown or of another type."""
    genes = []
    for i, item in enumerate(_items(data, "genes", "the space")):
        where = f"gene {i}"
        choices = (Choice(**_fields(Choice, c, f"a choice of {where}")) for c in _items(item, "choices", where))
        genes.append(Gene(**_fields(Gene, item, where, choices=tuple(choices))))
    allowed = _items(data, "allowed", "the space") if "allowed" in data else [range(len(g.choices)) for g in genes]
    for place, open_ in enumerate(allowed):
        if not isinstance(open_, (list, tuple, range)) or not all(type(i) is int for i in open_):
            raise UserError(f"allowed has {open_!r:.80} for gene {place}, expected a list of indices")
    return Space(**_fields(Space, data, "the space", genes=tuple(genes), allowed=tuple(map(tuple, allowed))))


def _items(data: Any, name: str, where: str) -> Sequence:
    if not isinstance(data, dict) or not isinstance(data.get(name), (list, tuple)):  # in checkpoints they are tuples
        raise UserError(f"{where} has no list {name!r}")
    return data[name]


def _fields(cls: type, data: Any, where: str, **parsed: Any) -> dict[str, Any]:
    """Arguments of the data class ``cls``: the plain ones as ``data`` has them, each of its type, and ``parsed``."""
    if not isinstance(data, dict):
        raise UserError(f"{where} is {data!r:.80}, expected an object")
    types = {f.name: str(f.type) for f in dataclasses.fields(cls) if f.name not in ("operations", "make")}
    needed = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING} - set(parsed)
    if unknown := sorted(set(data) - set(types)):
        raise UserError(f"{where} has the unknown field {unknown[0]!r}, expected {', '.join(types)}")
    if missing := sorted(needed - set(data)):
        raise UserError(f"{where} lacks the field {missing[0]!r}")
    plain = {name: value for name, value in data.items() if name not in parsed}
    for name, value in plain.items():
        kinds, expected = TYPES[types[name]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise UserError(f"{where} has {name} {value!r:.80}, expected {expected}")
    return {**plain, **parsed}
