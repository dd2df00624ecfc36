"""Images with several labels for fine-tuning: which classes, which are present, absent or undecided, and which images are held out."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from average_precision import Truth
from rich.console import Console
from torch import Tensor

from evalkit.cli.progress import meter
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.data.decode import Preprocess, UnreadableImage
from evalkit.data.sources import Source, choose, hash_entries
from evalkit.errors import UserError
from evalkit.evaluation.session import load_source
from evalkit.files import publish


@dataclass(frozen=True)
class Part:
    """The images of one part, for training or held out."""

    source: Source
    positions: list[int]

    def names(self, position: int) -> list[str]:
        """Return the classes that an image shows for certain."""
        return [str(key) for key in self.source.class_keys(position)]

    def undecided(self, position: int) -> list[str]:
        """Return the classes of which an image shows only difficult objects (data=voc)."""
        of_source = getattr(self.source, "undecided", None)
        return [] if of_source is None else [str(key) for key in of_source(position)]

    def counts(self) -> Counter[str]:
        """Return the number of images of each class."""
        return Counter(name for position in self.positions for name in self.names(position))

    def truth(self, classes: Sequence[str]) -> Truth:
        """Return which of the classes each image shows."""
        present = np.array([[name in shown for name in classes] for shown in map(self.names, self.positions)], bool)
        unknown = np.array([[name in hidden for name in classes] for hidden in map(self.undecided, self.positions)], bool)
        return Truth(present, ~unknown)

    @property
    def fingerprint(self) -> str:
        """A hash of the images and their labels."""
        return hash_entries([self.source.fingerprint, *((p, self.names(p), self.undecided(p)) for p in self.positions)])

    def images(self, preprocess: Preprocess, what: str) -> Tensor:
        """Read all images, (n,channels,H,W), mostly uint8. Raises UserError where one cannot be read, or has another size."""
        images: list[Tensor] = []
        with meter(f"reading {what}", Console(stderr=True)) as progress:
            progress.announce(len(self.positions), 0)
            for position in self.positions:
                name = self.source.image_id(position)
                try:
                    images.append(preprocess(self.source.load(position)))
                except UnreadableImage as reason:
                    raise UserError(f"{name} cannot be read ({reason}): restore it, or take it out of the list") from reason
                if images[-1].shape != images[0].shape:
                    size, first = (f"{image.shape[2]}x{image.shape[1]}" for image in (images[-1], images[0]))
                    raise UserError(f"{name} has {size} pixels where the first image has {first}: set model.resize=[h,w] or model.crop")
                progress.advance(1)
        return torch.stack(images)


def parts(overrides: Sequence[str], evaluate: Sequence[str], held_out: float, seed: int, conf: Path | None) -> tuple[RunConfig, Part, Part]:
    """Return the configuration, the images for training and those held out.

    The latter are those of the data set with the overrides `evaluate` added, or else a random share `held_out` of the images.
    Raises UserError: no images, or the same images in both parts.
    """
    config = compose_jobs(overrides, conf=conf)[0].config
    whole = _chosen(config)
    if evaluate:
        other = _chosen(compose_jobs([*overrides, *evaluate], conf=conf)[0].config)
        both = {whole.source.image_id(p) for p in whole.positions} & {other.source.image_id(p) for p in other.positions}
        if both:
            raise UserError(f"--evaluate {' '.join(evaluate)} holds images that are trained on, such as {min(both)}: name another split")
        return config, whole, other
    count = round(held_out * len(whole.positions))
    if not 0 < count < len(whole.positions):
        raise UserError(f"--held-out {held_out} of {len(whole.positions)} images leaves none for training or none to evaluate")
    order = np.random.default_rng(seed).permutation(whole.positions)
    return config, Part(whole.source, sorted(order[count:].tolist())), Part(whole.source, sorted(order[:count].tolist()))


def _chosen(config: RunConfig) -> Part:
    source = load_source(config.data)
    return Part(source, choose(source, limit=config.limit, sample=config.sample, seed=config.seed))


def chosen_classes(train: Part, held_out: Part, least: int) -> list[str]:
    """Return the classes that at least `least` images show, and one of each part, by name. Raises UserError: fewer than two."""
    first, second = train.counts(), held_out.counts()
    classes = sorted(name for name, number in (first + second).items() if number >= least and first[name] and second[name])
    if len(classes) < 2:
        raise UserError(f"{len(classes)} classes have {least} images or more, and images in both parts: give a smaller --min-images")
    return classes


def write_list(file: Path, part: Part, classes: Sequence[str]) -> None:
    """Write a labels list of the images that show some of the classes, with these alone: others have no output."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class"])
    for position in part.positions:
        writer.writerows([part.source.image_id(position), name] for name in part.names(position) if name in classes)
    publish(file, text.getvalue().encode())
