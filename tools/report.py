"""One page about a run, to look at in a browser: the network, its test, the search, the device, the supernet."""

from supernet.cli.report import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
