"""Preparation of a study from finished runs: a page for raters and a key for the organiser."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from evalkit.analysis.load import Run, load_runs
from evalkit.errors import UserError, did_you_mean
from evalkit.files import publish, writable_folder
from evalkit.layer_names import layers_in_words
from evalkit.output.pages import page
from evalkit.photos.run_images import RunImages
from evalkit.study import choose, items
from evalkit.study.records import KEY, PAGE, Design, Key, RunRecord, refuse_old
from evalkit.study.wording import WORDING

PAPER_METHODS = {
    "better": ("ablation_cam", "grad_cam"),
    "trust": ("ablation_cam",),
    "which": ("guided_ablation_cam", "guided_grad_cam"),
}
PAPER_CLASSES = 5


def prepare(
    design: Design,
    paths: Sequence[str],
    out: Path,
    *,
    images: int | None = None,
    classes: int | None = None,
    methods: Sequence[str] = (),
    seed: int = 0,
    data_root: str | None = None,
) -> tuple[Key, int]:
    """Write <out>/study.html and <out>/key.json; return the key, and how many images of the chosen classes do not fit the design.

    `images` is the number of images drawn from each class, or from all for `which`, by `seed`. Ids do not depend on the
    seed, so that they cannot be guessed. Raises UserError: runs that do not suit, no images, a study is there.
    """
    refuse_old(out)
    default = "" if methods else ", which the paper's study shows"
    methods = tuple(methods) or PAPER_METHODS[design]
    run_images = [RunImages(run, data_root) for run in _runs(design, paths, methods)]
    _check_methods(run_images, methods, default)
    contestants = _model_names(run_images) if design == "trust" else (methods[0], methods[1])
    blinded, left_out = _blinded_items(design, run_images, methods, contestants, classes, images, seed)
    questions = items.drawn(blinded)
    key = Key(
        study=secrets.token_hex(8),
        design=design,
        contestants=contestants,
        method=methods[0] if design == "trust" else None,
        runs=[_record(photographs.run) for photographs in run_images],
        seed=seed,
        items={name: item for name, (_, item) in questions.items()},
    )
    writable_folder(out, "--out")
    publish(out / KEY, key.model_dump_json(indent=1).encode())
    words = WORDING[design]
    data = {
        "study": key.study,
        "design": design,
        "captions": words.captions,
        "choices": words.choices,
        "items": [{"id": name, **item} for name, (item, _) in questions.items()],
    }
    publish(out / PAGE, page("study", data, title=words.title, task=words.task, choices=len(words.choices)).encode())
    return key, left_out


def _blinded_items(
    design: Design,
    run_images: Sequence[RunImages],
    methods: Sequence[str],
    contestants: Sequence[str],
    classes: int | None,
    images: int | None,
    seed: int,
) -> tuple[Iterator[items.Blinded], int]:
    """Return the items, and how many images of the chosen classes are not among them."""
    first = run_images[0]
    number = PAPER_CLASSES if classes is None else classes
    if design == "better":
        chosen, left_out = choose.better(first.run, number, images, seed)
        _check_some(chosen, f"all {left_out} images of its best classes are explained as another class than their label", first)
        return items.better(first, chosen, methods), left_out
    if design == "trust":
        second = run_images[1].run
        chosen, left_out = choose.trust((first.run, second), number, images, seed)
        reason = f"none of the {left_out} images of its best classes is classified correctly by both it and {second.path}"
        _check_some(chosen, reason, first)
        return items.trust(run_images, chosen, methods[0], contestants), left_out
    if classes is not None:
        raise UserError("--classes is for `better` and `trust`; `which` takes all images with exactly two categories")
    chosen, left_out = choose.which(first.run, images, seed, lambda index: len(first.source.class_keys(index)))
    _check_some(chosen, f"none of its {left_out} images has exactly two labelled categories", first)
    return items.which(first, chosen, methods), left_out


def _check_some(chosen: pd.DataFrame, why_none: str, photographs: RunImages) -> None:
    if chosen.empty:
        raise UserError(f"no image of {photographs.run.path} fits this study: {why_none}")


def _runs(design: Design, paths: Sequence[str], methods: Sequence[str]) -> list[Run]:
    needed = len(PAPER_METHODS[design])
    if len(set(methods)) != len(methods) or len(methods) != needed:
        number = "one method" if needed == 1 else "two different methods"
        raise UserError(f"`{design}` shows {number}, not {', '.join(methods)}: choose with --methods")
    runs, expected = load_runs(paths), 2 if design == "trust" else 1
    if len(runs) != expected:
        what = "two runs, of two models on the same images" if expected == 2 else "one run (or several that differ in nothing but methods)"
        raise UserError(f"`{design}` needs {what}; {', '.join(paths)} hold{'s' * (len(paths) == 1)} {len(runs)}")
    return runs


def _check_methods(run_images: Iterable[RunImages], methods: Iterable[str], whose: str) -> None:
    for photographs in run_images:
        for method in methods:
            if method not in photographs.maps:
                near = did_you_mean(method, photographs.run.methods)
                raise UserError(f"{photographs.run.path} has no method '{method}'{whose or near}: choose others with --methods")


def _model_names(run_images: Sequence[RunImages]) -> tuple[str, str]:
    first, second = (photographs.run for photographs in run_images)
    return (first.name, second.name) if first.name != second.name else (f"{first.name} ({first.path})", f"{second.name} ({second.path})")


def _record(run: Run) -> RunRecord:
    identity = run.provenance["identity"]
    return RunRecord(
        path=str(run.path), model=run.name, layer=layers_in_words(identity["model"]["layer"]), identity_hash=run.provenance["identity_hash"]
    )
