"""Ways to train a supernet: each a Config and a run, readable beside its paper."""
