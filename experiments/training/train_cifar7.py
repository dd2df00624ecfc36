"""Train CIFAR7 on CIFAR-100.

    python experiments/training/train_cifar7.py --root cifar --download --out cifar7.safetensors

The accuracy that it reaches has not been measured yet. The paper that the network follows reports 60 % validation accuracy
and no training settings; the settings here are random crops and flips, SGD and one learning rate cycle.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torchvision.datasets import CIFAR100

from evalkit.cli.script import run_script
from evalkit.models.cifar_nets import CIFAR7

BATCH = 128


def as_tensors(source: CIFAR100) -> tuple[Tensor, Tensor]:
    """Return all images of a source, normalised as in the model config (mean = std = 0.5), and their labels."""
    return torch.from_numpy(source.data).permute(0, 3, 1, 2).div(127.5).sub(1), torch.tensor(source.targets)


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
    root: Annotated[Path, typer.Option(help="Folder of CIFAR-100.")],
    out: Annotated[Path, typer.Option(help="The weights, as .safetensors.")],
    download: Annotated[bool, typer.Option("--download", help="Download CIFAR-100 into it first.")] = False,
    epochs: Annotated[int, typer.Option()] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train, print the accuracy on the test images after each epoch, save the last weights."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = as_tensors(CIFAR100(root, train=True, download=download))
    val = as_tensors(CIFAR100(root, train=False, download=download))
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
