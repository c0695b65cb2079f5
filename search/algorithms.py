"""The searches by name, each with its configuration. No torch."""

from __future__ import annotations

from search.ask_tell import Budget, Search
from search.ces import CES, CESConfig
from search.evolution import RandomConfig, RandomSearch, SPOSConfig, SPOSEvolution
from search.guided import GuidedConfig, GuidedSearch

ALGORITHMS: dict[str, tuple[type[Search], type[Budget]]] = {
    "ces": (CES, CESConfig),
    "guided": (GuidedSearch, GuidedConfig),
    "spos": (SPOSEvolution, SPOSConfig),
    "random": (RandomSearch, RandomConfig),
}
