"""The embedded networks: their committed weights fit, and know their digits."""

import pandas as pd
import pytest
import torch
from builders import ROOT
from scipy.special import expit
from train_two_digits import accuracies

from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits, TwoDigits
from evalkit.launch.run import run_job
from evalkit.models import zoo


@pytest.mark.parametrize("name", ["digits_fc", "digits_gap"])
def test_the_committed_weights_reach_the_accuracy_that_the_config_states(name):
    config = compose_jobs([f"model={name}"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    digits = Digits()
    images = torch.stack([model.preprocess(digits.load(i)) for i in range(len(digits))]).float() / 255
    predicted = torch.cat([model.net(part).argmax(1) for part in images.split(100)])
    labels = torch.tensor([model.classes.index(*digits.class_keys(i)) for i in range(len(digits))])
    assert float((predicted == labels).double().mean() * 100) == pytest.approx(config.expected_top1, abs=0.13)  # one image
    assert sum(p.numel() for p in model.net.module.parameters()) * 4 < 5e6  # bytes of the committed file


def test_the_network_for_several_labels_reaches_the_accuracies_of_its_training():
    """Counted here by hand, and by the script that wrote them down."""
    stated = pd.read_csv(ROOT / "results" / "two_digits_training.csv").set_index("seed").loc[0]
    config = compose_jobs(["model=two_digits"])[0].config.model
    model = zoo.load(config, torch.device("cpu"))
    source = TwoDigits()
    images = torch.stack([model.preprocess(source.load(i)) for i in range(len(source))]).float() / 255
    logits = torch.cat([model.net(part) for part in images.split(100)])
    present = [{int(key) for key in source.class_keys(i)} for i in range(len(source))]
    told = [{c for c in range(10) if row[c] > 0} for row in logits.tolist()]
    found = {
        "per_label": 10 * sum(10 - len(a ^ b) for a, b in zip(present, told, strict=True)) / len(source),
        "exact_match": 100 * sum(a == b for a, b in zip(present, told, strict=True)) / len(source),
        "top1": 100 * sum(int(row.argmax()) in a for row, a in zip(logits, present, strict=True)) / len(source),
    }
    for name, percent in found.items():
        assert percent == pytest.approx(stated[f"{name}_percent"], abs=0.26)  # one image
    assert config.expected_top1 == pytest.approx(found["top1"], abs=0.26)
    labels = torch.tensor([[float(c in a) for c in range(10)] for a in present])
    assert accuracies(model.net.module, images * 2 - 1, labels) == pytest.approx(found, abs=0.26)
    assert sum(p.numel() for p in model.net.module.parameters()) * 4 < 2e6


def test_a_run_explains_both_digits_each_with_its_own_box(tmp_path):
    overrides = ["model=two_digits", "data=two_digits", "target=label", "limit=8", "workers=0", "method=[grad_cam,centre]"]
    run_job(compose_jobs([*overrides, f"out={tmp_path / 'run'}"])[0])
    rows, maps = (pd.concat(pd.read_parquet(f) for f in (tmp_path / "run" / part).glob("*.parquet")) for part in ("rows", "maps"))
    explained = rows[rows.method == "grad_cam"].groupby("index").target_name.apply(list)
    assert explained.tolist() == [list(TwoDigits().class_keys(i)) for i in range(8)]
    assert rows.prob_full.to_numpy() == pytest.approx(expit(rows.logit_full.to_numpy()))
    assert maps.energy_inside.notna().all() and maps.energy_others.notna().all()
