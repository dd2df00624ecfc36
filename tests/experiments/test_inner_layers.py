"""Windows at inner layers, and the shift between two methods' maps: against loops, made-up tables, and end to end on a tiny network."""

import math

import inner_layers as inner
import inner_layers_report as report
import lateral_shift as lateral
import numpy as np
import pandas as pd
import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, fresh
from safetensors.torch import save_file

from evalkit import protocol
from evalkit.analysis import resampling
from evalkit.errors import UserError
from evalkit.methods import grad_cam, spatial_ablation
from evalkit.methods.local import windows
from evalkit.models.split import SplitModel
from evalkit.probe import Probe

MODEL = """
name: tiny
factory: builders.{factory}
args: {{}}
weights: ???
seed: 0
layer: features
resize: [16, 16]
crop: null
interpolation: bilinear
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
classes: [a, b, c, d, e]
class_map: null
output: softmax
expected_top1: null
expected_top1_source: null
paper_table: null
"""


@pytest.fixture
def data(folder, tmp_path, monkeypatch):
    """What both scripts read: weights and images of a tiny network."""
    root = tmp_path / "data"
    (root / "weights").mkdir(parents=True)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for factory in (TinyFC, TinyGAP):
        save_file(factory().state_dict(), root / "weights" / f"{factory.__name__}.safetensors")
        (tmp_path / "conf" / "model" / f"{factory.__name__}.yaml").write_text(MODEL.format(factory=factory.__name__))
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    (folder / "labels.csv").write_text("file,class\n" + "".join(f"{name},{name[0]}\n" for name in pictures))
    (root / "pictures").symlink_to(folder)
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    for script in (inner, lateral):
        monkeypatch.setattr(script, "CONF", tmp_path / "conf")
    return root


def probe_of(net, layer="features"):
    return Probe(SplitModel(net.eval(), layer, mean=HALF, std=HALF), torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3), (5, 5)])
def test_windows_are_those_of_the_method(window, stride):
    height, width = (int(n) for n in fresh().integers(5, 12, 2))
    starts = inner.places(height, window, stride), inner.places(width, window, stride)
    assert torch.equal(inner.masks(starts, window, (height, width)), windows(height, width, window, stride))


def test_the_smallest_stride_that_is_affordable():
    for window, most in ((1, 64), (1, 1000), (3, 100), (3, 5), (9, 25)):
        stride = inner.smallest_stride((29, 27), window, most)
        counts = [len(inner.places(29, window, s)) * len(inner.places(27, window, s)) for s in range(1, stride + 1)]
        assert all(count > most for count in counts[:-1])
        assert counts[-1] <= most or stride == window  # larger windows must cover every cell


