"""Adversarial pictures: maps of photographs before and after a change that makes the network predict another class.

Pictures are made by the fast gradient sign method (Goodfellow et al., ICLR 2015) and by projected gradient descent (Madry et al., ICLR
2018), here with 7 steps of a quarter of the radius, from the photograph itself. Radii are in units of pixels in [0,1], before
normalisation; pictures are not rounded to 8 bits.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import claim_images as pictures
import numpy as np
import torch
from claim_images import BATCH, Pictures
from claim_rows import Claim, Row
from torch import Tensor

from evalkit import protocol
from evalkit.evaluation.localisation import energy_inside
from evalkit.evaluation.sanity import similarity
from evalkit.models.split import SplitModel

METHODS = ("ablation_cam", "grad_cam")
WITH_CONTROL = (*METHODS, "centre")
EVERY = {"squeezevgg10": 5, "mobilenet_v2": 12}
"""Networks, and the step through the list of their images, which is sorted by class."""
SEED = 0
ATTACKS = {"FGSM": (1, 1.0, (2, 4, 8)), "PGD": (7, 0.25, (4,))}
"""Attacks: number of steps, a step's length over the radius, and radii in 1/255."""
ALIKE = 0.9
"""Correlation from which two maps count as almost identical."""

INSIDE, DROP = "energy inside the boxes, %", "average drop, top 20 % kept, %"
OWN_NEW, OWN_OWN = "own class before, new class after", "own class before, own class after"
BEFORE, NEW_NEW = "own class before, new class before", "new class before, new class after"

STAYS = Claim(
    "Our question: does Ablation-CAM overcome the adversary attack, so that its map stays what it was?",
    *("Pandit 2020, section 7, names it as future work", "", "", f"{SEED}"),
    how="Photographs that are classified right are attacked; those whose predicted class changes count. The own class is that of the "
    "photograph, the new one is predicted after the attack. Pearson's correlation of maps; an image whose map is empty has none. The claim "
    f"expects a correlation above {ALIKE} between the map of the own class before and that of the new class after.",
)
MOVES = replace(
    STAYS,
    claim="Our question: does the map show the evidence of the new class after an attack?",
    how="The map of the new class after the attack is expected to be more like that of the new class before it than like that of the own "
    "class before it (correlations, paired). A random class's map of the photograph is the control.",
)


@dataclass(frozen=True)
class Maps:
    """Maps (n,h,w) by method, their energy inside the boxes (n,) and average drop (n,), both in percent."""

    maps: dict[str, Tensor]
    energy: dict[str, np.ndarray]
    drop: dict[str, np.ndarray]


def measure(data: Path, out: Path) -> list[Row]:  # noqa: ARG001 - nothing but rows is written
    """Return the rows of both networks."""
    found: list[Row] = []
    for network, every in EVERY.items():
        read = pictures.read(pictures.overrides(network, data))
        images = f"{pictures.NETWORKS[network][2]}, every {every}th of {len(read.labels)} images"
        found += rows(read.at(torch.arange(0, len(read.labels), every)), network, images)
    return found


def attacked(net: SplitModel, images: Tensor, labels: Tensor, radius: float, step: float, steps: int) -> Tensor:
    """Return images (n,3,H,W) in [0,1], at most `radius` from those given, that raise the cross-entropy of `labels`.

    x <- clip(x + step * sign(gradient), given - radius, given + radius), and into [0,1]. With one step as long as the radius it is the
    fast gradient sign method. The gradient is that of the cross-entropy over 1 - confidence, whose sign is the same: in float32 the
    cross-entropy's own is 0 for confident images.
    """
    found = images.clone()
    for _ in range(steps):
        found = found.detach().requires_grad_()
        with torch.enable_grad():
            loss = others_less_own(net.whole((found - net.mean) / net.std), labels)
        (gradient,) = torch.autograd.grad(loss.sum(), found)
        moved = found.detach() + step * gradient.sign()
        found = moved.clamp(images - radius, images + radius).clamp(0, 1)
    return found.detach()


