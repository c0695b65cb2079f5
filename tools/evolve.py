"""Search the trained supernet for the most accurate networks within bounds: CES, SPOS's evolution, or at random."""

from supernet.cli.evolve import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
