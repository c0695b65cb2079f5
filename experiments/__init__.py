"""The papers' claims on real images, one program each: ``python -m experiments.NAME``."""

import supernet  # noqa: F401  before torch: it sets how idle threads wait
