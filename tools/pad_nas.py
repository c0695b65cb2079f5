"""PAD-NAS: train a supernet, search it, prune the operations that good networks do without, fine-tune, and again."""

from supernet.cli.pad_nas import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
