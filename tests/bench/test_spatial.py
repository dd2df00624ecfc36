"""The figures of `bench spatial` from a clock of ours, and its check against the whole network; no speed is asserted."""

import json

import pytest
from typer.testing import CliRunner

from evalkit import ablation
from evalkit.bench import timing
from evalkit.bench.spatial import _evenly, bench_spatial
from evalkit.cli.main import app
from evalkit.errors import UserError

OPTIONS = {"batch_size": 3, "repeats": 1, "threads": None, "json_file": None}


def test_command_writes_flat_keys(tmp_path):
    file = tmp_path / "figures" / "out.json"
    done = CliRunner().invoke(app, ["bench", "spatial", "--model", "digits_gap", "--repeats", "1", "--window", "3", "--json", str(file)])
    figures = json.loads(file.read_text())
    assert done.exit_code == 0 and "ratio_naive" in done.output
    assert not any(isinstance(value, dict | list) for value in figures.values())
    assert (figures["tier"], figures["channels"], figures["positions"], figures["windows"]) == (1, 64, 256, 14 * 14)


def test_naive_seconds_are_scaled_to_all_and_exact_ones_to_an_image(monkeypatch):
    clock = {"forward": [3.0], "naive_channel": [5.0, 6.0, 90.0], "naive_spatial": [2.0], "exact_channel": [6.0], "exact_spatial": [12.0]}
    clock |= {"alone_channel": [0.3], "alone_spatial": [0.6]}
    monkeypatch.setattr(timing, "take_turns", lambda *args, **kwargs: clock)
    figures = bench_spatial("digits_fc", [], window=2, stride=2, sampled=16, **OPTIONS)
    assert (figures["channels"], figures["windows"], figures["naive_channels_timed"], figures["naive_windows_timed"]) == (64, 64, 16, 16)
    assert figures["naive_channel_seconds"] == 24 and figures["naive_spatial_seconds"] == 8 and figures["ratio_naive"] == 3
    assert figures["forward_seconds"] == 1 and figures["channel_over_forward"] == 2 and figures["spatial_over_forward"] == 4
    assert figures["ratio_exact"] == figures["ratio_alone"] == 0.5


@pytest.mark.parametrize("model", ["digits_fc", "digits_gap"])
def test_exact_drops_are_those_of_the_whole_network_and_wrong_ones_would_be_seen(model, monkeypatch):
    figures = bench_spatial(model, [], window=4, stride=3, sampled=10**6, **OPTIONS)
    assert figures["naive_channels_timed"] == 64 and figures["naive_windows_timed"] == figures["windows"] == 25
    assert max(figures["largest_difference_channel"], figures["largest_difference_spatial"]) < 1e-3
    for tier in (ablation.MixOnce, ablation.ClosedForm):
        honest = tier.region_drops
        monkeypatch.setattr(tier, "region_drops", lambda self, *args, honest=honest: honest(self, *args).roll(1, dims=1))
    monkeypatch.setattr(ablation.choice, "_agrees", lambda *args: True)
    wrong = bench_spatial(model, [], window=4, stride=3, sampled=10**6, **OPTIONS)
    assert wrong["largest_difference_spatial"] > 0.1 and wrong["largest_difference_channel"] < 1e-3


def test_samples_are_different_and_spread():
    assert _evenly(1664, 16).tolist() == list(range(0, 1664, 104))
    assert _evenly(5, 16).tolist() == [0, 1, 2, 3, 4]
    assert _evenly(10, 4).tolist() == [0, 2, 5, 7]


def test_a_window_that_does_not_fit():
    with pytest.raises(UserError, match="1 <= stride <= window <= 16"):
        bench_spatial("digits_fc", [], window=17, stride=1, sampled=16, **OPTIONS)
