"""Train the embedded network for several labels: which digits stand on a canvas of two? (about 8 minutes on one CPU core)

    OMP_NUM_THREADS=1 python experiments/train_two_digits.py --out two_digits

writes `two_digits_seed<k>.safetensors` and `training.csv` with three accuracies on the evaluation split, whose handwritten
originals training never saw. Seed 0 is what the package ships. The outputs are trained one by one, each with a sigmoid and
binary cross-entropy; as in train_digits.py the fully connected head stands on convolutions that a pooled one has trained.
"""

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from train_digits import train

from evalkit.data.digits import CLASSES, TwoDigits
from evalkit.models.digits_nets import DigitsFC, DigitsGAP


def as_tensors(source: TwoDigits) -> tuple[Tensor, Tensor]:
    """All images of a source, normalised as the model config says (mean = std = 0.5), and which digits they show (N,10)."""
    images = np.stack([np.asarray(source.load(i)) for i in range(len(source))])
    labels = torch.tensor([[float(name in source.class_keys(i)) for name in CLASSES] for i in range(len(source))])
    return torch.from_numpy(images).permute(0, 3, 1, 2).div(127.5).sub(1), labels


@torch.inference_mode()
def accuracies(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent, with a digit called present where its sigmoid exceeds 0.5.

    `per_label` of single answers, of which 80 are right for who always says absent; `exact_match` of images with all ten
    answers right (Tsoumakas and Katakis 2007, "Multi-label classification: an overview", section 4); `top1` of images
    whose best output is one of their digits.
    """
    logits = torch.cat([net(part) for part in images.split(100)])
    right = (logits > 0) == (labels > 0)
    best = labels.gather(1, logits.argmax(1, keepdim=True))
    found = {"per_label": right, "exact_match": right.all(1), "top1": best}
    return {name: values.double().mean().item() * 100 for name, values in found.items()}


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and training.csv.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1.")] = 1,
    count: Annotated[int, typer.Option(help="Training canvases composed per seed.")] = 16000,
) -> None:
    """Train one network for each seed."""
    out.mkdir(parents=True, exist_ok=True)
    val = as_tensors(TwoDigits("val"))
    with (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["net", "seed", "train_canvases", "val_images", "per_label_percent", "exact_match_percent", "top1_percent"])
        for seed in range(seeds):
            images, labels = as_tensors(TwoDigits("train", seed=seed, count=count))
            torch.manual_seed(seed)
            gap, fc = DigitsGAP(), DigitsFC()
            train(gap, images, labels, epochs=8, lr=3e-3, loss=binary_cross_entropy_with_logits)
            fc.features.load_state_dict(gap.features.state_dict())
            train(fc, images, labels, epochs=8, lr=1e-3, loss=binary_cross_entropy_with_logits)
            save_file(fc.state_dict(), out / f"two_digits_seed{seed}.safetensors")
            found = {name: f"{percent:.2f}" for name, percent in accuracies(fc, *val).items()}
            writer.writerow(["two_digits", seed, count, len(val[1]), *found.values()])
            file.flush()
            print(f"seed {seed}: {found} % of {len(val[1])} val images; pooled head {accuracies(gap, *val)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
