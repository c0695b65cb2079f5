"""Stage-Wise NAS, Algorithm 1: a stage grows where growing makes it more important. No torch.

Jordao et al., "Stage-Wise Neural Architecture Search", §III.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from search import sequential
from supernet.errors import UserError
from supernet.files import plain
from supernet.quantities import digits

SCHEMA = 1
ROLES = {"A": "initial", "T": "temporary", "Â": "candidate"}
Modules = tuple[int, ...]  # m_i, for each stage


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are the paper's for residual modules (for cells its δ is 1)."""

    stages: int = 3  # S
    initial: int = 6  # m_0; a stage whose bound is lower begins at its bound
    step: int = 2  # δ
    iterations: int = 5  # n
    margin: float = 0.0  # a stage grows if α_T,i − α_A,i exceeds it; 0 in the paper
    deepest: int | Modules | None = None  # the most modules that a stage may get: of all, or of each
    pairs: int = 1  # the most pairs of A and T, each of a seed, that an iteration is decided by; 1 in the paper
    level: float = 0.2  # where there are more: the share of wrong decisions on a stage, at most

    def __post_init__(self) -> None:
        least_of = (("stages", 1), ("initial", 1), ("step", 1), ("iterations", 1), ("margin", 0), ("pairs", 1))
        for name, least in least_of:
            if not getattr(self, name) >= least:
                raise UserError(f"Stage-Wise NAS: {name} is {getattr(self, name)}; expected at least {least}")
        if not 0 < self.level < 1:
            raise UserError(f"Stage-Wise NAS: level is {self.level:g}; expected a number between 0 and 1")
        if not isinstance(self.deepest, int | None) and len(self.deepest) != self.stages:
            given = "-".join(map(str, self.deepest))
            raise UserError(f"Stage-Wise NAS: bounds on depth {given}, but there are {self.stages} stages")
        if min(self.bounds, default=1) < 1:
            raise UserError(f"Stage-Wise NAS: at most {told(self.bounds)} modules; expected at least 1 in each stage")

    @property
    def bounds(self) -> tuple[float, ...]:
        """The most modules of each stage."""
        if self.deepest is None:
            return (math.inf,) * self.stages
        return (self.deepest,) * self.stages if isinstance(self.deepest, int) else tuple(self.deepest)

    @property
    def first(self) -> Modules:
        """The depths of the initial network."""
        return tuple(int(min(self.initial, bound)) for bound in self.bounds)

    @property
    def reach(self) -> Modules:
        """The most modules that each stage can get in the search."""
        most = self.initial + self.step * self.iterations
        return tuple(int(min(most, bound)) for bound in self.bounds)


def told(modules: Sequence[float]) -> str:
    """Depths as people read them: ``3-8-36-3``; one number where all are the same."""
    return "-".join(f"{count:g}" for count in (modules if len(set(modules)) > 1 else modules[:1]))


@dataclass(frozen=True)
class Proposal:
    """A network to train: its role, ``A`` (initial), ``T`` (temporary) or ``Â`` (candidate), and its depths.

    ``seed`` is 0 for the search's own networks; the others are trained again for another pair.
    """

    role: str
    iteration: int
    modules: Modules
    seed: int = 0

    @property
    def name(self) -> str:
        """Unique within a search, for folders and tables: ``1-temporary-8-8-8``."""
        again = f"-seed-{self.seed}" if self.seed else ""
        return f"{self.iteration}-{ROLES[self.role]}-{'-'.join(map(str, self.modules))}{again}"


@dataclass(frozen=True)
class Record:
    """A trained network with the importance of its stages."""

    network: Proposal
    importance: tuple[float, ...]  # α_i


