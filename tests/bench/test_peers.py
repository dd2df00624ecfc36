"""The peers' table is complete, and what is timed computes the same thing."""

import pandas as pd
import torch
from builders import tiny_overrides

from evalkit.bench import peers, timing
from evalkit.bench.ablation import target_module


def overrides(folder, tmp_path):
    return [o for o in tiny_overrides(folder, tmp_path / "run") if o.startswith("model") and o != "model=custom"]


def test_table_and_figure(folder, tmp_path):
    file = tmp_path / "peers.csv"
    table = peers.bench_peers(["custom"], overrides(folder, tmp_path), batch_size=3, repeats=2, threads=1, csv_file=file)
    assert set(table.task) == {*peers.PYTORCH_GRAD_CAM, peers.EVALUATION}
    assert set(table[table.task == "grad_cam"].library) == {"evalkit", "pytorch-grad-cam", "torch-cam", "captum"}
    assert (table[table.library == "evalkit"].times_ours == 1).all() and (table.seconds_per_image > 0).all()
    assert len(pd.read_csv(file)) == len(table) and file.with_suffix(".png").stat().st_size > 0


def test_both_evaluations_find_the_same(folder, tmp_path):
    subject = timing.bench_network("custom", overrides(folder, tmp_path), 1, 1)
    targets = subject.forward().argmax(1).tolist()
    layer = target_module(subject.module, subject.net.layer)
    ours = peers._our_evaluation(subject, subject.images, targets)
    theirs = peers._their_evaluation(subject, layer, subject.images, subject.normalised, targets)
    # Grad-CAM's part: their Ablation-CAM fills with -1e7, which is another method, and win compares with it.
    assert torch.allclose(ours[[0, 1, 3, 4]], theirs[[0, 1, 3, 4]], atol=1e-5, equal_nan=True)
