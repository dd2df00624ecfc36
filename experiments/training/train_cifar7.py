"""Train CIFAR7 on CIFAR-100.

    python experiments/training/train_cifar7.py --root cifar --download --out cifar7.safetensors
    python experiments/training/train_cifar7.py --hub uoft-cs/cifar100 --out cifar7.safetensors

The first reads torchvision's CIFAR-100, the second that of the Hugging Face hub, or a folder of `save_to_disk`. The accuracy that it
reaches has not been measured, for want of CIFAR-100: expect the 60 % validation accuracy that Pandit, "Ablation-CAM: Visual Explanations
for Deep Convolutional Network via Gradient-free Localization - Paper Implementation" (2020), section 3.2, reports for "custom model (7
layered)", without training settings. The settings here are random crops and flips, SGD and one learning rate cycle; 60 epochs are
minutes on a GPU and hours on a CPU.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torchvision.datasets import CIFAR100

from evalkit.cli.script import run_script
from evalkit.data.huggingface import hugging_face
from evalkit.data.sources import ListedClass
from evalkit.errors import UserError
from evalkit.files import writable_folder
from evalkit.models.cifar_nets import CIFAR7

BATCH = 128


def as_tensors(images: np.ndarray, labels: list[int]) -> tuple[Tensor, Tensor]:
    """Return images (N,32,32,3) in bytes as (N,3,32,32), normalised as in the model config (mean = std = 0.5), and labels (N,)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).div(127.5).sub(1), torch.tensor(labels)


def from_torchvision(root: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Return a split of torchvision's CIFAR-100, which checks the sums of its files. Raises UserError where they are not in `root`."""
    try:
        source = CIFAR100(root, train=train, download=download)
    except RuntimeError as reason:
        raise UserError(f"no CIFAR-100 in {root}, or its files are damaged: fetch them with --download, or use --hub") from reason
    return as_tensors(source.data, source.targets)


def from_hub(path: str, split: str) -> tuple[Tensor, Tensor]:
    """Return a split of a data set as the hub has it, by its name or folder: pictures, and the column fine_label of whole numbers."""
    source = hugging_face(path, split=split, label_column="fine_label")
    images = np.stack([np.asarray(source.load(i).convert("RGB")) for i in range(len(source))])
    if images.shape[1:] != (32, 32, 3):
        raise UserError(f"{path} holds pictures of {images.shape[2]}x{images.shape[1]} pixels; CIFAR-100's have 32x32")
    labels = [key.index if isinstance(key, ListedClass) else int(key) for i in range(len(source)) for key in source.class_keys(i)]
    return as_tensors(images, labels)


def augmented(images: Tensor) -> Tensor:
    """Shift each image (N,3,32,32) by up to four pixels and flip it with probability 0.5."""
    n, _, height, width = images.shape
    padded = pad(images, (4, 4, 4, 4))
    rows = torch.randint(9, (n, 1)) + torch.arange(height)
    columns = torch.randint(9, (n, 1)) + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def step(net: nn.Module, images: Tensor, labels: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Make one update and return the loss before it."""
    optimiser.zero_grad()
    loss = cross_entropy(net(images), labels, label_smoothing=0.1)
    loss.backward()
    optimiser.step()
    return loss.item()


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, device: Any) -> float:
    """Return the top-1 accuracy in percent."""
    net.eval()
    right = [(net(part.to(device)).argmax(1).cpu() == truth) for part, truth in zip(images.split(1000), labels.split(1000), strict=True)]
    return torch.cat(right).double().mean().item() * 100


def main(
    out: Annotated[Path, typer.Option(help="The weights, as .safetensors.")],
    root: Annotated[Path | None, typer.Option(help="Folder of torchvision's CIFAR-100.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Download CIFAR-100 into it first.")] = False,
    hub: Annotated[str | None, typer.Option(help="Name on the Hugging Face hub, or folder of save_to_disk, instead of --root.")] = None,
    epochs: Annotated[int, typer.Option()] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train, print the accuracy on the test images after each epoch, save the last weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (root is None) == (hub is None):
        raise UserError("give --root (torchvision's files) or --hub (a data set of the Hugging Face hub)")
    writable_folder(out.parent, "--out")
    if root is not None:
        (images, labels), val = (from_torchvision(root, train, download) for train in (True, False))
    else:
        (images, labels), val = (from_hub(str(hub), split) for split in ("train", "test"))
    if len(images) < BATCH:
        raise UserError(f"{len(images)} training images are less than one batch of {BATCH}")
    torch.manual_seed(seed)
    net = CIFAR7().to(device)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=epochs * batches)
    for epoch in range(epochs):
        net.train()
        for chosen in torch.randperm(len(images))[: batches * BATCH].split(BATCH):
            step(net, augmented(images[chosen]).to(device), labels[chosen].to(device), optimiser)
            schedule.step()
        print(f"epoch {epoch + 1}: {accuracy(net, *val, device):.2f} % of {len(val[1])} test images", flush=True)
    save_file({name: tensor.cpu() for name, tensor in net.state_dict().items()}, out)


if __name__ == "__main__":
    run_script(main)
