"""Supernets: spaces, blocks, the shared network and the ways to train it.

Nothing is imported here, so that the torch-free modules (``supernet.space``) stay torch-free.
"""
