"""What tests are made of: small networks, pictures, runs and their folders, names that mean harm."""

import io
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evalkit.analysis.load import load_runs
from evalkit.analysis.rows import Rows, read_part
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.launch.run import run_job
from evalkit.launch.start import start_job
from evalkit.runs import shards
from evalkit.runs.folder import RunFolder, Shard
from evalkit.runs.identity import Identity

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("EVALKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
HALF = (0.5, 0.5, 0.5)
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="real images and weights are absent: set EVALKIT_TEST_DATA to their folder")


def fresh() -> np.random.Generator:
    """Make a generator of inputs that differ from run to run and follow the session's seed."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def fresh_random() -> random.Random:
    """Make Python's own generator, which follows the session's seed too."""
    return random.Random(int(torch.randint(2**62, ())))


def from_pool(
    original: Callable[..., Tensor], draw: Callable[..., Tensor], scale: Callable[[float, float], float]
) -> Callable[..., Tensor]:
    """Make a faster `normal_` or `uniform_`, which fills large tensors piece by piece from random positions of one pool."""
    piece = 2**20
    pool = draw(2 * piece, generator=torch.Generator().manual_seed(0))

    def fill(tensor: Tensor, first: float = 0.0, second: float = 1.0, **options: Any) -> Tensor:
        if tensor.is_meta or tensor.numel() < piece // 64 or not tensor.is_contiguous():
            return original(tensor, first, second, **options)
        for part in tensor.detach().view(-1).split(piece):
            start = int(torch.randint(piece, ()))
            torch.add(torch.tensor(float(first)), pool[start : start + len(part)], alpha=scale(first, second), out=part)
        return tensor

    return fill


class TinyGAP(nn.Module):
    """Convolution, BatchNorm, ReLU; global average pooling; one linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class TinyFC(nn.Module):
    """The same convolutions under two fully connected layers, for 16x16 images."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 8, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class TinyDouble(TinyFC):
    """The same in float64, where rounding does not swap scores of a few images."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes)
        self.double()


