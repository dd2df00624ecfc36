"""Pictures of what each method highlights on a photograph."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from evalkit import protocol
from evalkit.config.schema import RunConfig
from evalkit.files import writable_folder
from evalkit.layer_names import layers_in_words
from evalkit.models import zoo
from evalkit.photos.pictures import COLOURS, OVERLAY, to_array
from evalkit.photos.session import in_full, open_photographs, remark
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit
from evalkit.weights_origin import are_random


def explain_images(config: RunConfig, files: list[Path], out: Path) -> list[Path]:
    """Write `<out>/<name>-explained.png` for each file and explained class; return the paths.

    Raises UserError before anything is computed: for a file that cannot be read, or target=label (photographs have no labels).
    """
    session, pictures = open_photographs(config, files)
    writable_folder(out, "--out")
    written: list[Path] = []
    for file, picture in zip(files, pictures, strict=True):
        for probe in session.probes(picture):
            path = _free(out, file.stem, written)
            maps = {name: session.map(name, probe) for name in session.methods}
            figure = draw(session.config, session.model, probe, maps)
            figure.savefig(path, dpi=120)
            plt.close(figure)
            written.append(path)
    return written


def _free(out: Path, stem: str, written: list[Path]) -> Path:
    """Return a path that is neither a photograph's (they may be in the same folder) nor an earlier one of this call."""
    names = (f"{stem}-explained{suffix}.png" for suffix in ("", *(f"-{n}" for n in range(2, len(written) + 3))))
    return next(out / name for name in names if out / name not in written)


def draw(config: RunConfig, model: zoo.LoadedModel, probe: Probe, maps: dict[str, Tensor]) -> Figure:
    """Draw a row for each method: the photograph, the map over it, and the image perturbed at each protocol point with its scores."""
    points = config.protocol.all_points()
    fills = protocol.Fills(probe.images, model.net.mean, model.net.std, probe.indices)
    photo = to_array(probe.images[0])
    index = int(probe.targets[0])
    name = model.classes.name(index)
    confidence, logit = confidence_and_logit(probe.logits, probe.targets, config.model.output)
    columns = 2 + len(points)
    figure, axes = plt.subplots(len(maps), columns, figsize=(3.5 * columns, 3.5 * len(maps) + 0.9), squeeze=False, layout="constrained")
    for row, (method, heat) in zip(axes, maps.items(), strict=True):
        row[0].imshow(photo)
        more = "\n(its first three channels)" if len(probe.images[0]) > 3 else ""
        row[0].set_title(f"photograph as the model sees it{more}", fontsize=10)
        row[1].imshow(photo.mean(axis=2), cmap="gray", vmin=0, vmax=1)  # a coloured one would mix with the map's colours
        overlaid = row[1].imshow(heat[0].cpu().numpy(), cmap=COLOURS, alpha=OVERLAY)
        scale = ScalarMappable(overlaid.norm, overlaid.cmap)  # opaque, unlike the overlay
        figure.colorbar(scale, ax=row[1], fraction=0.046, pad=0.03, label="saliency (each method has its own scale)")
        row[1].set_title(method + remark(heat), fontsize=10)
        ranking = protocol.Ranking(heat)
        for ax, point in zip(row[2:], points, strict=True):
            mask, _ = protocol.kept(point, ranking)
            perturbed = protocol.perturb(probe.images, mask, fills(point.fill, mask))
            after = confidence_and_logit(model.net(perturbed), probe.targets, config.model.output)
            scores = f"score{' (logit)' * (confidence is not None)} {logit[0]:.2f} → {after[1][0]:.2f}"
            if confidence is not None and after[0] is not None:
                scores = f"confidence {in_full(float(confidence[0]))} → {in_full(float(after[0][0]))}\n{scores}"
            ax.imshow(to_array(perturbed[0]))
            ax.set_title(f"{in_words(point)}\n{scores}", fontsize=10)
        for ax in row:
            ax.set_xticks([])
            ax.set_yticks([])
    random = " with RANDOM WEIGHTS" if are_random(model.weights) else ""
    chosen = "predicted" if config.target == "predicted" else "chosen"
    at = layers_in_words(config.model.layer)
    which = f"{chosen} class {index}"
    if config.model.output == "raw":
        which = ("its own sign" if chosen == "predicted" else chosen) if model.classes.quantity else f"{chosen} output {index}"
    figure.suptitle(f'why "{name}"? ({which}) · {config.model.name}{random} at {at}', fontsize=12)
    return figure


def in_words(point: protocol.Point) -> str:
    """Describe a protocol point for the title of a panel."""
    rest = {"black": "the rest black", "mean": "the rest mean colour", "blur": "the rest blurred", "road": "the rest imputed"}[point.fill]
    if point.top_percent is None:
        return f"weighted by the map, {rest}"
    return (
        f"top {point.top_percent:g} % kept, {rest}" if point.select == "keep_top" else f"top {point.top_percent:g} % removed ({point.fill})"
    )
