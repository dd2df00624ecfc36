"""A tiny network with random weights: three strided convolutions, so that everything around the network carries the load of a run."""

from torch import nn

CLASSES = 10


def strided(classes: int = CLASSES) -> nn.Sequential:
    """Return a network whose layer "0" has 48 maps of a sixteenth of the image's height and width, then their means and a linear layer.

    The variance of the weights is such that scores differ between photographs, and between parts of one.
    """
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 2, 2), nn.ReLU(), nn.Conv2d(32, 48, 2, 2), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes),
    )  # fmt: skip
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return network