def others_less_own(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log sum_j exp(y_j) over all classes but the own, less the own logit (n,); log(1 + exp(this)) is the cross-entropy."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)
    return logits.masked_fill(own, -torch.inf).logsumexp(1) - logits[own]


def rows(read: Pictures, network: str, data: str) -> list[Row]:
    """Return all attacks' rows, for the pictures that are classified right before."""
    stays, moves = (replace(claim, network=network, data=data) for claim in (STAYS, MOVES))
    read = read.at((pictures.logits_of(read.net, read.images).argmax(1) == read.labels).nonzero()[:, 0])
    clean = _explained(read, read.batch(torch.arange(len(read.labels))), read.labels)
    others = [_maps(read, read.images, classes) for classes in two_others(read).T]
    found = [moves.level(f"two random classes before: correlation: {name}", _pearson(others[0], others[1], name)) for name in METHODS]
    for attack, (steps, share, radii) in ATTACKS.items():
        for radius in radii:
            size = radius / 255
            parts = torch.arange(len(read.labels)).split(BATCH)
            changed = torch.cat([attacked(read.net, read.batch(at), read.labels[at], size, share * size, steps) for at in parts])
            found += _of_attack(read, changed, clean, others[0], (stays, moves), f"{attack} {radius}/255")
    return found


def two_others(read: Pictures) -> Tensor:
    """Return two classes for each image (n,2), drawn from those that are not its own."""
    classes = pictures.logits_of(read.net, read.images[:1]).shape[1]
    draws = [np.random.default_rng([SEED, int(position)]) for position in read.positions]
    others = [np.delete(np.arange(classes), int(label)) for label in read.labels]
    return torch.from_numpy(np.stack([rng.choice(other, 2, replace=False) for rng, other in zip(draws, others, strict=True)]))


def _maps(read: Pictures, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return pictures.explained(read.net, images, targets, METHODS, read.positions)[1]


def _explained(read: Pictures, images: Tensor, targets: Tensor) -> Maps:
    logits, maps = pictures.explained(read.net, images, targets, WITH_CONTROL, read.positions)
    size, regions = (images.shape[2], images.shape[3]), read.regions
    energy = {name: 100 * energy_inside(protocol.upsample(m.double(), size), regions).numpy() for name, m in maps.items()}
    return Maps(maps, energy, {name: pictures.average_drops(read.net, images, targets, logits, m) for name, m in maps.items()})


def _of_attack(
    read: Pictures, changed: Tensor, clean: Maps, other: dict[str, Tensor], claims: tuple[Claim, Claim], attack: str
) -> list[Row]:
    """Return the rows of one attack; `other` are the photographs' maps of a random class, in place of the new one."""
    stays, moves = claims
    new = pictures.logits_of(read.net, changed).argmax(1)
    fooled = (new != read.labels).nonzero()[:, 0]
    found = [stays.level(f"{attack}: class changed, %", 100.0 * (new != read.labels).numpy())]
    if not len(fooled):
        return found
    part, images = read.at(fooled), changed[fooled]
    own, chance = ({name: maps[fooled] for name, maps in before.items()} for before in (clean.maps, other))
    new_before, own_after, after = (
        _maps(part, part.images, new[fooled]),
        _maps(part, images, part.labels),
        _explained(part, images, new[fooled]),
    )
    pairs = {OWN_NEW: (own, after.maps), OWN_OWN: (own, own_after), BEFORE: (own, new_before), NEW_NEW: (new_before, after.maps)}
    alike = {(kind, name): _pearson(*pair, name) for kind, pair in pairs.items() for name in METHODS}
    for (kind, name), values in alike.items():
        tested = kind == OWN_NEW and name == "ablation_cam"
        found.append(stays.level(f"{attack}: correlation, {kind}: {name}", values, expects=f"> {ALIKE}" if tested else ""))
    for name in METHODS:
        top = similarity(own[name], after.maps[name])["overlap"]
        found.append(stays.level(f"{attack}: overlap of the top 20 %, {OWN_NEW}: {name}", top))
        random = _pearson(own, chance, name)
        found.append(
            moves.difference(f"{attack}: correlation, {OWN_NEW}, less with a random class before: {name}", alike[OWN_NEW, name], random)
        )
        nearer = alike[NEW_NEW, name], alike[OWN_NEW, name]
        tested = name == "ablation_cam"
        measure = f"{attack}: correlation with the map after, new class before less own class before: {name}"
        found.append(moves.difference(measure, *nearer, expects="> 0" if tested else ""))
    first, second = METHODS
    found.append(
        stays.difference(f"{attack}: correlation, {OWN_NEW}: {first} less {second}", alike[OWN_NEW, first], alike[OWN_NEW, second])
    )
    return [*found, *_measures(stays, after, clean, fooled.numpy(), attack)]


def _measures(claim: Claim, after: Maps, clean: Maps, fooled: np.ndarray, attack: str) -> list[Row]:
    """Return how energy and drop change from the own class before to the new class after, by method, and compared."""
    found: list[Row] = []
    first, second = METHODS
    for measure, now, before in ((INSIDE, after.energy, clean.energy), (DROP, after.drop, clean.drop)):
        what = f"{attack}: {measure}, new class after"
        for name in WITH_CONTROL:
            found.append(claim.level(f"{what}: {name}", now[name]))
            found.append(claim.difference(f"{what} less own class before: {name}", now[name], before[name][fooled]))
        changes = [now[name] - before[name][fooled] for name in METHODS]
        found.append(claim.difference(f"{what} less own class before: change of {first} less that of {second}", *changes))
    return found


def _pearson(maps: dict[str, Tensor], others: dict[str, Tensor], method: str) -> np.ndarray:
    return similarity(maps[method], others[method])["pearson"]
