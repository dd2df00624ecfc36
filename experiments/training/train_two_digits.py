"""Train the embedded network for several labels, the digits on a canvas of two (about 2 minutes on a free CPU core).

    OMP_NUM_THREADS=1 python experiments/training/train_two_digits.py --out two_digits

writes `two_digits_seed<k>.safetensors` and `training.csv` with three accuracies on the evaluation split, whose handwritten
originals are not used in training. The package ships seed 0. Every output has its own sigmoid and binary cross-entropy. The
convolutions start from those of the shipped digits_gap, which was trained on single digits of the same training originals
(train_digits.py says why a fully connected head needs trained convolutions): first only the head is trained, on outputs of
the convolutions that are computed once, then all layers together.
"""

import csv
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from train_digits import normalised, train

from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import CLASSES, TwoDigits
from evalkit.models import zoo
from evalkit.models.digits_nets import DigitsFC


def as_tensors(source: TwoDigits) -> tuple[Tensor, Tensor]:
    """Return all images of a source, normalised, and which digits they show (N,10)."""
    labels = torch.tensor([[float(name in source.class_keys(i)) for name in CLASSES] for i in range(len(source))])
    return normalised(source), labels


@torch.no_grad()
def pooled(net: DigitsFC, images: Tensor) -> Tensor:
    """Return the input of the head (N,1024) for images, with the present convolutions."""
    net.eval()
    return torch.cat([net.pool(net.features(part)).flatten(1) for part in images.split(100)])


@torch.inference_mode()
def accuracies(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return three accuracies in percent; a digit is predicted where its sigmoid exceeds 0.5.

    `per_label`: right answers among all labels of all images; a network that predicts no digit has 80. `exact_match`: images
    with all ten answers right (Tsoumakas and Katakis 2007, "Multi-label classification: an overview", section 4). `top1`:
    images whose highest output is one of their digits.
    """
    logits = torch.cat([net(part) for part in images.split(100)])
    right = (logits > 0) == (labels > 0)
    best = labels.gather(1, logits.argmax(1, keepdim=True))
    hits = {"per_label": right, "exact_match": right.all(1), "top1": best}
    return {name: values.double().mean().item() * 100 for name, values in hits.items()}


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and training.csv.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1.")] = 1,
    count: Annotated[int, typer.Option(help="Training canvases composed per seed.")] = 8000,
) -> None:
    """Train one network for each seed."""
    out.mkdir(parents=True, exist_ok=True)
    val = as_tensors(TwoDigits("val"))
    start = zoo.build(compose_jobs(["model=digits_gap"])[0].config.model)[0].state_dict()
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["net", "seed", "train_canvases", "val_images", "per_label_percent", "exact_match_percent", "top1_percent"])
        for seed in range(seeds):
            images, labels = as_tensors(TwoDigits("train", seed=seed, count=count))
            torch.manual_seed(seed)
            net = DigitsFC()
            net.features.load_state_dict({name.removeprefix("features."): w for name, w in start.items() if name.startswith("features.")})
            train(net.classifier, pooled(net, images), labels, epochs=30, lr=1e-3, loss=binary_cross_entropy_with_logits)
            print(f"head: {accuracies(net, *val)}", flush=True)
            train(net, images, labels, epochs=2, lr=5e-4, loss=binary_cross_entropy_with_logits)
            save_file(net.state_dict(), out / f"two_digits_seed{seed}.safetensors")
            reached = {name: f"{percent:.2f}" for name, percent in accuracies(net, *val).items()}
            writer.writerow(["two_digits", seed, count, len(val[1]), *reached.values()])
            file.flush()
            print(f"seed {seed}: {reached} % of {len(val[1])} val images", flush=True)


if __name__ == "__main__":
    run_script(main)
