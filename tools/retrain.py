"""Train architectures of the front alone, beside random ones of the same window, and test each of them once."""

from supernet.cli.retrain import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
