"""The searches by name. No torch."""

from __future__ import annotations

from search.ask_tell import Search
from search.ces import CES
from search.evolution import RandomSearch, SPOSEvolution
from search.guided import GuidedSearch

ALGORITHMS: dict[str, type[Search]] = {
    "ces": CES,
    "guided": GuidedSearch,
    "spos": SPOSEvolution,
    "random": RandomSearch,
}
