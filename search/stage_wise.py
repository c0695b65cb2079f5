"""Stage-Wise NAS, Algorithm 1: a stage grows where growing makes it more important. No torch.

Jordao et al., "Stage-Wise Neural Architecture Search", §III.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from supernet.errors import UserError

SCHEMA = 1
Modules = tuple[int, ...]  # m_i, for each stage


@dataclass(frozen=True)
class Config:
    """Settings; the defaults are the paper's for residual modules (for cells its δ is 1)."""

    stages: int = 3  # S
    initial: int = 6  # m_0
    step: int = 2  # δ
    iterations: int = 5  # n
    margin: float = 0.0  # a stage grows if α_T,i − α_A,i exceeds it; 0 in the paper
    deepest: int | None = None  # the most modules that a stage may get

    def __post_init__(self) -> None:
        for name, least in (("stages", 1), ("initial", 1), ("step", 1), ("iterations", 1), ("margin", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"Stage-Wise NAS: {name} is {getattr(self, name)}; expected at least {least}")

    @property
    def reach(self) -> int:
        """The most modules that a stage can get in the search."""
        reach = self.initial + self.step * self.iterations
        return reach if self.deepest is None else min(reach, self.deepest)


@dataclass(frozen=True)
class Proposal:
    """A network to train: its role, ``A`` (initial), ``T`` (temporary) or ``Â`` (candidate), and its depths."""

    role: str
    iteration: int
    modules: Modules

    @property
    def name(self) -> str:
        """Unique within a search, for folders and tables: ``1-temporary-8-8-8``."""
        role = {"A": "initial", "T": "temporary", "Â": "candidate"}[self.role]
        return f"{self.iteration}-{role}-{'-'.join(map(str, self.modules))}"


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
        initial = (config.initial,) * config.stages
        if config.deepest is not None and config.deepest < config.initial + config.step:
            raise UserError(
                f"at most {config.deepest} modules in a stage exclude every candidate: {config.initial} and a step of "
                f"{config.step} make {config.initial + config.step}; raise the bound or begin with fewer modules"
            )
        for name, bound in self.bounds.items():
            grown = (self.costs[name](self._grown(initial, {i})) for i in range(config.stages))
            if (least := min(grown)) > bound:
                raise UserError(
                    f"a bound of {bound:g} on {name} excludes every candidate: the initial network has "
                    f"{self.costs[name](initial):g}, with one stage grown {least:g}; raise it or begin with fewer "
                    "modules"
                )
        self._steps = self._search()
        self._asked: Proposal | None = next(self._steps)

    def _search(self) -> Generator[Proposal, Sequence[float], None]:
        """Algorithm 1; ``yield`` trains a network and gives α."""
        config = self.config
        m: Modules = (config.initial,) * config.stages
        alpha_a = yield Proposal("A", 0, m)  # line 1
        for k in range(1, config.iterations + 1):  # 2
            t = self._grown(m, range(config.stages))  # 3
            grown = m if t == m else self._grow(m, alpha_a, (yield Proposal("T", k, t)))  # 4 to 9
            if grown == m:
                self.converged = True
                return
            m = grown
            alpha_a = yield Proposal("Â", k, m)  # 10 to 12

    def _grow(self, m: Modules, alpha_a: Sequence[float], alpha_t: Sequence[float]) -> Modules:
        """m_i ← m_i + δ if α_T,i > α_A,i, within the bounds."""
        gains = {i: t - a for i, (a, t) in enumerate(zip(alpha_a, alpha_t, strict=True))}
        for i in sorted(gains, key=lambda i: -gains[i]):
            grown = self._grown(m, {i})
            if gains[i] > self.config.margin and self.within(grown):
                m = grown
        return m

    def _grown(self, m: Modules, stages: Collection[int]) -> Modules:
        """δ more modules in each of ``stages`` that may have them."""
        deepest = math.inf if self.config.deepest is None else self.config.deepest
        step = self.config.step
        return tuple(m_i + step if i in stages and m_i + step <= deepest else m_i for i, m_i in enumerate(m))

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
        return asked, Proposal("T", k, t)

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
        return [record for record in self.records if record.network.role == "Â"]

    def state(self) -> dict:
        """Plain JSON; ``replay`` is its inverse."""
        return {"schema": SCHEMA, "config": asdict(self.config), "records": [asdict(record) for record in self.records]}

    def replay(self, state: Mapping, source: str) -> None:
        """Tell everything in ``state``; a UserError names ``source`` if that belongs to another search."""
        try:
            if (state["schema"], state["config"]) != (SCHEMA, asdict(self.config)):
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

    found = [record for record in records if record.network.role != "T"]
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
