"""A small network for CIFAR-100, after Pandit's implementation of Ablation-CAM (2020)."""

from torch import Tensor, nn


class CIFAR7(nn.Module):
    """Five convolutions and two fully connected layers: "custom model (7 layered) trained on CIFAR-100" (section 2).

    The paper says only this, that maps are taken at the last convolutional layer, and that it reached 60 % validation
    accuracy. The seven layers are chosen here: 3x3 convolutions of 64 to 256 channels, each with BatchNorm and ReLU,
    and a fully connected head. Section 5 says that the two CAMs agree on Xception because it has no such head, so this
    network, on which they differ, presumably had one. Target layer `features.16`, 8x8.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, pool in ((64, False), (64, True), (128, False), (128, True), (256, False)):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if pool:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 4 * 4, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N,3,32,32) to logits (N,num_classes)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))
