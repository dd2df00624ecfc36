"""Shared by all tests: small networks, small images, and the optional folder of real ones."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evalkit import SplitModel

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("EVALKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
HALF = (0.5, 0.5, 0.5)

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="real images and weights are absent: set EVALKIT_TEST_DATA to their folder")


class TinyGAP(nn.Module):
    """Convolution, BatchNorm, ReLU; global average pooling; one linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class TinyFC(nn.Module):
    """The same convolutions under two fully connected layers, for 16x16 images."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 8, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class NaNNet(TinyGAP):
    """Puts out NaN for an all-black image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.where(x.mean((1, 2, 3), keepdim=False) < -0.999, torch.nan, 1.0)[:, None]


class Untraceable(TinyGAP):
    """Branches on its data, which symbolic tracing cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if float(x.sum()) > 1e9 else x)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(int.from_bytes(os.urandom(2)))  # fresh inputs on every run


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Worker processes find the networks of these tests, and compute as one thread does."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_gap() -> SplitModel:
    return SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF)


@pytest.fixture
def tiny_fc() -> SplitModel:
    return SplitModel(TinyFC().eval(), "features", mean=HALF, std=HALF)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve 20x16 pictures in the class folders a, b and c."""
    rng = np.random.default_rng(0)
    for name in "abc":
        for i in range(4):
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def tiny_overrides(folder: Path, out: Path, factory: str = "conftest.TinyFC") -> list[str]:
    """A whole run of a tiny random network on the pictures of `folder`."""
    classes = out.parent / "classes.txt"
    classes.write_text("a\nb\nc\nd\ne\n")
    return [
        "model=custom", f"model.factory={factory}", "model.layer=features", "model.resize=[16,16]", f"model.classes={classes}",
        "data=image_folder", f"data.root={folder}", f"out={out}", "workers=0", "batch_size=5", "shard_size=4",
        "method=[ablation_cam,grad_cam,random,constant,centre]", "protocol.top_percent=[20,50]",
    ]  # fmt: skip
