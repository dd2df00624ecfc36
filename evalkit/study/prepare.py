"""Preparation of a study from finished runs: a page for raters and a key for the organiser."""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from evalkit.analysis.load import Run, load_runs
from evalkit.config.choices import choices
from evalkit.errors import UserError, nearest
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
    classes_from: str | None = None,
    methods: Sequence[str] = (),
    seed: int = 0,
    data_root: str | None = None,
) -> tuple[Key, int]:
    """Write <out>/study.html and <out>/key.json; return the key, and how many images of the chosen classes do not fit the design.

    `images` is the number of images drawn from each class, or from all for `which`, by `seed`. `classes_from` is the run whose
    predictions choose the classes, by default all runs that are shown. Ids do not depend on the seed, so that they cannot
    be guessed. Raises UserError: runs that do not suit, no images, a study is there.
    """
    refuse_old(out)
    if design == "which" and (classes is not None or classes_from is not None):
        raise UserError("--classes and --classes-from are for `better` and `trust`; `which` takes all images with exactly two categories")
    named, methods = methods, tuple(methods) or PAPER_METHODS[design]
    runs = _runs(design, paths, methods)
    _check_suited(design, runs, named)
    judges = runs if classes_from is None else _judge(classes_from)
    run_images = [RunImages(run, data_root) for run in runs]
    for photographs in run_images:
        _ = photographs.maps  # raises where they were not stored
    contestants = _model_names(run_images) if design == "trust" else (methods[0], methods[1])
    chosen, left_out = _chosen(design, run_images, judges, PAPER_CLASSES if classes is None else classes, images, seed)
    questions = items.drawn(_blinded(design, run_images, chosen, methods, contestants))
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


def _chosen(
    design: Design, run_images: Sequence[RunImages], judges: Sequence[Run], classes: int, images: int | None, seed: int
) -> tuple[pd.DataFrame, int]:
    """Return the images and classes to show, and how many images of the chosen classes are not among them."""
    first = run_images[0]
    if design == "better":
        chosen, left_out = choose.better(first.run, judges, classes, images, seed)
        why_none = f"all {left_out} images of the best classes are explained as another class than their label: run it with target=label"
    elif design == "trust":
        second = run_images[1].run
        chosen, left_out = choose.trust((first.run, second), judges, classes, images, seed)
        why_none = f"none of the {left_out} images of the best classes is classified correctly by both it and {second.path}"
    else:
        chosen, left_out = choose.which(first.run, images, seed, lambda index: len(first.source.class_keys(index)))
        why_none = f"none of its {left_out} images has exactly two labelled categories"
    if chosen.empty:
        raise UserError(f"no image of {first.run.path} fits this study: {why_none}")
    return chosen, left_out


def _blinded(
    design: Design, run_images: Sequence[RunImages], chosen: pd.DataFrame, methods: Sequence[str], contestants: Sequence[str]
) -> Iterator[items.Blinded]:
    if design == "trust":
        return items.trust(run_images, chosen, methods[0], contestants)
    return (items.better if design == "better" else items.which)(run_images[0], chosen, methods)


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


def _check_suited(design: Design, runs: Sequence[Run], named: Sequence[str]) -> None:
    """Raise UserError where `which` has a run of another target than the labels, or a method is in no run; say which run to add."""
    methods = tuple(named) or PAPER_METHODS[design]
    for run in runs:
        target = run.provenance["identity"]["target"]
        if design == "which" and target != "label":
            raise UserError(
                f"{run.path} explained target={target}, and `which` asks about both categories of an image: "
                f"run it with target=label 'method=[{','.join(methods)}]' maps=store, into another folder"
            )
        lacking = [method for method in methods if method not in run.methods]
        near = nearest(lacking[0], run.methods) if lacking and lacking[0] not in choices("method") else None
        if near is not None:
            raise UserError(f"{run.path} has no method '{lacking[0]}'; did you mean '{near}'?")
        if lacking:
            whose = "" if named else ", which the paper's study shows"
            more = f"{run.path}-more"
            raise UserError(
                f"{run.path} has no {' and no '.join(lacking)}{whose}: repeat its command with 'method=[{','.join(lacking)}]' maps=store "
                f"out={more}, then name {more} beside it; or choose others of its methods with --methods"
            )


def _judge(path: str) -> list[Run]:
    judges = load_runs([path])
    if len(judges) != 1:
        raise UserError(f"--classes-from takes one run, and {path} holds {len(judges)}")
    return judges


def _model_names(run_images: Sequence[RunImages]) -> tuple[str, str]:
    first, second = (photographs.run for photographs in run_images)
    return (first.name, second.name) if first.name != second.name else (f"{first.name} ({first.path})", f"{second.name} ({second.path})")


def _record(run: Run) -> RunRecord:
    identity = run.provenance["identity"]
    return RunRecord(
        path=str(run.path), model=run.name, layer=layers_in_words(identity["model"]["layer"]), identity_hash=run.provenance["identity_hash"]
    )
