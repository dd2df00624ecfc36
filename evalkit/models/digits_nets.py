"""The two embedded networks: the same convolutions with the two kinds of head that the paper compares.

Ablation-CAM (WACV 2020, section 6.1) finds that the method is better than Grad-CAM where fully connected layers follow
the target layer (VGG16, Table 1), and equal to it where global average pooling does (Inception-v3, Table 2). These
networks have the two heads on 64x64 images; `experiments/training/train_digits.py` trains them.
"""

from torch import Tensor, nn


def _features() -> nn.Sequential:
    """Build the layers (N,3,64,64) -> (N,64,16,16), after ReLU; the last module is the target layer."""
    layers: list[nn.Module] = []
    channels = 3
    for width, pool in ((16, True), (32, True), (64, False), (64, False)):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        if pool:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers)


class DigitsFC(nn.Module):
    """A network with a VGG-like head: max pooling, then two hidden fully connected ReLU layers. Target layer `features.13`."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = _features()
        self.pool = nn.MaxPool2d(4)
        self.classifier = nn.Sequential(
            nn.Linear(64 * 4 * 4, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(256, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,64,64) to logits (N,num_classes)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


class DigitsGAP(nn.Module):
    """A network with a ResNet-like head: global average pooling and one linear layer. Target layer `features.13`."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = _features()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,64,64) to logits (N,num_classes)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))
