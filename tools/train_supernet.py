"""Train a weight-sharing supernet on your images. --method M --help lists the options of method M."""

from supernet.cli.train_supernet import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
