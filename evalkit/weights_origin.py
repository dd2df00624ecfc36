"""What is said of where a network's weights come from, as `models.weights` words it."""


def are_random(weights: str) -> bool:
    """Return whether weights of this origin are random, all or in part; a file may be called `random.pth`."""
    return weights.startswith(("random (", "random in part ("))
