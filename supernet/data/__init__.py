"""Image sets: where they come from, how they are split and served. No torch here."""

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100", "kmnist", "emnist", "folder")
