"""What a run has found, on one page. Joins supernet, search and latency."""
