"""Measure the latency of every candidate layer, here or on another device, and check the sums on whole networks."""

from supernet.cli.build_lut import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
