"""The bench prints figures and writes them; it asserts no speed, and neither does this."""

import json

import numpy as np
import pytest

from evalkit.bench.ablation import _correlation, bench_ablation


def test_flat_keys(tmp_path):
    file = tmp_path / "figures" / "out.json"
    figures = bench_ablation("digits_fc", [], batch_size=2, repeats=2, threads=None, peer=True, json_file=file)
    assert json.loads(file.read_text()) == figures
    assert {"ratio_forward", "ratio_pytorch_grad_cam", "flop_ratio_forward", "tier", "threads", "torch"} <= set(figures)
    assert not any(isinstance(value, dict | list) for value in figures.values())
    assert figures["tier"] == 2 and figures["repeats"] == 2
    assert figures["correlation_pytorch_grad_cam"] > 0.999
    assert figures["flop_ratio_forward"] > 1


def test_maps_that_are_constant_have_no_correlation():
    rising = np.arange(9.0)
    assert _correlation(rising, 2 * rising) == pytest.approx(1)
    assert _correlation(rising, np.zeros(9)) is None
