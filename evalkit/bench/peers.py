"""`evalkit bench peers`: seconds per image of evalkit, pytorch-grad-cam, torch-cam and captum, in one process."""

import importlib.util
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from torch import Tensor

from evalkit import methods, protocol
from evalkit.bench import timing
from evalkit.bench.ablation import target_module
from evalkit.errors import UserError
from evalkit.files import writable_file
from evalkit.output.drawing import FORMATS
from evalkit.probe import Probe
from evalkit.scores import confidence_and_logit

TOP_PERCENT = 20.0
EVALUATION = "evaluate {grad_cam, ablation_cam}"
PYTORCH_GRAD_CAM = {
    "grad_cam": "GradCAM", "grad_cam_pp": "GradCAMPlusPlus", "xgrad_cam": "XGradCAM", "layer_cam": "LayerCAM", "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM", "ablation_cam": "AblationCAM",
}  # fmt: skip
TORCH_CAM = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMpp", "xgrad_cam": "XGradCAM", "layer_cam": "LayerCAM"}
CAPTUM = {"grad_cam": "LayerGradCam"}
ONCE = "ablation_cam"
"""The method that is timed on one image, once, since pytorch-grad-cam runs the network for every channel."""

Work = Callable[[], object]


def bench_peers(
    models: list[str], overrides: list[str], *, batch_size: int, repeats: int, threads: int | None, csv_file: Path | None
) -> pd.DataFrame:
    """Return the seconds per image of each task and library; `times_ours` is theirs / ours.

    A task is one method, from images to maps, or the whole evaluation: maps of Grad-CAM and Ablation-CAM, exactly the top
    20 % kept, the passes over both masked images, drop, increase and win in confidence and activation. pytorch-grad-cam
    only computes the maps; the rest of its evaluation is written here in plain torch. All take turns on the same batch of
    random images; Ablation-CAM by pytorch-grad-cam, and the evaluation with it, are timed once, on one image. Decoding and
    files are not included. Weights are random unless `model.weights=FILE` is given. A figure is drawn beside the CSV file.

    Raises UserError if a library is missing.
    """
    for package, name in (("pytorch_grad_cam", "grad-cam"), ("torchcam", "torchcam")):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{name} is not installed: in evalkit's folder, pip install '.[peers]'")
    writable_file(csv_file, "--csv")
    rows: list[dict[str, Any]] = []
    for model in models:
        bench = timing.bench_network(model, overrides, batch_size, threads)
        facts = {key: value for key, value in bench.facts().items() if key != "batch_size"}
        for task, works in _tasks(bench, slice(None)).items():
            rows += _rows(facts, task, works, batch_size, repeats)
        for task, works in _tasks(bench, slice(0, 1), slow=True).items():
            rows += _rows(facts, task, works, 1, 1)
        if csv_file is not None:
            pd.DataFrame(rows).to_csv(csv_file, index=False, float_format="%.6g")
    table = pd.DataFrame(rows)
    if csv_file is not None:
        _draw(table, csv_file)
    return table


def _rows(facts: Mapping[str, Any], task: str, works: Mapping[str, Work], images: int, repeats: int) -> list[dict[str, Any]]:
    slow = repeats == 1
    times = timing.take_turns(works, repeats, warm_up=0 if slow else 1)
    if slow:  # ours is fast enough for a warm-up and repeats
        times["evalkit"] = timing.take_turns({"evalkit": works["evalkit"]}, 5)["evalkit"]
    median = {library: statistics.median(seconds) / images for library, seconds in times.items()}
    return [
        {
            **facts,
            "task": task,
            "library": library,
            "images": images,
            "repeats": len(times[library]),
            "seconds_per_image": seconds,
            "times_ours": seconds / median["evalkit"],
        }
        for library, seconds in median.items()
    ]


def _tasks(bench: timing.BenchNetwork, part: slice, *, slow: bool = False) -> dict[str, dict[str, Work]]:
    """Return the function of each library, by task and library."""
    images, normalised = bench.images[part], bench.normalised[part]
    layer = target_module(bench.module, bench.net.layer)
    targets = bench.forward().argmax(1)[part].tolist()
    tasks: dict[str, dict[str, Work]] = {}
    for name, theirs in PYTORCH_GRAD_CAM.items():
        if (name == ONCE) == slow:
            works: dict[str, Work] = {"evalkit": partial(_ours, bench, images, targets, name)}
            works["pytorch-grad-cam"] = partial(_pytorch_grad_cam, bench.module, layer, normalised, targets, theirs)
            if name in TORCH_CAM:
                works["torch-cam"] = partial(_torch_cam, bench.module, layer, normalised, targets, TORCH_CAM[name])
            if name in CAPTUM:
                works["captum"] = partial(_captum, bench.module, layer, normalised, targets)
            tasks[name] = works
    if slow:
        tasks[EVALUATION] = {
            "evalkit": partial(_our_evaluation, bench, images, targets),
            "pytorch-grad-cam": partial(_their_evaluation, bench, layer, images, normalised, targets),
        }
    return tasks


