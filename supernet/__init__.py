"""Supernets: spaces, blocks, the shared network and the ways to train it.

Nothing is imported here, so that the torch-free modules (``supernet.space``) stay torch-free.
"""

import os

# Threads that wait by spinning starve each other once anything else runs: a step on two of two busy cores took over
# ten times as long. Read when OpenMP is loaded, so set before torch is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
