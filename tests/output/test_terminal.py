"""What the terminal shows of several layers fits into 80 columns, and holds the same values as the files."""

import io
import re

import numpy as np
import pytest
from builders import fresh, holding, make_run
from rich.console import Console

from evalkit.analysis.evaluated import evaluate_run
from evalkit.evaluation.columns import MEASURES
from evalkit.layer_names import at, by_layer
from evalkit.output.tables import interval
from evalkit.output.terminal import print_tables

LAYERS = ["blocks.0", "blocks.10", "features.denseblock4.denselayer16.conv2"]
METHODS = ["grad_cam", "ablation_cam_tokens"]


def printed(run, width):
    terminal = io.StringIO()
    print_tables(Console(width=width, file=terminal), [evaluate_run(run)])
    return terminal.getvalue()


@pytest.fixture
def layered(tmp_path):
    rng = fresh()
    full = rng.uniform(1, 9, 40)
    names = [*(at(method, layer) for method in METHODS for layer in LAYERS), "random"]
    return make_run(tmp_path / "run", full, {name: full * rng.uniform(0, 1.2, 40) for name in names}, layer=LAYERS)


def test_names_are_grouped_by_layer():
    names = ["a@x", "a@y", "random", "b@x", "b@y"]
    assert by_layer(names) == {"x": ["a@x", "b@x"], "y": ["a@y", "b@y"], "": ["random"]}
    assert list(by_layer(names)) == ["x", "y", ""]
    assert by_layer(["a", "b"]) == {"": ["a", "b"]}


@pytest.mark.parametrize("width", [80, 100, 140])
def test_several_layers_fit(layered, width):
    shown = printed(layered, width)
    assert max(map(len, shown.splitlines())) <= width
    table = shown[shown.index("confidence ") : shown.index("activation ")]
    decimals = 1 if width == 80 else 2
    drops = evaluate_run(layered).summary.query("metric == 'average_drop' and score == 'confidence'").set_index("method")
    lines = [line for line in table.splitlines()[2:] if line.strip()]
    for layer, names in by_layer(layered.methods).items():
        title = lines.pop(0).strip()
        while layer and len(title) < len(layer) + 1:
            title += lines.pop(0).strip()  # a long name is folded, not cut off
        assert title == (f"@{layer}" if layer else "any layer")
        for name in names:
            line, row = lines.pop(0), drops.loc[name]
            assert line.startswith(f" {name.partition('@')[0]} ")
            assert interval(row.value, row.low, row.high, decimals) in re.sub(r" +", " ", line)
    assert not lines
    assert f"\n{at(METHODS[0], LAYERS[0])} - {at(METHODS[0], LAYERS[1])}\n" in shown  # the paired tests name them in full


def test_one_layer_keeps_its_table(tmp_path):
    full = np.linspace(1, 9, 40)
    shown = printed(make_run(tmp_path / "run", full, {"grad_cam": full / 2, "random": full / 3}, paper=None), 80)
    assert "any layer" not in shown and re.search(r"^ grad_cam +50\.00 \[50\.00, 50\.00\]", shown, re.MULTILINE)


def test_measures_that_were_asked_for_are_printed_and_explained(tmp_path):
    rng = fresh()
    full = rng.uniform(1, 9, 40)
    run = make_run(tmp_path / "run", full, {name: full * rng.uniform(0, 1.2, 40) for name in METHODS})
    assert "single deletion" not in printed(run, 80)
    maps = run.rows.drop_duplicates(["index", "method"])[["index", "image_id", "label", "target", "target_name", "method", "status"]]
    maps = maps.assign(**{**dict.fromkeys(MEASURES, np.nan), "single_deletion": rng.normal(size=len(maps)), "randomised_all": 0.25})
    identity = {
        **run.provenance["identity"],
        "measures": ["single_deletion"],
        "single_deletion": {"grid": 4, "score": "logit", "fill": "mean"},
    }
    measured = holding(run, maps=maps, provenance={**run.provenance, "identity": identity})
    found = evaluate_run(measured).measures.set_index(["method", "metric"])
    shown = printed(measured, 80)
    for method in METHODS:
        lines = [line for line in shown[shown.index("maps by single deletion") :].splitlines() if line.strip().startswith(method)]
        row = found.loc[method, "single_deletion"]
        assert interval(row.value, row.low, row.high) in lines[0] and "0.25 [0.25, 0.25]" in lines[1]
    assert "Single-deletion score: Spearman's correlation over 4 x 4 patches" in " ".join(shown.split())