def _ours(bench: timing.BenchNetwork, images: Tensor, targets: list[int], name: str) -> Tensor:
    maps: Tensor = getattr(methods, name)(Probe(bench.net, images, targets))
    return maps


def _pytorch_grad_cam(module: torch.nn.Module, layer: torch.nn.Module, normalised: Tensor, targets: list[int], name: str) -> Tensor:
    import pytorch_grad_cam as library  # noqa: PLC0415 - optional
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: PLC0415

    with getattr(library, name)(model=module, target_layers=[layer]) as cam:
        return torch.from_numpy(cam(input_tensor=normalised, targets=[ClassifierOutputTarget(c) for c in targets]))


def _torch_cam(module: torch.nn.Module, layer: torch.nn.Module, normalised: Tensor, targets: list[int], name: str) -> Tensor:
    import torchcam.methods as library  # noqa: PLC0415 - optional

    with getattr(library, name)(module, layer) as cam:
        maps: Tensor = cam(targets, module(normalised.requires_grad_()))[0]
    return maps


def _captum(module: torch.nn.Module, layer: torch.nn.Module, normalised: Tensor, targets: list[int]) -> Tensor:
    from captum.attr import LayerGradCam  # noqa: PLC0415 - as the others

    maps: Tensor = LayerGradCam(module, layer).attribute(normalised, target=targets)
    return maps


def _our_evaluation(bench: timing.BenchNetwork, images: Tensor, targets: list[int]) -> Tensor:
    probe = Probe(bench.net, images, targets)
    seen = []
    for method in (methods.grad_cam, methods.ablation_cam):
        ranking = protocol.Ranking(protocol.upsample(method(probe), (images.shape[2], images.shape[3])))
        seen.append(bench.net(protocol.perturb(images, ranking.top(TOP_PERCENT), torch.zeros((), device=images.device))))
    return _six_metrics(probe.logits, seen, probe.targets)


def _their_evaluation(bench: timing.BenchNetwork, layer: torch.nn.Module, images: Tensor, normalised: Tensor, targets: list[int]) -> Tensor:
    module, chosen = bench.module, torch.tensor(targets, device=images.device)
    black = -bench.net.mean / bench.net.std
    with torch.inference_mode():
        full = module(normalised)
    seen = []
    for name in ("GradCAM", "AblationCAM"):
        maps = _pytorch_grad_cam(module, layer, normalised, targets, name).flatten(1).to(images.device)
        k = round(TOP_PERCENT / 100 * maps.shape[1])
        mask = torch.zeros_like(maps).scatter_(1, maps.topk(k).indices, 1).view(len(images), 1, *images.shape[2:]).bool()
        with torch.inference_mode():
            seen.append(module(torch.where(mask, normalised, black)))
    return _six_metrics(full, seen, chosen)


def _six_metrics(full: Tensor, seen: list[Tensor], targets: Tensor) -> Tensor:
    """Return drop, increase and win of the first method against the second, in confidence and activation."""
    metrics = []
    for kind in (0, 1):
        before = _both(full, targets)[kind]
        after = [_both(logits, targets)[kind] for logits in seen]
        drops = [(before - score).clamp(min=0) for score in after]
        metrics += [(drops[0] / before).mean(), (before < after[0]).double().mean(), (drops[0] < drops[1]).double().mean()]
    return torch.stack(metrics)


def _both(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    confidence, logit = confidence_and_logit(logits, targets)
    assert confidence is not None  # a softmax
    return confidence, logit


def _draw(table: pd.DataFrame, file: Path) -> None:
    """Draw one dot per library, further left is faster; not bars, since a logarithmic axis has no zero."""
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind")
    names = {"x": "seconds_per_image", "y": "task", "hue": "library", "style": "library", "col": "model"}
    columns = min(2, table.model.nunique())
    grid = sns.relplot(table, kind="scatter", **names, s=70, col_wrap=columns, height=3.2, aspect=1.7, facet_kws={"sharex": False})
    grid.set(xscale="log")
    grid.set_axis_labels("seconds per image, logarithmic", "")
    grid.set_titles("{col_name}")
    for format_ in FORMATS:
        grid.figure.savefig(file.with_suffix(f".{format_}"), dpi=130, bbox_inches="tight")
    plt.close(grid.figure)