class StageWise:
    """Algorithm 1 as ask and tell; it never sees how a network is trained or how importance is measured.

    It trains at most 2n + 1 networks and ends after an iteration in which no stage grows, since all later ones would
    be the same. A stage that would exceed ``deepest`` does not grow. Bounds hold for the candidates: of the stages that
    should grow, those whose importance rises most go first, and one that would break a bound does not grow.

    With ``pairs`` over 1 it knows its noise: A and T are trained again, both with the next seed, until a sequential
    test (``sequential.exceeds``) has told of each stage whether its mean gain exceeds the margin. After the last pair a
    stage of which it has not does not grow. One iteration then trains up to 2 · ``pairs`` networks and its candidate.

    Args:
        costs: functions of the depths of all stages, by name.
        bounds: the largest allowed value of costs, by name.

    Raises:
        UserError: the bounds exclude every candidate.

    >>> search = StageWise(Config(initial=2, step=1, iterations=2))
    >>> alpha = {"A": (0.90, 0.90, 0.90), "T": (0.89, 0.95, 0.91), "Â": (0.90, 0.96, 0.90)}
    >>> while (network := search.ask()) is not None:
    ...     print(network.role, *network.modules)
    ...     search.tell(network, alpha[network.role])
    A 2 2 2
    T 3 3 3
    Â 2 3 3
    T 3 4 4
    Â 2 3 4
    """

    def __init__(
        self,
        config: Config,
        costs: Mapping[str, Callable[[Modules], float]] | None = None,
        bounds: Mapping[str, float] | None = None,
    ):
        self.config = config
        self.bounds = {name: float(bound) for name, bound in (bounds or {}).items() if math.isfinite(bound)}
        self.costs = {name: (costs or {})[name] for name in self.bounds}
        self.records: list[Record] = []
        self.converged = False
        initial = config.first
        if self._grown(initial, range(config.stages)) == initial:
            raise UserError(
                f"at most {told(config.bounds)} modules in a stage exclude every candidate: {told(initial)} and a "
                f"step of {config.step} make {told([m + config.step for m in initial])}; raise the bound or begin "
                "with fewer modules"
            )
        for name, bound in self.bounds.items():
            grown = (self.costs[name](self._grown(initial, {i})) for i in range(config.stages))
            if (least := min(grown)) > bound:
                raise UserError(
                    f"a bound of {digits(bound, 6)} on {name} excludes every candidate: the initial network has "
                    f"{digits(self.costs[name](initial), 6)}, with one stage grown {digits(least, 6)}; "
                    "raise it or begin with fewer modules"
                )
        self._steps = self._search()
        self._asked: Proposal | None = next(self._steps)

    def _search(self) -> Generator[Proposal, Sequence[float], None]:
        """Algorithm 1; ``yield`` trains a network and gives α."""
        config = self.config
        m = config.first
        base = Proposal("A", 0, m)
        alpha_a = yield base  # line 1
        for k in range(1, config.iterations + 1):  # 2
            t = self._grown(m, range(config.stages))  # 3
            grown = m if t == m else (yield from self._decide(base, alpha_a, t))  # 4 to 9
            if grown == m:
                self.converged = True
                return
            m, base = grown, Proposal("Â", k, grown)
            alpha_a = yield base  # 10 to 12

    def _decide(
        self, base: Proposal, alpha_a: Sequence[float], t: Modules
    ) -> Generator[Proposal, Sequence[float], Modules]:
        """m_i ← m_i + δ if α_T,i > α_A,i, within the bounds; by as many pairs as that takes."""
        config, m, pairs = self.config, base.modules, []
        for seed in range(config.pairs):
            if seed:
                alpha_a = yield replace(base, seed=seed)
            alpha_t = yield Proposal("T", base.iteration + 1, t, seed)
            pairs.append([after - before for before, after in zip(alpha_a, alpha_t, strict=True)])
            wishes = [False if t[i] == m[i] else self._wish(gains) for i, gains in enumerate(zip(*pairs, strict=True))]
            if None not in wishes:
                break
        gains = np.mean(pairs, axis=0)
        for i in sorted(range(config.stages), key=lambda i: -gains[i]):
            if wishes[i] and self.within(grown := self._grown(m, {i})):
                m = grown
        return m

    def _wish(self, gains: Sequence[float]) -> bool | None:
        """Whether a stage should grow by its gains, one of each pair; None: that takes more pairs."""
        config = self.config
        if config.pairs == 1:
            return gains[0] > config.margin
        return sequential.exceeds(gains, config.margin, config.level, config.pairs)

    def _grown(self, m: Modules, stages: Collection[int]) -> Modules:
        """δ more modules in each of ``stages`` that may have them."""
        step, bounds = self.config.step, self.config.bounds
        return tuple(m_i + step if i in stages and m_i + step <= bounds[i] else m_i for i, m_i in enumerate(m))

    def within(self, m: Modules) -> bool:
        """Whether a network of these depths keeps every bound."""
        return all(self.costs[name](m) <= bound for name, bound in self.bounds.items())

    def ask(self) -> Proposal | None:
        """The network to train next, the same until it is told; None at the end."""
        return self._asked

    def ahead(self) -> tuple[Proposal, ...]:
        """The asked network and what is asked for after it whatever its importance: they can be trained side by side.

        The temporary network of an iteration follows from the depths of the one before, not from its importance.
        """
        asked = self._asked
        if asked is None:
            return ()
        k, t = asked.iteration + 1, self._grown(asked.modules, range(self.config.stages))
        if asked.role == "T" or k > self.config.iterations or t == asked.modules:
            return (asked,)
        return asked, Proposal("T", k, t, asked.seed)

    def tell(self, network: Proposal, importance: Sequence[float]) -> None:
        """Take the importance scores of the asked network's stages.

        Raises:
            ValueError: another network than asked for, or scores that do not match its stages or are not finite.
        """
        if network != self._asked:
            raise ValueError(f"expected the importance of {self._asked}, got that of {network}")
        if len(importance) != self.config.stages or not all(map(math.isfinite, importance)):
            raise ValueError(f"expected {self.config.stages} finite scores, got {list(importance)}")
        self.records.append(Record(network, tuple(map(float, importance))))
        try:
            self._asked = self._steps.send(self.records[-1].importance)
        except StopIteration:
            self._asked = None

    @property
    def candidates(self) -> list[Record]:
        """ℂ: the candidates of the iterations so far, in order."""
        return [record for record in self.records if record.network.role == "Â" and not record.network.seed]

    def state(self) -> dict:
        """Plain JSON; ``replay`` is its inverse."""
        return {"schema": SCHEMA, "config": asdict(self.config), "records": [asdict(record) for record in self.records]}

    def replay(self, state: Mapping, source: str) -> None:
        """Tell everything in ``state``; a UserError names ``source`` if that belongs to another search."""
        try:
            config = {**asdict(Config()), **state["config"]}  # of versions that had fewer settings
            if (state["schema"], plain(config)) != (SCHEMA, plain(asdict(self.config))):
                raise ValueError("other settings")
            for line in state["records"]:
                network = Proposal(**{**line["network"], "modules": tuple(line["network"]["modules"])})
                self.tell(network, line["importance"])
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{source} is of another search ({error})", missing="another run") from error


def plot(path: Path, records: Sequence[Record], title: str) -> None:
    """Plot the depths of every stage by iteration: the initial network and the candidates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = [record for record in records if record.network.role != "T" and not record.network.seed]
    stages, width = len(found[0].network.modules), 0.8 / len(found)
    figure = Figure(figsize=(6, 3.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, record in enumerate(found):
        at = [i + (k - (len(found) - 1) / 2) * width for i in range(stages)]
        label = f"iteration {record.network.iteration}" if k else "initial"
        shade = str(0.85 - 0.6 * k / max(len(found) - 1, 1))
        axes.bar(at, record.network.modules, 0.9 * width, color=shade if k else "tab:orange", label=label)
    axes.set_xticks(range(stages), [f"stage {i + 1}" for i in range(stages)])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(ylabel="modules", title=title)
    axes.grid(axis="y", alpha=0.2)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path)
