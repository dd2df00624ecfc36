"""The training of finetune_multilabel.py: the last layer on features that are computed once, then all layers, with checkpoints."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from multilabel_data import Part
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from evalkit.cli.progress import meter
from evalkit.config.schema import RunConfig
from evalkit.errors import UserError, cause
from evalkit.evaluation.opening import open_device
from evalkit.files import publish
from evalkit.models import zoo
from evalkit.models.heads import Ending, check_scores, find_ending, replace_head
from evalkit.models.readout import Readout
from evalkit.models.weights import hash_weights
from evalkit.pixels import in_unit_range


@dataclass(frozen=True)
class Stage:
    """A stage of the training: "head" trains the new layer alone, "all" every layer."""

    name: str
    epochs: int
    rate: float
    """The largest learning rate: it rises linearly in the first tenth of the steps and falls along a cosine."""

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step of `steps`."""
        warm = max(1, steps // 10)
        return self.rate * (step + 1) / warm if step < warm else self.rate * (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2


@dataclass
class Trainer:
    """A network with a new last layer, and the images that train it."""

    module: nn.Module
    ending: Ending
    head: nn.Module
    readout: Readout
    config: RunConfig
    device: torch.device
    part: Part
    classes: list[str]
    batch: int
    flip: bool
    seed: int
    weights_hash: str
    """Of the network before its last layer was replaced."""
    read: dict[str, Tensor] = field(default_factory=dict)
    """Images by the name of their part."""

    def run(self, images: Tensor) -> Tensor:
        """Return scores (n,C) of images (n,channels,H,W), uint8 or in [0,1]."""
        scores: Tensor = self.readout(self.module(self.normalised(images)))
        return scores

    def normalised(self, images: Tensor) -> Tensor:
        """Return images on the device, normalised for the network."""
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (self.config.model.mean, self.config.model.std))
        return (in_unit_range(images.to(self.device), torch.float32) - mean) / std

    def images(self, part: Part, what: str) -> Tensor:
        """Read the images of a part once."""
        if what not in self.read:
            self.read[what] = part.images(zoo.preprocessing(self.config.model), what)
        return self.read[what]

    @torch.no_grad()
    def scores(self, part: Part, what: str) -> Tensor:
        """Return the scores (n,C) of a part, on the CPU."""
        self.module.eval()
        return torch.cat([self.run(images).cpu() for images in self.images(part, what).split(self.batch)])

    def train(self, stage: Stage, checkpoint: Path) -> None:
        """Train a stage, from its checkpoint where there is one, which is written after each epoch."""
        trained = dict(self.head.named_parameters()) if stage.name == "head" else dict(self.module.named_parameters())
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        optimiser = torch.optim.AdamW(trained.values(), lr=stage.rate, weight_decay=1e-2)
        done = restore(checkpoint, trained, optimiser)
        if done == stage.epochs:
            return
        images = self.images(self.part, "train")
        inputs = self.features(images) if stage.name == "head" else None
        truth = self.part.truth(self.classes)
        present, known = (torch.from_numpy(mask).float().to(self.device) for mask in (truth.present, truth.known))
        steps = stage.epochs * math.ceil(len(images) / self.batch)
        for epoch in range(done, stage.epochs):
            started, losses = time.monotonic(), []
            for number, (chosen, mirrored) in enumerate(self.batches(stage, epoch, len(images))):
                for group in optimiser.param_groups:
                    group["lr"] = stage.rate_at(epoch * math.ceil(len(images) / self.batch) + number, steps)
                optimiser.zero_grad()
                scores = (
                    self.run(flipped(images[chosen], mirrored)) if inputs is None else self.head(inputs[mirrored.long(), chosen]).flatten(1)
                )
                at = chosen.to(self.device)
                loss = binary_cross_entropy_with_logits(scores, present[at], known[at], reduction="sum") / known[at].sum().clamp(min=1)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            save(checkpoint, trained, optimiser, stage, epoch + 1)
            print(
                f"{stage.name}, epoch {epoch + 1} of {stage.epochs}: loss {np.mean(losses):.4f}, {time.monotonic() - started:.1f} s",
                flush=True,
            )

    def batches(self, stage: Stage, epoch: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the positions of each step's images and which are mirrored; all random numbers of an epoch follow from its number."""
        self.module.eval()  # batch norm keeps its statistics
        for part in self.module.modules() if stage.name == "all" else ():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.train()
        start = int(np.random.SeedSequence([self.seed, stage.name == "all", epoch]).generate_state(1)[0])
        torch.manual_seed(start)  # of dropout
        generator = torch.Generator().manual_seed(start + 1)
        for chosen in torch.randperm(count, generator=generator).split(self.batch):
            yield chosen, (torch.rand(len(chosen), generator=generator) < 0.5) & self.flip

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor | None:
        """Return the inputs (2,n,...) of the new layer for the images and their mirror images; None where the scores need more than it.

        They do not where the scores are the outputs of a Linear, or of a 1x1 convolution the means over all positions.
        """
        self.module.eval()
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        parts: list[Tensor] = []
        try:
            with meter("features", Console(stderr=True)) as progress:
                progress.announce(2 * len(images), 0)
                for mirrored in (False, True):
                    for some in images.split(self.batch):
                        scores = self.run(some.flip(-1) if mirrored else some)
                        inputs = seen.pop()
                        parts.append(inputs.mean((2, 3), keepdim=True) if isinstance(self.head, nn.Conv2d) else inputs)
                        again = self.head(parts[-1]).flatten(1)
                        if again.shape != scores.shape or not torch.allclose(again, scores, rtol=1e-4, atol=1e-4):
                            return None
                        progress.advance(len(some))
        finally:
            hook.remove()
        both = torch.cat(parts)
        return both.view(2, len(images), *both.shape[1:])


def flipped(images: Tensor, mirrored: Tensor) -> Tensor:
    """Return images (n,channels,H,W), those that are `mirrored` (n,) from left to right."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def open_trainer(config: RunConfig, train: Part, classes: Sequence[str], *, batch: int, flip: bool, seed: int) -> Trainer:
    """Build the network with a new last layer, which begins at the classes' prevalence. Raises UserError where it cannot be replaced."""
    device = open_device(config)
    module, _ = zoo.build(config.model)
    before = hash_weights(module.state_dict())
    module = module.float().eval().to(device)
    readout = zoo.readout(config.model.model_copy(update={"output": "sigmoid"}))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, config.model.channels, *zoo.input_size(config.model), generator=generator).to(device)
    ending = find_ending(module, lambda network: network(image))
    head = replace_head(module, ending.head, len(classes), ending.without)
    trainer = Trainer(module, ending, head, readout, config, device, train, list(classes), batch, flip, seed, before)
    with torch.no_grad():
        check_scores(lambda _: trainer.run(image), module, head, len(classes))
        truth = train.truth(classes)
        shown = torch.from_numpy(truth.present & truth.known).sum(0)
        prevalence = (shown + 1) / (torch.from_numpy(truth.known).sum(0) + 2)
        nn.init.zeros_(head.weight)
        head.bias.copy_(torch.logit(prevalence.float()))
    return trainer


def save(file: Path, trained: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer, stage: Stage, epochs: int) -> None:
    """Write the trained parameters and the state of the optimiser after a number of epochs."""
    tensors = {f"model/{name}": value.detach() for name, value in trained.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{key}": value for key, value in state.items()}
    content = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    publish(file, safetensors.torch.save(content, {"stage": stage.name, "epochs": str(epochs)}))


def restore(file: Path, trained: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> int:
    """Load what `save` wrote, and return the number of epochs that are done; 0 without a file. Raises UserError where it does not fit."""
    if not file.exists():
        return 0
    try:
        with safetensors.safe_open(file, "pt") as opened:
            epochs = int(opened.metadata()["epochs"])
            values = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no dict
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(values[f"model/{name}"])
    except (safetensors.SafetensorError, KeyError, RuntimeError) as reason:
        raise UserError(f"{file} is no checkpoint of this training ({cause(reason)}): remove it to begin anew") from reason
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in values.items():
        kind, _, rest = name.partition("/")
        if kind == "optimiser":
            index, _, key = rest.partition("/")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return epochs
