"""Energy and CO₂ of a training, by codecarbon, without any network access."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from supernet.errors import UserError


def require(country: str) -> None:
    """Refuse before any training what ``measure`` could not do."""
    try:
        import codecarbon  # noqa: F401
    except ImportError as error:
        raise UserError("measuring energy needs the extra carbon: pip install 'supernet[carbon]'") from error
    from codecarbon.input import DataSource

    # Of a country that it does not know it would take the world's average in silence.
    if country not in DataSource().get_global_energy_mix_data():
        raise UserError(f"country {country}: expected an ISO code of three letters, such as DEU or USA")


@contextmanager
def power() -> Iterator[dict]:
    """Measures what runs inside; afterwards the dict has ``watts`` of the machine, where codecarbon tells them."""
    told: dict[str, float] = {}
    if importlib.util.find_spec("codecarbon") is None:
        yield told
        return
    began = time.monotonic()
    with measure("USA") as spent:  # the country matters for CO₂ only
        yield told
    if "energy_kwh" in spent:
        told["watts"] = 3.6e6 * spent["energy_kwh"] / (time.monotonic() - began)


@contextmanager
def measure(country: str) -> Iterator[dict]:
    """Measures what runs inside; afterwards the dict has ``energy_kwh`` of the machine and ``co2_kg``.

    It stays empty where codecarbon fails: its logger ``codecarbon`` says why, and the training is not lost.
    """
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # log_level holds only once the tracker is there
    tracker = OfflineEmissionsTracker(
        country_iso_code=country, output_methods=[], log_level="error", allow_multiple_runs=True
    )
    spent: dict[str, float] = {}
    tracker.start()
    try:
        yield spent
    finally:
        emitted = tracker.stop()
        if emitted is not None:
            spent |= {"energy_kwh": tracker.final_emissions_data.energy_consumed, "co2_kg": emitted}
