"""The papers' claims on real images, one program each: ``python -m experiments.NAME``."""
