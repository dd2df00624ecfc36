"""Fine-tune squeezevgg10 for several labels on COCO photographs, and make the paper's figure 4 and its study of 6.5 from the result.

    PYTHONPATH=DATA/weights OMP_NUM_THREADS=1 python experiments/training/multilabel_coco.py DATA OUT    (2 CPU minutes a seed)

A stand-in for VGG16 on PASCAL VOC 2007 (Ablation-CAM paper, sections 5 and 6.5). DATA holds coco256 (126 photographs, boxes.csv),
nips17_dev and weights/squeezevgg10_imagenette.safetensors. Half of the photographs, drawn by the seed, are held out. The classes are
those that at least 8 of all photographs show: of rarer ones a half holds one or two images, on which no average precision can be told.

OUT receives a folder for each seed (finetune_multilabel.py), multilabel.csv with the metrics of all seeds, and from the first seed
figure 4, the run of the held-out photographs that show two of the classes, and the study `which` of it. The figure shows the photograph
of nips17_dev, the set that may be shown in public, whose second class has the highest score.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import finetune_multilabel
import pandas as pd
import typer

from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import RunConfig
from evalkit.data.decode import decode
from evalkit.launch.run import run_job
from evalkit.photos.figures import saturation
from evalkit.photos.figures.layout import write
from evalkit.photos.session import open_photo_session
from evalkit.study.prepare import prepare

CONF = Path(__file__).parents[1] / "conf"
NAME = "squeezevgg10_coco"
METHODS = "method=[guided_ablation_cam,guided_grad_cam]"


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds coco256, nips17_dev and weights.")],
    out: Annotated[Path, typer.Argument(help="Folder for the networks, the table, the run, the study and the figure.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1.")] = 1,
) -> None:
    """Fine-tune for each seed; run, study and figure of the first."""
    network = ["model=squeezevgg10", f"model.weights={data}/weights/squeezevgg10_imagenette.safetensors"]
    photographs = ["data=image_folder", f"data.root={data}/coco256", f"data.labels={data}/coco256/boxes.csv"]
    finetune([*network, *photographs], out, seeds, min_images=8, conf=CONF)
    boxed = [f"data.boxes={data}/coco256/boxes.csv"]
    shown = draw(sorted((data / "nips17_dev" / "images").rglob("*.png")), out)
    study(["data=image_folder", f"data.root={data}/coco256", *boxed], out)
    print(f"written: {out}/multilabel.csv, study, {shown.stem}-saturation.png of {shown.relative_to(data)}")


def finetune(overrides: Sequence[str], out: Path, seeds: int, **options: object) -> None:
    """Fine-tune for each seed with the settings of finetune_multilabel.py, and write multilabel.csv."""
    defaults = {"evaluate": [], "held_out": 0.5, "head_epochs": 30, "all_epochs": 10, "head_rate": 1e-3, "all_rate": 2e-5, "batch": 16}
    settings = {**defaults, "flip": True, "name": NAME, **options}
    for seed in range(seeds):
        finetune_multilabel.main(list(overrides), out / f"seed{seed}", seed=seed, **settings)  # type: ignore[arg-type]
    tables = [pd.read_csv(out / f"seed{seed}" / "metrics.csv") for seed in range(seeds)]
    pd.concat(tables, ignore_index=True).to_csv(out / "multilabel.csv", index=False)


def study(data: Sequence[str], out: Path) -> None:
    """Explain both labels of the held-out images with two of the classes, and prepare the study. Raises UserError: there are none."""
    labels = pd.read_csv(out / "seed0" / "held_out.csv")
    labels[labels.groupby("file")["class"].transform("size") == 2].to_csv(out / "pairs.csv", index=False)
    given = [f"model={NAME}", *data, f"data.labels={out}/pairs.csv", METHODS, "target=label", "maps=store", f"out={out}/run"]
    folder = run_job(compose_jobs(given, conf=out / "seed0")[0])
    key, left_out = prepare("which", [str(folder.path)], out / "study")
    print(f"study: {len(key.items)} maps of {len({item.index for item in key.items.values()})} images; {left_out} others do not fit")


def draw(files: Sequence[Path], out: Path) -> Path:
    """Draw figure 4 of the photograph whose second class has the highest score; return it."""
    config: RunConfig = compose_jobs([f"model={NAME}"], conf=out / "seed0")[0].config
    session = open_photo_session(config)
    seconds = {file: float(session.probe(decode(file)).logits[0].topk(2).values[1]) for file in files}
    best = max(seconds, key=lambda file: seconds[file])
    write("saturation", saturation.draw, config, [best], out, classes=saturation.two_classes)
    return best


if __name__ == "__main__":
    run_script(main)
