"""Methods and runs on a pretended accelerator: the CPU's numbers, no mixed devices, and few waits of the host for the device."""

import copy
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pretend
import pytest
import timm
import torch
from builders import HALF, TinyFC, TinyGAP, Untraceable, fresh, tiny_overrides
from PIL import Image
from pretend import Accelerator, Wait, table
from torch import Tensor, nn

from evalkit import Probe, SplitModel, methods
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation import loop, opening
from evalkit.evaluation.apply import apply_method
from evalkit.evaluation.rows import ShardRows
from evalkit.launch.run import run_job
from evalkit.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(bool(pretend.MISSING), reason=pretend.MISSING)


class ConvHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Hardswish())
        self.head = nn.Sequential(nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ResidualHead(TinyGAP):
    """One block in the manner of ConvNeXt behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        return self.fc((a + self.block(a)).mean((2, 3)))


METHODS = {name: getattr(methods, name) for name in methods.__all__} | {
    "occlusion": partial(methods.occlusion, window=4, stride=2),
    "ablated_input_cam mean": partial(methods.ablated_input_cam, fill="mean"),
    "ablation_cam norm": partial(methods.ablation_cam, normalise="norm"),
    "ablation_cam softmax": partial(methods.ablation_cam, drop="softmax"),
    "ablation_cam sigmoid": partial(methods.ablation_cam, drop="sigmoid"),
    "grad_cam softmax": partial(methods.grad_cam, gradient="softmax"),
    "integrated_gradients blur": partial(methods.integrated_gradients, baseline="blur", steps=4),
    "score_cam chunks": partial(methods.score_cam, batch_size=3),
    "spatial_ablation window": partial(methods.spatial_ablation, window=3, stride=2),
}
"""All methods, some with several parameters."""


def small_vit() -> nn.Module:
    """Return a transformer with a class token, in float64: in float32 the rounding of its attentions shows in small quotients."""
    return timm.models.VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2, num_classes=5).double()


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.features, self.head = nn.Conv2d(3, 7, 4, 4), nn.Linear(7, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(self.patches(x).permute(0, 2, 3, 1)).relu().square().mean((1, 2)))


def maps_or_refusal(name, net, images) -> Tensor | str:
    try:
        return apply_method(name, METHODS[name], Probe(net, images)).cpu()
    except UserError as reason:
        return str(reason)


NETWORKS = [
    (TinyGAP, "features", 1), (TinyFC, "features", 2), (ConvHead, "features", 2), (ResidualHead, "features", 3),
    (Untraceable, "features", 3), (small_vit, "blocks.1", 2), (ChannelsLast, "features", 3),
]  # fmt: skip


@pytest.mark.parametrize(("factory", "layer", "tier"), NETWORKS)
def test_every_method_gives_the_maps_of_the_cpu_and_hardly_waits(factory, layer, tier):
    module, images = factory().eval().requires_grad_(False), torch.rand(3, 3, 16, 16)
    expected = {name: maps_or_refusal(name, SplitModel(module, layer, mean=HALF, std=HALF), images) for name in METHODS}
    waits = {}
    with Accelerator() as accelerator:
        net = SplitModel(copy.deepcopy(module).to(pretend.DEVICE), layer, mean=HALF, std=HALF)
        assert Probe(net, images).tier.number == tier  # chosen here, with the waits of its checks
        if isinstance(expected["guided_backprop"], Tensor):
            maps_or_refusal("guided_backprop", net, images)  # rewrites the network once
        for name, maps in expected.items():
            with accelerator.counting() as counted:
                actual = maps_or_refusal(name, net, images)
            waits[name] = sum(count for wait, count in counted.items() if wait.method)
            if isinstance(maps, str):
                assert actual == maps
            else:
                torch.testing.assert_close(actual, maps, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert sum(isinstance(maps, Tensor) for maps in expected.values()) >= len(METHODS) - 5
    if factory is not Untraceable:  # its own forward pass reads a value
        captum = {name: count for name, count in waits.items() if name.startswith("integrated")}
        assert {name: count for name, count in waits.items() if count and name not in captum} == {
            "eigen_cam": 1, "score_cam": 1, "score_cam chunks": 1
        }, table(accelerator.waits)  # fmt: skip


class Counted:
    """A run on the accelerator: its folder, and the waits of each batch and of each shard's end."""

    def __init__(self, overrides, monkeypatch, progress=None) -> None:
        self.batches: list[Counter[Wait]] = []
        self.shards: list[Counter[Wait]] = []
        (job,) = compose_jobs(overrides)
        with Accelerator() as self.accelerator, monkeypatch.context() as patch:
            patch.setattr(opening, "pick_device", lambda name, local_rank=0: pretend.DEVICE)
            patch.setattr(loop, "evaluate", self._counting(self.batches, loop.evaluate))
            patch.setattr(ShardRows, "tables", self._counting(self.shards, ShardRows.tables))
            self.folder: RunFolder = run_job(job, progress)

    def _counting(self, waits, function):
        def counted(*args):
            with self.accelerator.counting() as one:
                result = function(*args)
            waits.append(one)
            return result

        return counted

    def outside_methods(self) -> list[Counter[Wait]]:
        return [Counter({wait: count for wait, count in waits.items() if not wait.method}) for waits in self.batches]


def assert_same(run: RunFolder, expected: RunFolder) -> None:
    """Rows equal but for rounding; those whose masks rounding may change are left out."""
    rows, of_the_cpu = run.rows(), expected.rows()
    stable = (of_the_cpu.rank_gap.isna() | (of_the_cpu.rank_gap >= 1e-5)).to_numpy()
    pd.testing.assert_frame_equal(rows[stable], of_the_cpu[stable], rtol=1e-4, atol=1e-6)
    maps, maps_of_the_cpu = (load_runs([folder.path])[0].maps for folder in (run, expected))
    pd.testing.assert_frame_equal(maps, maps_of_the_cpu, rtol=1e-4, atol=1e-6)


FEW = ["method=[grad_cam]", "protocol.top_percent=[20]"]
MANY = [
    "method=[ablation_cam,grad_cam,score_cam,random,centre]",
    "protocol.select=[keep_top,remove_top,soft]", "protocol.fill=[black,mean,blur]", "protocol.top_percent=[20,50]",
]  # fmt: skip


@pytest.fixture
def everything(folder, tmp_path):
    """Labels, of which some images have two; boxes; stored maps; coherency; and all of MANY."""
    labels, boxes = ["file,class"], ["file,w,h,class,x1,y1,x2,y2"]
    for name, other in zip("abc", "bca", strict=True):
        for i in range(4):
            labels += [f"{name}/{i}.png,{name}", *([f"{name}/{i}.png,{other}"] if i < 2 else [])]
            boxes += [f"{name}/{i}.png,20,16,{name},5,4,15,12", f"{name}/{i}.png,20,16,b,15,4,20,12"]
    for file, lines in (("labels.csv", labels), ("boxes.csv", boxes)):
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    data = [f"data.labels={tmp_path / 'labels.csv'}", f"data.boxes={tmp_path / 'boxes.csv'}", "target=label"]
    return [*tiny_overrides(folder, tmp_path / "cpu"), *MANY, *data, "maps=store", "measures=[coherency]", "batch_size=2", "limit=8"]


def on_the_cpu(overrides) -> RunFolder:
    (job,) = compose_jobs(overrides)
    return run_job(job)


def test_an_interrupted_run_with_everything_resumes_to_the_rows_and_maps_of_the_cpu(everything, tmp_path, monkeypatch):
    expected = on_the_cpu(everything)
    overrides = [*everything, f"out={tmp_path / 'device'}"]
    finished = []

    def stop_in_the_second_shard(images: int) -> None:
        finished.append(images)
        if len(finished) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Counted(overrides, monkeypatch, stop_in_the_second_shard)
    assert RunFolder(tmp_path / "device").missing(maps=True) == [1]
    resumed = Counted(overrides, monkeypatch)
    assert_same(resumed.folder, expected)
    for shard in range(2):
        stored, of_the_cpu = (np.stack(run.stored_maps(shard)[0]["map"].to_pylist()) for run in (resumed.folder, expected))
        assert np.allclose(stored, of_the_cpu, rtol=1e-4, atol=1e-5)
    assert not any(resumed.outside_methods()), table(resumed.outside_methods()[-1])
    assert {sum(waits.values()) for waits in resumed.shards} == {8}, table(resumed.shards[0])


@pytest.mark.parametrize(
    "extra",
    [["target=predicted"], ["images=correct", "target=label"], ["target=label"], ["target=[a,b]"]],
    ids=" ".join,
)
def test_the_number_of_methods_and_points_adds_no_waits(folder, tmp_path, monkeypatch, extra):
    predicts = [("evaluation/targets.py", "explained", 1)] if {"target=predicted", "images=correct"} & set(extra) else []
    for name, chosen in (("few", FEW), ("many", MANY)):
        overrides = [*tiny_overrides(folder, tmp_path / name), *chosen, *extra, "batch_size=2", "limit=8"]
        run = Counted(overrides, monkeypatch)
        for waits in run.outside_methods():
            assert [(wait.file, wait.function, count) for wait, count in waits.items()] == predicts, table(waits)
        assert {sum(waits.values()) for waits in run.shards if waits} == {7}, table(run.shards[0])
    assert_same(run.folder, on_the_cpu([*overrides, f"out={tmp_path / 'cpu'}"]))


def test_several_layers_and_their_fused_maps(folder, tmp_path, monkeypatch):
    several = ["model.layer=[features.0,features.1,features]", "model.fuse=mean", "maps=store", "measures=[coherency]"]
    overrides = [*tiny_overrides(folder, tmp_path / "device"), *MANY, *several, "batch_size=2", "limit=8"]
    run = Counted(overrides, monkeypatch)
    for waits in run.outside_methods():
        assert [(wait.file, wait.function, count) for wait, count in waits.items()] == [("evaluation/targets.py", "explained", 1)]
    later = run.batches[-1]  # the first batch chooses each layer's tier
    assert {wait.method.partition("@")[0] for wait in later} == {"", "score_cam"}, table(later)
    expected = on_the_cpu([*overrides, f"out={tmp_path / 'cpu'}"])
    assert "grad_cam@mean" in set(expected.rows().method)
    assert_same(run.folder, expected)


def test_tokens(folder, tmp_path, monkeypatch):
    overrides = [*tiny_overrides(folder, tmp_path / "cpu", "test_accelerator.small_vit"), *MANY, "batch_size=2", "limit=8"]
    overrides += ["model.layer=blocks.1"]
    expected = on_the_cpu(overrides)
    run = Counted([*overrides, f"out={tmp_path / 'device'}"], monkeypatch)
    assert_same(run.folder, expected)
    for waits in run.outside_methods():
        assert [(wait.file, wait.function, count) for wait, count in waits.items()] == [("evaluation/targets.py", "explained", 1)]
    assert {wait.method for wait in run.batches[-1]} == {"", "score_cam"}, table(run.batches[-1])


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_pictures_give_the_rows_of_the_cpu(tmp_path, monkeypatch, bits):
    """In batches of floats the host waits once more, to learn that they lie in [0,1]."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(6):
        deep = fresh().integers(0, 65536, (40, 48), dtype=np.uint16)
        Image.fromarray(deep if bits == 16 and i % 2 else (deep >> 8).astype(np.uint8)).save(tmp_path / "set" / "a" / f"{i}.png")
    grey = ["model.channels=1", "model.mean=[0.4]", "model.std=[0.3]", "model.resize=[32,40]", "+model.args.classes=5"]
    overrides = [*tiny_overrides(tmp_path / "set", tmp_path / "cpu", "builders.TinyChannels"), *MANY, *grey, "batch_size=2"]
    expected = on_the_cpu(overrides)
    run = Counted([*overrides, f"out={tmp_path / 'device'}"], monkeypatch)
    assert_same(run.folder, expected)
    assert set(expected.rows().status) <= {"ok", "degenerate"}
    for waits in run.outside_methods():
        counted = {wait.function: count for wait, count in waits.items()}
        assert counted == {"explained": 1, **({"_checked": 1} if bits == 16 else {})}, table(waits)


def test_the_pretended_accelerator_itself():
    with Accelerator() as accelerator:
        x = torch.arange(6.0).view(2, 3).to(pretend.DEVICE, non_blocking=True)
        assert x.device == pretend.DEVICE and not accelerator.waits
        for mixed in (
            lambda: x + torch.ones(2, 3),
            lambda: x.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
            lambda: torch.cat([x, x.cpu()]),
        ):
            with pytest.raises(RuntimeError, match="tensors of pretend:0 and cpu"):
                mixed()
        waits = {
            "float": lambda: float(x.sum()), "if": lambda: bool(x.any()), "tolist": x.tolist, "cpu": x.cpu, "mask": lambda: x[x > 2],
            "number": lambda: x[x[0, 1].long()], "host": lambda: x[[0, 1]], "upload": lambda: torch.ones(3).to(x),
            "copy": lambda: x.clone().copy_(torch.ones(2, 3)), "equal": lambda: torch.equal(x, x),
        }  # fmt: skip
        free = [
            lambda: x + 1,
            lambda: torch.where(x > 2, x, 0),
            lambda: x[x[0].long().clamp(max=1)],
            lambda: x.clone().zero_(),
            lambda: x[0],
        ]
        for name, wait in waits.items():
            with accelerator.counting() as counted:
                wait()
            assert sum(counted.values()) == 1, name
        with accelerator.counting() as counted:
            assert all(call().device == pretend.DEVICE for call in free)
        assert not counted


@pytest.mark.parametrize("output", ["binary", "raw"])
def test_runs_of_networks_with_one_output(folder, tmp_path, monkeypatch, output):
    def overrides(out):
        more = ["+model.args.classes=1", "model.classes=null", f"model.output={output}", "model.score=theirs.doubled"]
        return [*tiny_overrides(folder, tmp_path / out), *more]

    (job,) = compose_jobs(overrides("cpu"))
    expected = run_job(job)
    counted = Counted(overrides("device"), monkeypatch)
    assert_same(counted.folder, expected)
    assert counted.folder.rows().prob_full.isna().all() == (output == "raw")
