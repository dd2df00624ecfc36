"""Small runs, keys and raters for the tests of studies."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from builders import fresh, tiny_overrides

from evalkit.config.compose import compose_jobs
from evalkit.launch.run import run_job
from evalkit.study.records import Answers, Key, Question, RunRecord


def run(overrides: Iterable[str]) -> Path:
    (job,) = compose_jobs(list(overrides))
    return Path(run_job(job).path)


def digits(out: Path, model: str = "digits_fc", images: int = 80, *more: str) -> Path:
    return run([f"model={model}", "method=[ablation_cam,grad_cam]", f"limit={images}", "maps=store", "workers=0", f"out={out}", *more])


def pairs(folder: Path, out: Path, *more: str) -> Path:
    """Twelve pictures: eight show two classes, each in a half of its own, two show one, two all three."""
    lines = ["file,w,h,class,x1,y1,x2,y2"]
    for i, path in enumerate(sorted(folder.rglob("*.png"))):
        name, own = path.relative_to(folder).as_posix(), path.parent.name
        kinds = {8: "a", 9: "b", 10: "abc", 11: "bca"}.get(i, own + "bca"["abc".index(own)])
        edges = np.linspace(0, 20, len(kinds) + 1)
        lines += [f"{name},20,16,{kind},{left:g},0,{right:g},16" for kind, left, right in zip(kinds, edges, edges[1:], strict=False)]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    methods = "method=[guided_ablation_cam,guided_grad_cam,grad_cam,ablation_cam]"
    given = tiny_overrides(folder, out)
    return run([*given, f"data.labels={folder}/boxes.csv", f"data.boxes={folder}/boxes.csv", "target=label", "maps=store", methods, *more])


def page_data(folder: Path) -> dict:
    text = (folder / "study.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def make_key(design: str, images: int, contestants: tuple[str, str] = ("ablation_cam", "grad_cam"), **energies: list[float]) -> Key:
    """Items of which nobody has made pictures. For `which` every image has the categories 0 and 1, each by both methods."""
    asked = [(i, target, method) for i in range(images) for target in (0, 1) for method in contestants]
    items = {}
    for number, (i, target, method) in enumerate(asked if design == "which" else [(i, 0, None) for i in range(images)]):
        meanings = ("cat", "dog") if design == "which" else contestants
        options = {f"{number}-{meaning}": meaning for meaning in meanings}
        about = {"index": i, "image_id": f"{i}.png", "target": target, "target_name": ("cat", "dog")[target]}
        known = {name: values[number] for name, values in energies.items()}
        items[f"item-{number}"] = Question(**about, options=options, method=method, **known)
    runs = [RunRecord(path="run", model="vgg16", layer="l", identity_hash="h")]
    return Key(study="s", design=design, contestants=contestants, runs=runs, seed=0, items=items)


def sheet(key: Key, rater: str, say: Callable[[Question], str | int | None]) -> Answers:
    """One rater's answers; `say` gives the meaning of an option, "same" or "both", or for `trust` a rating of the first contestant."""
    rng = fresh()
    shown = {name: tuple(str(one) for one in rng.permutation(list(item.options))) for name, item in key.items.items()}
    answers = {}
    for name, item in key.items.items():
        meant = say(item)
        if isinstance(meant, str):
            answers[name] = next((one for one, meaning in item.options.items() if meaning == meant), meant)
        elif meant is not None:
            answers[name] = meant if item.options[shown[name][0]] == key.contestants[0] else -meant
    return Answers(study=key.study, design=key.design, rater=rater, saved="", order=list(key.items), shown=shown, answers=answers)
