"""The chain on COCO photographs, in small: two seeds, one table, the study and the figure of the first."""

import json
from pathlib import Path

import multilabel_coco
import pandas as pd
import torch
from builders import save_pictures
from PIL import Image

from evalkit.config.compose import compose_jobs
from evalkit.data.decode import decode
from evalkit.models import zoo


def test_two_seeds_a_table_a_study_and_a_figure(tmp_path: Path, reachable):
    pictures = save_pictures(tmp_path / "pictures")
    lines = [
        f"{path.relative_to(pictures)},20,16,{label},1,1,9,9"
        for path in sorted(pictures.rglob("*.png"))
        for label in ("cup", path.parent.name)
    ]
    (pictures / "boxes.csv").write_text("\n".join(["file,w,h,class,x1,y1,x2,y2", *lines]) + "\n")
    data = ["data=image_folder", f"data.root={pictures}"]
    net = ["model=custom", "model.factory=builders.TinyFC", "model.layer=features", "model.resize=[16,16]", "workers=0"]
    labelled = [*data, f"data.labels={pictures}/boxes.csv"]
    multilabel_coco.finetune([*net, *labelled], tmp_path, 2, min_images=4, head_epochs=1, all_epochs=1, conf=None)
    found = pd.read_csv(tmp_path / "multilabel.csv")
    assert set(found.seed) == {0, 1} and set(found["class"]) <= {"a", "b", "c", "cup", "mean"}
    held_out = pd.read_csv(tmp_path / "seed0" / "held_out.csv")
    assert (found[(found.seed == 0) & (found.part == "held_out")].images == 6).all() and held_out.file.nunique() == 6
    multilabel_coco.study([*data, f"data.boxes={pictures}/boxes.csv", "workers=0"], tmp_path)
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    assert key["contestants"] == ["guided_ablation_cam", "guided_grad_cam"] and key["items"]
    sizes = {item["image_id"] for item in key["items"].values()}
    assert sizes <= set(held_out.file) and all(
        item["energy_inside"] is None or 0 <= item["energy_inside"] <= 1 for item in key["items"].values()
    )

    shown = []
    for colour in ("red", "green", "blue"):
        shown.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (16, 16), colour).save(shown[-1])
    best = multilabel_coco.draw(shown, tmp_path / "seed0" / "..")
    loaded = zoo.load(compose_jobs([f"model={multilabel_coco.NAME}"], conf=tmp_path / "seed0")[0].config.model, torch.device("cpu"))
    images = torch.stack([loaded.preprocess(decode(file)) for file in shown]) / 255
    second = loaded.net(images).sort(1, descending=True).values[:, 1]
    assert best == shown[int(second.argmax())] and (tmp_path / f"{best.stem}-saturation.png").exists()