class TinyChannels(nn.Module):
    """Convolutions for images of any size and number of channels; global average pooling; one linear layer."""

    def __init__(self, channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(4), nn.Conv2d(8, 6, 3), nn.ReLU()
        )
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Pointwise(nn.Module):
    """Ends as SqueezeNet does: a 1x1 convolution, a ReLU, the mean over all positions."""

    def __init__(self, *ending: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(6, 4, 1), *(ending or (nn.ReLU(),)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).mean((2, 3))


class PointwiseHighest(Pointwise):
    """Takes the highest position, so that the mean of the features does not give the scores."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).amax((2, 3))


class NaNNet(TinyGAP):
    """Puts out NaN for an all-black image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.where(x.mean((1, 2, 3), keepdim=False) < -0.999, torch.nan, 1.0)[:, None]


class Untraceable(TinyGAP):
    """Branches on its data, which symbolic tracing cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if float(x.sum()) > 1e9 else x)


def save_pictures(folder: Path) -> Path:
    """Save twelve 20x16 pictures in the class folders a, b and c."""
    rng = np.random.default_rng(0)
    for name in "abc":
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


VOC_OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>0</truncated><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
)
VOC_OBJECTS = {  # class, difficult, then the first and last pixel in x and y, counted from 1
    "000001": [("dog", 0, 1, 1, 8, 16), ("person", 0, 11, 3, 20, 16)],
    "000002": [("dog", 0, 2, 2, 9, 9), ("dog", 1, 11, 11, 20, 16), ("cat", 1, 3, 3, 3, 8)],
    "000003": [("person", 0, 5, 5, 15, 15), ("cat", 0, 16, 1, 20, 9)],
    "000004": [("cat", 1, 1, 1, 20, 16)],
    "000005": [("cat", 0, 1, 1, 10, 16), ("person", 0, 12, 1, 20, 16)],
    "000006": [("cat", 0, 4, 4, 12, 12), ("dog", 0, 13, 1, 20, 16), ("cat", 0, 1, 1, 2, 2)],
}
COLOURS = {"dog": (220, 40, 40), "person": (40, 220, 40), "cat": (40, 40, 220)}


def save_voc(parent: Path, year: int = 2007) -> Path:
    """Save 6 pictures of 20x16 as an archive of VOC unpacks: train has the first 3, val the others; objects are coloured."""
    rng, folder = np.random.default_rng(0), parent / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name, objects in VOC_OBJECTS.items():
        pixels = rng.integers(0, 60, (16, 20, 3), dtype=np.uint8)
        for label, _, x1, y1, x2, y2 in objects:
            pixels[y1 - 1 : y2, x1 - 1 : x2] = COLOURS[label]
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        size = "<size><width>20</width><height>16</height><depth>3</depth></size>"
        inside = "".join(VOC_OBJECT.format(*thing) for thing in objects)
        text = f"<annotation><filename>{name}.jpg</filename>{size}{inside}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    names = list(VOC_OBJECTS)
    for split, chosen in (("train", names[:3]), ("val", names[3:]), ("trainval", names)):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
    return folder


def tiny_overrides(folder: Path, out: Path, factory: str = "builders.TinyFC") -> list[str]:
    """A whole run of a tiny random network on the pictures of `folder`."""
    classes = out.parent / "classes.txt"
    classes.write_text("a\nb\nc\nd\ne\n")
    return [
        "model=custom", f"model.factory={factory}", "model.layer=features", "model.resize=[16,16]", f"model.classes={classes}",
        "data=image_folder", f"data.root={folder}", f"out={out}", "workers=0", "batch_size=5", "shard_size=4",
        "method=[ablation_cam,grad_cam,random,constant,centre]", "protocol.top_percent=[20,50]",
    ]  # fmt: skip


ESCAPE = "\x1b[2J\x1b]0;owned\x07"
HOSTILE = f"<script>alert(1)</script>[x](javascript:x)![y](http://z/y.png)|[red]$\\frac$ {ESCAPE}\n# title\u202e"
METHODS = ("ablation_cam", "grad_cam", "centre")
FULL = np.array([4.0, 2.0, 5.0, -1.0])
MASKED = {
    "ablation_cam": np.array([3.0, 3.0, 5.0, -2.0]),
    "grad_cam": np.array([2.0, 2.5, 4.0, -1.5]),
    "centre": np.array([1.0, 1.0, 1.0, -4.0]),
}


def make_run(
    path,
    full,
    masked,
    *,
    status=None,
    select="keep_top",
    top=20.0,
    fill="black",
    model="vgg16",
    fingerprint="f",
    paper="table1",
    layer="l",
    code=None,
    seconds=None,
    settings=None,
    data="set",
    asked=None,
    record=None,
    images=None,
    left_out=0,
):
    """A run folder from scores: full (n,), masked {method: (n,)}; confidence is score / 10.

    `asked` are further facts of its identity and `record` of its provenance; of `images`, the n are the first shard.
    """
    facts = {
        "model": {"name": model, "layer": layer, "weights_hash": "h"}, "data": {"name": data, "fingerprint": fingerprint},
        "method": {key: settings or {} for key in masked},
        "target": "predicted", "sample": None, "limit": None,
        "images": "all", "code": code or {}, **(asked or {}),
    }  # fmt: skip
    folder = RunFolder(path)
    known = {"weights": "w", "expected_top1": None, "expected_top1_source": None, "paper_table": paper, **(record or {})}
    folder.create_or_resume(Identity(facts), known, "", images or len(full), len(full) if images else 512)
    rows = []
    for i, y in enumerate(full):
        for method, scores in masked.items():
            rows.append({
                "index": i, "image_id": f"{i}.png", "label": i % 3, "predicted": 0, "target": 0, "method": method, "select": select,
                "top_percent": top, "fill": fill, "kept_fraction": 0.2, "positive_fraction": 0.5, "rank_gap": 0.1, "prob_full": y / 10,
                "prob_masked": scores[i] / 10, "logit_full": y, "logit_masked": scores[i], "status": (status or {}).get((i, method), "ok"),
                "error": None,
            })  # fmt: skip
    metadata = {"code": "c", "seconds": 2.0, "left_out": left_out, "seconds_per_method": seconds or {}}
    folder.write_shard(0, pa.Table.from_pylist(rows, schema=ROWS), MAPS.empty_table(), metadata)
    return load_runs([path], allow_incomplete=True)[0]


def run_of(folder, full, masked, **options):
    """One run at several protocol points: `masked` maps (select, top, fill) to the scores of each method."""
    runs = [
        make_run(folder / f"{i}", full, of, select=select, top=top, fill=fill, paper=None, **options)
        for i, ((select, top, fill), of) in enumerate(masked.items())
    ]
    return holding(runs[0], rows=pd.concat([run.rows for run in runs], ignore_index=True))


class Tables:
    """A stand-in for a RunFolder whose only shard is given."""

    shards = range(1)

    def __init__(self, rows: pd.DataFrame, maps: pd.DataFrame) -> None:
        tables = zip((rows, maps.assign(map=None)), (ROWS, MAPS), strict=True)
        self._tables = [pa.Table.from_pandas(table.reindex(columns=schema.names), schema, preserve_index=False) for table, schema in tables]

    def finished(self):
        yield Shard(0, *self._tables, {})

    def each(self, function):
        yield function(Shard(0, *(table.cast(shards.coded_schema(table.schema)) for table in self._tables), {}))

    def columns(self, shard, names, *, maps=False):
        table = self._tables[maps].select(names)
        return table.cast(shards.coded_schema(table.schema))


def holding(run, *, rows=None, maps=None, **facts):
    """The same run with other rows, or other maps, and other `facts` of it."""
    part = read_part(Tables(run.rows if rows is None else rows, run.maps if maps is None else maps))
    changed = replace(run, **facts)
    return replace(changed, table=Rows([part], changed.methods))


def steady(full, better=0.9, worse=0.6):
    """Scores of a method that is better on every image, and of one that is worse."""
    return {"ablation_cam": full * better, "grad_cam": full * worse}


def finished_rows(overrides) -> pd.DataFrame:
    (job,) = compose_jobs(overrides)
    return run_job(job).rows()


def launched(overrides, progress=lambda _: None):
    (job,) = compose_jobs(overrides)
    announced = []
    folder = start_job(job, progress, lambda *counts: announced.append(counts))
    return folder, announced


def alone(overrides, out: Path) -> pd.DataFrame:
    (job,) = compose_jobs([*overrides, f"out={out}", "devices=1"])
    return run_job(job).rows()


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


class Patches(nn.Module):
    """Blocks over 4 x 5 patches with a class token in `front`, at the `end`, or with registers; some tokens may be dropped between."""

    def __init__(
        self, place: str = "front", pool: str = "token", kept: int | None = None, extra: int = 1, tokens_first: bool = False
    ) -> None:
        super().__init__()
        self.embed, self.cls_token = nn.Conv2d(3, 12, 8, stride=8), nn.Parameter(torch.randn(1, extra, 12))
        layers = (nn.TransformerEncoderLayer(12, 2, 16, batch_first=not tokens_first, dropout=0.0) for _ in range(3))
        self.blocks, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(12), nn.Linear(12, 4)
        self.place, self.pool, self.kept, self.tokens_first = place, pool, kept, tokens_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        extra = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat([extra, x] if self.place == "front" else [x, extra], 1)
        x = x.transpose(0, 1) if self.tokens_first else x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.kept and number == 0:
                x = x[:, : 1 + self.kept]
        x = self.norm(x.transpose(0, 1) if self.tokens_first else x)
        if self.pool == "mean":
            return self.head((x[:, self.cls_token.shape[1] :] if self.place == "front" else x[:, : -self.cls_token.shape[1]]).mean(1))
        return self.head(x[:, 0] if self.place == "front" else x[:, -1])
