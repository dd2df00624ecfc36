"""Train the embedded networks from several seeds (about 15 minutes for all ten on two CPU cores).

    python experiments/training/train_digits.py --out digits

writes `<net>_seed<k>.safetensors` for each net and seed and `training.csv` with their accuracies. The package
ships seed 0; `digits_seeds.py` evaluates all of them: no seed is chosen by its result.

The net with the fully connected head starts from the convolutions of the pooled one and is then trained as a whole:
from scratch, this number of images is too small for such a head to find digits anywhere on the canvas (10 % accuracy).
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evalkit.cli.script import run_script
from evalkit.data.digits import Digits, TwoDigits
from evalkit.models.digits_nets import DigitsFC, DigitsGAP

BATCH = 64


def normalised(source: Digits | TwoDigits) -> Tensor:
    """Return all images (N,3,64,64) of a source, normalised as in the model configs (mean = std = 0.5)."""
    images = np.stack([np.asarray(source.load(i)) for i in range(len(source))])
    return torch.from_numpy(images).permute(0, 3, 1, 2).div(127.5).sub(1)


def as_tensors(source: Digits) -> tuple[Tensor, Tensor]:
    """Return all images of a source, normalised, and their labels."""
    return normalised(source), torch.tensor([int(source.class_keys(i)[0]) for i in range(len(source))])


def train(
    net: nn.Module, images: Tensor, labels: Tensor, epochs: int, lr: float, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
) -> None:
    """Train with AdamW and one learning rate cycle; leave the net in eval mode. `loss` takes logits and labels."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            optimiser.zero_grad()
            loss(net(images[chosen]), labels[chosen]).backward()
            optimiser.step()
            schedule.step()
    net.eval()


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent."""
    return (net(images).argmax(1) == labels).double().mean().item() * 100


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and training.csv.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1.")] = 5,
    count: Annotated[int, typer.Option(help="Training canvases composed per seed.")] = 8000,
) -> None:
    """Train both nets from every seed."""
    out.mkdir(parents=True, exist_ok=True)
    val = as_tensors(Digits("val"))
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["net", "seed", "train_canvases", "val_images", "val_accuracy_percent"])
        for seed in range(seeds):
            images, labels = as_tensors(Digits("train", seed=seed, count=count))
            torch.manual_seed(seed)
            gap, fc = DigitsGAP(), DigitsFC()
            train(gap, images, labels, epochs=8, lr=3e-3)
            fc.features.load_state_dict(gap.features.state_dict())
            train(fc, images, labels, epochs=6, lr=1e-3)
            for name, net in (("digits_gap", gap), ("digits_fc", fc)):
                save_file(net.state_dict(), out / f"{name}_seed{seed}.safetensors")
                percent = accuracy(net, *val)
                writer.writerow([name, seed, count, len(val[1]), f"{percent:.2f}"])
                file.flush()
                print(f"{name} seed {seed}: {percent:.2f} % of {len(val[1])} val images", flush=True)


if __name__ == "__main__":
    run_script(main)
