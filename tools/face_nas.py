"""Efficient Global NAS for face verification: depth and width of an IR-ResNet by 1:1 accuracy, then its training."""

from supernet.cli.face_nas import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
