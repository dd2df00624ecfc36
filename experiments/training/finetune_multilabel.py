"""Fine-tune any network of evalkit for several labels an image (Ablation-CAM paper, sections 5 and 6.5: VGG16 on PASCAL VOC 2007).

    python experiments/training/finetune_multilabel.py model=vgg16 data=voc data.root=VOCdevkit data.split=train \
        --evaluate data.split=val --out vgg16_voc
    python experiments/training/finetune_multilabel.py model=mobilenet_v2 data=image_folder data.root=coco \
        data.labels=coco/labels.csv --held-out 0.5 --min-images 8 --out coco        (minutes on a CPU for a hundred photographs)

The last layer is replaced by one output for each class, whose scores a sigmoid turns into probabilities. It starts at the classes'
prevalence and is trained alone, on features that are computed once; then all layers are trained, with dropout; batch norm keeps the
statistics of the pretrained network. The loss is binary cross-entropy; where VOC marks all objects of a class as difficult, the image
has no part in that class's loss, nor in its average precision. No setting is chosen by the held-out images.

OUT receives `checkpoint_<stage>.safetensors` after each epoch, from which the same command continues after it was killed, with the same
result on a CPU; then NAME.safetensors, model/NAME.yaml (`evalkit run --conf OUT model=NAME`), metrics.csv with the average precisions of
each class and their mean (average_precision.py), and held_out.csv, a list for `data.labels`.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import safetensors.torch
import torch
import typer
import yaml
from average_precision import table
from multilabel_data import Part, chosen_classes, parts, write_list
from multilabel_training import Stage, Trainer, open_trainer

from evalkit.cli.script import run_script
from evalkit.config.choices import choices
from evalkit.config.schema import RunConfig
from evalkit.errors import UserError
from evalkit.files import publish, writable_folder
from evalkit.models import zoo


def main(
    overrides: Annotated[list[str], typer.Argument(help="Overrides of evalkit: model=..., data=..., and others.", metavar="OVERRIDES...")],
    out: Annotated[Path, typer.Option(help="Folder for the weights, the model's yaml and metrics.csv.")],
    name: Annotated[str, typer.Option(help="Name of the new model; default MODEL_DATA.")] = "",
    evaluate: Annotated[
        list[str] | None, typer.Option(help="Override that turns the data into the held-out data; may be repeated.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the images that is held out, without --evaluate.")] = 0.5,
    min_images: Annotated[int, typer.Option(min=1, help="Least number of images of a class, counted in both parts.")] = 1,
    head_epochs: Annotated[int, typer.Option(min=1, help="Epochs of the new layer alone.")] = 30,
    all_epochs: Annotated[int, typer.Option(min=0, help="Epochs of all layers.")] = 10,
    head_rate: Annotated[float, typer.Option(min=0, help="Largest learning rate of the new layer alone.")] = 1e-3,
    all_rate: Annotated[float, typer.Option(min=0, help="Largest learning rate of all layers.")] = 2e-5,
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 16,
    flip: Annotated[bool, typer.Option(help="Mirror each image with probability 0.5.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the order of the images, flips and dropout.")] = 0,
    conf: Annotated[Path | None, typer.Option(help="Folder of further yaml files, as of evalkit run.")] = None,
) -> None:
    """Fine-tune, evaluate after each stage, and write the model."""
    config, train, rest = parts(overrides, evaluate or [], held_out, seed, conf)
    name = name or f"{config.model.name}_{config.data['name']}"
    if name in choices("model") or "/" in name:
        raise UserError(f"--name {name}: choose a name that is no model of evalkit's and has no slash")
    classes = chosen_classes(train, rest, min_images)
    print(f"{len(classes)} classes, {len(train.positions)} images for training, {len(rest.positions)} held out", flush=True)
    writable_folder(out, "--out")
    stages = [Stage("head", head_epochs, head_rate), Stage("all", all_epochs, all_rate)]
    trainer = open_trainer(config, train, classes, batch=batch, flip=flip, seed=seed)
    settings = {"classes": classes, "stages": [str(stage) for stage in stages], "batch": batch, "flip": flip, "seed": seed}
    settings |= {"model": config.model.in_identity(), "weights": trainer.weights_hash}
    claim(out / "settings.json", settings | {"train": train.fingerprint, "held_out": rest.fingerprint})
    rows = []
    for stage in stages[: 2 if all_epochs else 1]:
        trainer.train(stage, out / f"checkpoint_{stage.name}.safetensors")
        rows += measured(trainer, rest, "held_out", stage.name, seed)
    rows += measured(trainer, train, "train", stage.name, seed)
    metrics = pd.DataFrame(rows).assign(network=name, seed=seed)
    publish(out / "metrics.csv", metrics.to_csv(index=False, float_format="%.4f").encode())
    write_list(out / "held_out.csv", rest, classes)
    write_model(out, name, trainer, config)
    for row in metrics[metrics["class"] == "mean"].to_dict("records"):
        print(f"{row['part']}, after {row['stage']}: {words(row)}")
    print(f"written: {out}/{name}.safetensors, metrics.csv, held_out.csv, model/{name}.yaml (evalkit run --conf {out} model={name})")


def claim(file: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder. Raises UserError where it was made with others."""
    given = json.loads(json.dumps(settings))
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as reason:
            raise UserError(f"{file} is damaged ({reason}): remove its folder, or give another --out") from reason
        other = [key for key in given if given[key] != before.get(key)]
        if other:
            raise UserError(f"{file.parent} was begun with other settings ({', '.join(other)}): give another --out, or the same command")
    publish(file, json.dumps(given, indent=1).encode())


