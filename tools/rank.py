"""How well a supernet ranks architectures: train some of them alone, and compare with their one-shot accuracies."""

from supernet.cli.rank import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
