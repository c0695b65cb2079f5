"""The benchmarks that ``tools/bench.py`` runs."""