def measured(trainer: Trainer, part: Part, where: str, stage: str, seed: int) -> list[dict[str, object]]:
    """Return the rows of a part for metrics.csv, with the network as it is."""
    scores = trainer.scores(part, where).double().numpy()
    return [{"part": where, "stage": stage, **row} for row in table(scores, part.truth(trainer.classes), trainer.classes, seed)]


def words(row: dict[str, Any]) -> str:
    """Return the mean average precision of a row, in percent."""
    value, low, high, random = (100 * row[key] for key in ("ap_2007", "ap_2007_low", "ap_2007_high", "ap_2007_random"))
    points, chance = 100 * row["ap"], 100 * row["ap_random"]
    return (
        f"mAP (VOC 2007) {value:.1f} [{low:.1f}, {high:.1f}], at random {random:.1f}; over all points {points:.1f}, at random {chance:.1f}"
    )


def write_model(out: Path, name: str, trainer: Trainer, config: RunConfig) -> None:
    """Write the weights, and a yaml file with which evalkit builds the same network. Raises UserError where it is not the same."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in trainer.module.state_dict().items()}
    weights = (out / f"{name}.safetensors").resolve()
    publish(weights, safetensors.torch.save(state))
    settings = config.model.model_dump(mode="json", exclude_defaults=True)
    settings |= {
        "name": name, "factory": "evalkit.models.heads.with_outputs", "weights": str(weights), "classes": trainer.classes,
        "args": {"factory": config.model.factory, "args": config.model.args, "outputs": len(trainer.classes), **vars(trainer.ending)},
        "class_map": None, "output": "sigmoid", "expected_top1": None, "expected_top1_source": None, "paper_table": None,
    }  # fmt: skip
    model = config.model.model_validate(settings)
    size = zoo.input_size(model)
    net = zoo.load(model, torch.device("cpu")).net
    images = torch.rand(2, model.channels, *size, generator=torch.Generator().manual_seed(0))
    here = trainer.run(images.to(trainer.device)).detach().cpu()
    if not torch.allclose(net(images), here, rtol=1e-3, atol=1e-3 * float(here.abs().max())):
        raise UserError(
            f"{config.model.factory} builds another network each time, so the weights do not give back the one that was trained"
        )
    publish(out / "model" / f"{name}.yaml", yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120).encode())


if __name__ == "__main__":
    run_script(main)