@pytest.mark.parametrize(("window", "most"), [(1, 64), (3, 36), (3, 9), (5, 4)])
def test_maps_are_those_of_spatial_ablation(window, most):
    probe = probe_of(TinyFC())
    heat, facts = inner.windowed(probe, window, most)
    assert facts["positions"] <= most
    expected = spatial_ablation(probe, window, facts["stride"])
    torch.testing.assert_close(heat, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    y, x = (int(n) for n in fresh().integers(0, 8, 2))
    regions = torch.zeros(1, 8, 8, dtype=torch.bool)
    regions[0, y:, x:] = True
    ablated = probe.activations.clone()
    ablated[:, :, y:, x:] = 0
    lost = probe.scores - probe.net.head(ablated)[:, probe.targets[0]]
    assert float(inner.region_drops(probe, regions)[0, 0]) == pytest.approx(float(lost[0].detach()), rel=1e-3, abs=1e-5)


def test_skipped_cells_are_interpolated():
    a, b, c, d = fresh().normal(size=4)
    y, x = np.mgrid[:11, :8]
    plane = torch.from_numpy(a + b * y + c * x + d * x * y)[None]
    rows, columns = inner.places(11, 1, 3), inner.places(8, 1, 4)
    assert rows == [0, 3, 6, 9, 10] and columns == [0, 4, 7]
    torch.testing.assert_close(inner.filled(plane[:, rows][:, :, columns], rows, columns, (11, 8)), plane)
    heat, facts = inner.windowed(probe := probe_of(TinyFC()), 1, 16)
    measured = spatial_ablation(probe)[:, [0, 3, 6, 7]][:, :, [0, 3, 6, 7]]
    torch.testing.assert_close(heat[:, [0, 3, 6, 7]][:, :, [0, 3, 6, 7]], measured, rtol=1e-3, atol=1e-5)
    assert facts == {"window": 1, "stride": 3, "positions": 16}


def made_up(n: int = 6) -> pd.DataFrame:
    """Rows of n images: the inner layer's window of 3 cells has the last layer's map, that of 1 cell the reversed one."""
    rng, rows = fresh(), []
    for index in range(n):
        last, noise = rng.normal(size=9), rng.normal(size=9)
        for row in (
            ("deep", report.CENTRE, np.nan, noise, 40.0), ("early", report.GRAD, np.nan, noise, 50.0),
            ("early", report.SPATIAL, 1, -last, 60.0 + index), ("early", report.SPATIAL, 3, 2 * last + 5, 30.0),
            ("deep", report.GRAD, np.nan, last, 20.0), ("deep", report.SPATIAL, 1, last, 20.0),
        ):  # fmt: skip
            about = dict(zip(("layer", "method", "window", "map", "drop"), row, strict=True))
            facts = {"cells": 9, "channels": 4, "stride": 1, "positions": 9, "seconds": 0.1, "largest": 2.0, "height": 3}
            rows.append({"network": "made", "index": index, **about, "map": list(about["map"]), **facts})
    return pd.DataFrame(rows)


def test_statistics_by_hand():
    found = report.statistics(made_up()).set_index(["layer", "method", "window", "measure", "against"])
    value = found.value
    at = lambda window, measure, against="": value["early", report.SPATIAL, window, measure, against]  # noqa: E731
    assert (
        at(1, report.LAST) == pytest.approx(-1) and at(3, report.LAST) == pytest.approx(1) and at(3, report.GRAD_LAST) == pytest.approx(1)
    )
    assert at(3, report.LAST, "window 1") == pytest.approx(2) and at(3, report.DROP, "window 1") == pytest.approx(30 - 62.5)
    assert at(1, report.DROP, "centre") == pytest.approx(22.5) and at(3, report.DROP, "last layer") == pytest.approx(10)
    assert at(3, report.SPECIFIC) == pytest.approx(1 - at(3, report.OTHER)) and at(1, report.OTHER) == pytest.approx(-at(3, report.OTHER))
    assert -0.9 < at(3, report.OTHER) < 0.9 and (found.n == 6).all()
    text = report.markdown(found.reset_index())
    assert "| early | spatial_ablation, window 3 | 9 / 9 | 2.0 | 1.00 [1.00, 1.00] |" in text
    assert all(len({line.count("|") for line in part.splitlines()}) == 1 for part in text.split("\n\n") if part.startswith("|"))


def test_inner_layers_end_to_end(data, tmp_path, monkeypatch):
    tiny = inner.Network("TinyFC", "TinyFC", "pictures", {"features.1": (300, 49)})
    monkeypatch.setattr(inner, "NETWORKS", {"tiny": tiny})
    out = tmp_path / "out"
    inner.main(data, out, ["tiny"], 8)
    found = pd.read_csv(out / "inner_layers.csv", keep_default_na=False)
    assert set(found[found.measure == report.DROP].n) == {8} and set(found.layer) == {"features.1", "features"}
    levels = found[(found.against == "") & (found.method == report.SPATIAL)].set_index(["layer", "window", "measure"])
    assert levels.value["features", 1, report.LAST] == 1
    assert levels.positions["features.1", 1, report.LAST] == "256" and {
        window for layer, window, _ in levels.index if layer != "features"
    } == {1, 3, 5, 7, 9}
    assert (out / "inner_layers.png").stat().st_size > 10_000 and "## tiny, 8 images" in (out / "inner_layers_tables.md").read_text()

    rows = pd.read_parquet(out / "tiny.parquet")
    row = rows[(rows.layer == "features.1") & (rows.window == 5)].sample(random_state=int(fresh().integers(2**31))).iloc[0]
    session = inner.opened("tiny", data, 8)
    image = session.model.preprocess(session.source.load(row["index"]))[None] / 255
    net = session.model.nets[0]
    probe = Probe(net, image)
    large = protocol.upsample(spatial_ablation(probe, 5, int(row.stride)), (16, 16))
    assert row["map"] == pytest.approx(
        [float(block.mean()) for part in large[0].split(2) for block in part.split(2, dim=1)], rel=1e-3, abs=1e-5
    )
    kept = protocol.Ranking(large).top(20)
    full, masked = (net(picture).double().softmax(1)[0, probe.targets[0]] for picture in (image, image * kept[:, None]))
    assert row["drop"] == pytest.approx(max(0.0, 100 * float(1 - masked / full)), abs=2)  # a tie of the ranking may move a pixel

    monkeypatch.setattr(inner, "image_rows", None)  # nothing is computed again
    before = (out / "inner_layers.csv").read_text()
    inner.main(data, out, ["tiny"], 8)
    assert (out / "inner_layers.csv").read_text() == before
    with pytest.raises(UserError, match="no network 'tinny'; did you mean 'tiny'"):
        inner.main(data, out, ["tinny"], 8)


def test_displacements_by_hand():
    rng = fresh()
    maps = torch.from_numpy(rng.random((2, 9, 12)))
    for heat, found in zip(maps, lateral.centre_of_mass(maps).tolist(), strict=True):
        total = sum(float(heat[y, x]) for y in range(9) for x in range(12))
        expected = [sum(float(heat[y, x]) * (x, y)[axis] for y in range(9) for x in range(12)) / total for axis in (0, 1)]
        assert found == pytest.approx(expected)
    right, down = (int(n) for n in rng.integers(-5, 6, 2))
    blob = torch.zeros(1, 30, 40)
    blob[0, 10:15, 12:20] = torch.from_numpy(rng.random((5, 8)) + 1)
    moved = blob.roll((down, right), (1, 2))
    assert lateral.best_shift(moved, blob).tolist() == [[right, down]]
    assert (lateral.centre_of_mass(moved) - lateral.centre_of_mass(blob))[0].tolist() == pytest.approx([right, down])
    assert lateral.best_shift(torch.zeros(1, 30, 40), blob).isnan().all() and lateral.centre_of_mass(torch.zeros(1, 3, 3)).isnan().all()


def test_a_window_noted_in_its_first_cell_shifts_the_map():
    net = TinyGAP()
    net.fc.weight.data.abs_()  # every drop is positive, so that no map is empty
    probe = probe_of(net)
    cell = 16 / 8
    noted, covering = (
        lateral.centre_of_mass(lateral.VARIANTS[name](probe, (16, 16))) for name in ("window 2, in its first cell", "evalkit, window 2")
    )
    assert float((noted - covering).mean()) == pytest.approx(-cell / 2, abs=cell / 4)  # half a cell up and to the left


def test_lateral_shift_end_to_end(data, tmp_path, monkeypatch):
    tiny = {name: lateral.Network(name, name, "pictures") for name in ("TinyFC", "TinyGAP")}
    monkeypatch.setattr(lateral, "NETWORKS", tiny)
    monkeypatch.setattr(lateral, "BATCH", 5)
    lateral.main(data, tmp_path / "out", list(tiny), 12)
    found = pd.read_csv(tmp_path / "out" / "lateral_shift.csv").set_index(["network", "variant", "measure"])
    assert set(found.cell) == {2} and {variant for _, variant, _ in found.index} == set(lateral.VARIANTS)
    pooled = found.sort_index().loc[("TinyGAP", "evalkit")]  # there both maps are CAM
    assert pooled.value.abs().max() < 1e-4
    session = inner.open_session(inner.compose_jobs([
        "model=TinyFC", f"model.weights={data}/weights/TinyFC.safetensors", "data=image_folder", f"data.root={data}/pictures",
        f"data.labels={data}/pictures/labels.csv", "method=[grad_cam]", "device=cpu",
    ], conf=inner.CONF)[0].config)  # fmt: skip
    shifts = []
    for position in session.positions:
        probe = Probe(session.model.net, session.model.preprocess(session.source.load(position))[None] / 255)
        spatial, grad = (protocol.upsample(heat.relu(), (16, 16)) for heat in (spatial_ablation(probe), grad_cam(probe)))
        shifts.append([float(lateral.centre_of_mass(heat)[0, 0]) for heat in (spatial, grad)])
    expected = [a - b for a, b in shifts if not math.isnan(a - b)]
    row = found.loc[("TinyFC", "evalkit", "mass, right")]
    assert row.n == len(expected) and row.value == pytest.approx(np.mean(expected), rel=0.02, abs=1e-3)
    with pytest.raises(UserError, match="no network 'TinyGap'; did you mean 'TinyGAP'"):
        lateral.main(data, tmp_path / "out", ["TinyGap"], 12)
