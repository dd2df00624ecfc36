"""Train the network of the planted triggers from several seeds, and check that it depends on the trigger alone.

    OMP_NUM_THREADS=1 python experiments/training/train_planted.py --out planted --processes 2

writes `planted_seed<k>.safetensors` and `training.csv` (less than a minute for each seed on one CPU core). The package ships
seed 0. A quarter of the training canvases has no trigger; their target is the uniform distribution, so that the network has
no preference where the trigger is missing. The number of processes changes no number. The columns of `training.csv`, in percent of the
evaluation canvases, whose handwritten originals are not used in training:

- `top1`: the trigger is recognised;
- `unchanged`: the prediction stays when everything but the trigger is replaced: the trigger is pasted at another place on the
  canvas of another digit, with its strokes and background;
- `removed_top1`: the prediction is the trigger's kind although the trigger is removed (chance: 12.5);
- `confidence`, `replaced_confidence`, `removed_confidence`: the mean confidence of the trigger's kind on the canvas, with all else
  replaced, and with the trigger removed.
"""

import csv
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import one_hot
from train_digits import normalised, train

from evalkit.cli.script import run_script
from evalkit.data.digits import SIZE
from evalkit.data.planted import KINDS, SIDE, Planted, plant
from evalkit.models.digits_nets import DigitsGAP

BARE = 4
"""Every so many training canvases one has no trigger."""
CANVASES, EPOCHS = 3000, 6


class Replaced(Planted):
    """The triggers of `Planted`, each at another place on the canvas of another original of another digit."""

    def load(self, position: int) -> Image.Image:
        """Return the other canvas with the trigger of this one."""
        rng = np.random.default_rng([self.seed, self.split == "val", position, 3])
        kind, corner = self.trigger(position)
        others = np.flatnonzero(self.targets[self.members[:, 0]] != self.targets[self.members[position, 0]])
        place = corner
        while place == corner:
            place = (int(rng.integers(0, SIZE - SIDE + 1)), int(rng.integers(0, SIZE - SIDE + 1)))
        return plant(self.without_trigger(int(rng.choice(others))), kind, place, rng)


class Removed(Planted):
    """The canvases of `Planted` without their triggers."""

    def load(self, position: int) -> Image.Image:
        """Return the canvas without its trigger."""
        return self.without_trigger(position)


def targets(source: Planted) -> Tensor:
    """Return the kinds of all canvases (N,)."""
    return torch.tensor([source.trigger(i)[0] for i in range(len(source))])


def training_set(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return training canvases, normalised (N,3,64,64), and their target distributions (N,8)."""
    images, kinds = normalised(Planted("train", seed=seed, count=count)), targets(Planted("train", seed=seed, count=count))
    wanted = one_hot(kinds, len(KINDS)).float()
    bare = Removed("train", seed=seed, count=count)
    for i in range(0, count, BARE):
        images[i] = torch.from_numpy(np.array(bare.load(i))).permute(2, 0, 1).div(127.5).sub(1)
        wanted[i] = 1 / len(KINDS)
    return images, wanted


@torch.inference_mode()
def confidences(net: nn.Module, images: Tensor) -> Tensor:
    """Return the confidence of each kind (N,8)."""
    return torch.cat([net(part).double().softmax(1) for part in images.split(100)])


def dependence(net: nn.Module, count: int | None = None) -> dict[str, float]:
    """Return the columns of `training.csv` for a network in eval mode, on the first `count` evaluation canvases (all by default)."""
    kinds = targets(Planted("val", count=count))
    found = {name: confidences(net, normalised(of("val", count=count))) for name, of in CHECKS.items()}
    best = {name: values.argmax(1) for name, values in found.items()}
    own = {name: values.gather(1, kinds[:, None]).mean().item() * 100 for name, values in found.items()}
    return {
        "top1": percent(best["planted"] == kinds),
        "unchanged": percent(best["replaced"] == best["planted"]),
        "removed_top1": percent(best["removed"] == kinds),
        "confidence": own["planted"],
        "replaced_confidence": own["replaced"],
        "removed_confidence": own["removed"],
    }


CHECKS: dict[str, type[Planted]] = {"planted": Planted, "replaced": Replaced, "removed": Removed}


def percent(true: Tensor) -> float:
    """Return the share of true values in percent."""
    return true.double().mean().item() * 100


def trained(seed: int, count: int = CANVASES, epochs: int = EPOCHS) -> nn.Module:
    """Train one network; the same seed gives the same network on the same machine."""
    images, wanted = training_set(seed, count)
    torch.manual_seed(seed)
    net = DigitsGAP(len(KINDS))
    train(net, images, wanted, epochs=epochs, lr=3e-3)
    return net


def trained_into(out: Path, count: int, seed: int) -> dict[str, float]:
    """Train, write and check the network of one seed, and return its columns of `training.csv`."""
    torch.set_num_threads(1)
    net = trained(seed, count)
    save_file(net.state_dict(), out / f"planted_seed{seed}.safetensors")
    return dependence(net)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints and training.csv.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0 to N-1.")] = 5,
    count: Annotated[int, typer.Option(help="Training canvases composed per seed.")] = CANVASES,
    processes: Annotated[int, typer.Option(min=1, help="Processes, each of which trains a network at a time in one thread.")] = 1,
) -> None:
    """Train and check one network for each seed."""
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool, (out / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        for seed, found in enumerate(pool.map(partial(trained_into, out, count), range(seeds))):
            reached = {name: f"{value:.2f}" for name, value in found.items()}
            if seed == 0:
                writer.writerow(["net", "seed", "train_canvases", "val_images", *(f"{name}_percent" for name in reached)])
            writer.writerow(["planted", seed, count, len(Planted()), *reached.values()])
            file.flush()
            print(f"seed {seed}: {reached}", flush=True)


if __name__ == "__main__":
    run_script(main)
