"""Latency lookup tables: timing, runtimes, the table and its check against whole networks."""
