"""Image sets: where they come from, how they are split and served. No torch here."""

# The sets by name: functions of a folder and of whether the training part is asked for, which give a ``sources.Raw``.
READERS = {
    "digits": "supernet.data.sources:digits",
    "fashion-mnist": "supernet.data.sources:fashion_mnist",
    "cifar10": "supernet.data.sources:cifar10",
    "cifar100": "supernet.data.sources:cifar100",
    "kmnist": "supernet.data.sources:kmnist",
    "emnist": "supernet.data.sources:emnist",
}
NAMES = (*READERS, "folder")
HUB = "hf:"  # before the name or folder of a data set of Hugging Face
