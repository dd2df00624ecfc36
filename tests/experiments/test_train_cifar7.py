"""Training of CIFAR7, on stand-ins in CIFAR-100's own file format and in that of Hugging Face `datasets`."""

import hashlib
import pickle
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
import train_cifar7
from builders import ROOT, fresh
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import CIFAR100

from evalkit.errors import UserError
from evalkit.models.cifar_nets import CIFAR7

COUNTS = {"train": 256, "test": 40}


def drawn() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N,32,32,3) and labels: noise whose mean colour tells three of the hundred classes apart."""
    rng, splits = fresh(), {}
    for split, count in COUNTS.items():
        labels = rng.choice([3, 40, 99], count)
        level = np.searchsorted([3, 40, 99], labels) * 80
        splits[split] = (rng.integers(0, 90, (count, 32, 32, 3)) + level[:, None, None, None]).astype(np.uint8), labels
    return splits


@pytest.fixture
def torchvision_folder(tmp_path, monkeypatch):
    """The files of CIFAR-100 (python version): a pickled dict a split, channels first in rows, and the names of the classes.

    torchvision compares their MD5 with those of the original; here it expects those of the stand-in.
    """
    folder, splits = tmp_path / "cifar" / "cifar-100-python", drawn()
    folder.mkdir(parents=True)
    for split, (images, labels) in splits.items():
        rows = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "fine_labels": labels.tolist()}
        (folder / split).write_bytes(pickle.dumps(rows))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]}))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in (*COUNTS, "meta")}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    return folder.parent, splits


@pytest.fixture
def hub_folder(tmp_path):
    """A data set with the columns of uoft-cs/cifar100, saved to disk."""
    splits, data = drawn(), {}
    names = datasets.ClassLabel(names=[f"c{i}" for i in range(100)])
    features = datasets.Features({"img": datasets.Image(), "fine_label": names, "coarse_label": datasets.Value("int64")})
    for split, (images, labels) in splits.items():
        columns = {"img": [Image.fromarray(image) for image in images], "fine_label": labels.tolist(), "coarse_label": [0] * len(images)}
        data[split] = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict(data).save_to_disk(str(tmp_path / "hub"))
    return tmp_path / "hub", splits


def check_tensors(found, expected):
    images, labels = expected
    torch.testing.assert_close(found[0], torch.from_numpy(images.transpose(0, 3, 1, 2) / 255).sub(0.5).div(0.5).float())
    assert found[1].tolist() == labels.tolist()


def test_torchvision_smoke_run(torchvision_folder, tmp_path, capsys):
    root, splits = torchvision_folder
    for split in COUNTS:
        check_tensors(train_cifar7.from_torchvision(root, split == "train", False), splits[split])
    train_cifar7.main(tmp_path / "net.safetensors", root=root, epochs=1)
    assert f"% of {COUNTS['test']} test images" in capsys.readouterr().out
    CIFAR7().load_state_dict(load_file(tmp_path / "net.safetensors"))


def test_hub_smoke_run(hub_folder, tmp_path, capsys):
    folder, splits = hub_folder
    for split in COUNTS:
        check_tensors(train_cifar7.from_hub(str(folder), split), splits[split])
    train_cifar7.main(tmp_path / "net.safetensors", hub=str(folder), epochs=1)
    assert f"% of {COUNTS['test']} test images" in capsys.readouterr().out
    start = torch.manual_seed(0) and CIFAR7().state_dict()
    moved = load_file(tmp_path / "net.safetensors")
    assert all(not torch.equal(moved[name], start[name]) for name in ("features.0.weight", "classifier.4.weight"))


def test_augmentation_shifts_and_flips():
    images = torch.rand(400, 3, 32, 32)
    moved, places = train_cifar7.augmented(images), []
    for before, after in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(before, (4, 4, 4, 4))
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1)  # (3,9,9,32,32)
        for flipped in (False, True):
            hit = (windows == (after.flip(2) if flipped else after)[:, None, None]).all(0).all(3).all(2).nonzero()
            places += [(flipped, *place) for place in hit.tolist()]
    assert len(places) == len(images)
    assert {flipped for flipped, *_ in places} == {False, True}
    assert {y for _, y, _ in places} == {x for *_, x in places} == set(range(9))


def test_mistakes(tmp_path, torchvision_folder):
    root, _ = torchvision_folder
    for arguments in ({}, {"root": root, "hub": "a"}):
        with pytest.raises(UserError, match=r"give --root .* or --hub"):
            train_cifar7.main(tmp_path / "net.safetensors", **arguments)
    with pytest.raises(UserError, match=r"no CIFAR-100 in .*empty.*--download"):
        train_cifar7.main(tmp_path / "net.safetensors", root=tmp_path / "empty")
    (root / "cifar-100-python" / "test").write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        train_cifar7.main(tmp_path / "net.safetensors", root=root)


def test_the_command_ends_in_one_sentence(tmp_path):
    command = [sys.executable, ROOT / "experiments" / "training" / "train_cifar7.py", "--root", tmp_path, "--out", tmp_path / "net"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "no CIFAR-100 in" in ended.stderr and "Traceback" not in ended.stderr
