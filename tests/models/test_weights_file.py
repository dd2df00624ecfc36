"""Files in which somebody hopes to have weights: read as tensors alone, or told what they are."""

import argparse
import pickle
import subprocess
import tarfile
from collections import OrderedDict, defaultdict, deque
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import TinyGAP
from omegaconf import OmegaConf
from safetensors.torch import save_file

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import weights_file, zoo

CONTENTS = {
    "numpy scalar": np.float64(0.5),
    "numpy array": np.zeros(3),
    "Namespace": argparse.Namespace(lr=0.1, data=Path("x")),
    "OmegaConf": OmegaConf.create({"a": [1]}),
    "time": datetime(2020, 1, 1),
    "Decimal": Decimal(1),
    "defaultdict": defaultdict(list, a=[1]),
    "deque": deque([1, 2]),
}


class Attacks:
    """Runs a command where it is unpickled as pickle unpickles."""

    def __init__(self, command: str, function: object) -> None:
        self.command, self.function = command, function

    def __reduce__(self):
        return self.function, (self.command,)


class Settings(dict):
    """A mapping of a type of its own, as configuration libraries have them."""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_what_else_a_checkpoint_holds_is_left_out(tmp_path, name, old):
    state = TinyGAP().state_dict()
    content = {"args": CONTENTS[name], "best": [CONTENTS[name]], "model": state, "epoch": 3}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    read = weights_file.read(tmp_path / "w.pth")
    assert read["epoch"] == 3 and all(map(torch.equal, read["model"].values(), state.values()))
    assert isinstance(read["args"], weights_file.Unread | dict | list | type)


@pytest.mark.parametrize("old", [False, True])
def test_no_code_of_a_file_is_run(tmp_path, old):
    for number, function in enumerate((eval, exec, subprocess.run, __import__("os").system)):
        attack = Attacks(f"open({str(tmp_path / 'attacked')!r}, 'w')" if number < 2 else f"touch {tmp_path / 'attacked'}", function)
        torch.save({"model": TinyGAP().state_dict(), "x": attack}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        try:
            weights_file.read(tmp_path / "w.pth")
        except UserError as refused:
            assert "\n" not in str(refused)
        assert not (tmp_path / "attacked").exists()
    attack = Attacks(f"touch {tmp_path / 'attacked'}", __import__("os").system)
    pickle.loads(pickle.dumps(attack))  # it is real
    assert (tmp_path / "attacked").exists()


def settings(file: Path, factory: str = "builders.TinyGAP"):
    network = [f"model.factory={factory}", "model.layer=features", f"model.weights={file}", "model.resize=[16,16]"]
    return compose_jobs(["model=custom", *network])[0].config.model


def refused(file: Path) -> str:
    with pytest.raises(UserError) as error:
        overrides = [
            "model=custom",
            "model.factory=builders.TinyGAP",
            "model.layer=features",
            f"model.weights={file}",
            "model.resize=[16,16]",
        ]
        zoo.build(compose_jobs(overrides)[0].config.model)
    said = str(error.value)
    assert said.isprintable() and "Re-running" not in said and str(file) in said
    return said


@pytest.mark.parametrize("old", [False, True])
def test_whole_networks_and_types_of_their_own(tmp_path, old):
    def saved(content: object) -> str:
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        return refused(tmp_path / "w.pth")

    by_hand = "where you trust it, torch.save(torch.load('w.pth', weights_only=False)"
    assert f"save model.state_dict() instead of model; {by_hand}.state_dict(), 'weights.pth')" in saved(TinyGAP())
    assert "holds a whole network" in saved({"epoch": 1, "model": TinyGAP()})
    content = {"config": Settings(a=1), "model": TinyGAP().state_dict()}
    assert f"an object of {__name__}.Settings, which cannot be loaded" in saved(content)
    arrays = OrderedDict((name, value.numpy()) for name, value in TinyGAP().state_dict().items())
    assert "holds no state dict, which maps names to tensors, but features.0.weight: numpy array" in saved(arrays)
    mixed = {"model": TinyGAP().state_dict() | {"fc.bias": np.zeros(5)}}
    assert f"fc.bias: numpy array instead of 5); {by_hand}['model']" in saved(mixed)


def test_unread_objects_do_not_reach_a_networks_extra_state(tmp_path):
    torch.save({**TinyGAP().state_dict(), "_extra_state": {"scale": np.float32(2)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"_extra_state: dict instead of dict.*; where you trust it"):
        zoo.build(settings(tmp_path / "w.pth", "theirs.ExtraState"))


BYTES = {
    "empty": (b"", "it is empty"),
    "page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page, not the file that its address promised"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 5\n", "a pointer of Git LFS: `git lfs pull`"),
    "text": (b"hello\nthere\n", "a text file that begins with 'hello'"),
    "json": (b'{"weight_map": {}}', "a text file that begins with '{"),
    "zeros": (bytes(5000), "full of zeros"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a picture"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file, as Keras"),
    "numpy": (b"\x93NUMPY" + bytes(50), "an array of numpy"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + b"\xff" * 50, "an ONNX file"),
    "index": (b"\x00\x01\xff" * 30 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "part of a checkpoint of TensorFlow"),
    "checkpoint": (b'model_checkpoint_path: "x"', "part of a checkpoint of TensorFlow"),
    "gzip": (b"\x1f\x8b\x08" + bytes(50), "compressed by gzip: unpack it"),
    "noise": (b"\xfe\x9d\x00\x81" * 30, "of no known format (model.weights takes a state dict"),
    "pickle": (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
}


@pytest.mark.parametrize("name", BYTES)
def test_other_files_are_told_by_their_content(tmp_path, name):
    content, says = BYTES[name]
    (tmp_path / "w.pth").write_bytes(content)
    assert says in refused(tmp_path / "w.pth")


def test_archives_that_hold_something_else(tmp_path):
    torch.jit.trace(TinyGAP().eval(), torch.rand(1, 3, 16, 16)).save(tmp_path / "script.pt")
    assert "a TorchScript archive, whose layers cannot be cut: save the state_dict()" in refused(tmp_path / "script.pt")
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "an archive of numpy arrays" in refused(tmp_path / "w.npz")
    with tarfile.open(tmp_path / "w.pth.tar", "w") as archive:
        archive.add(tmp_path / "w.npz", "w.npz")
    assert "a tar archive: unpack it" in refused(tmp_path / "w.pth.tar")


@pytest.mark.parametrize(("save", "kept"), [(torch.save, 0.5), (torch.save, 0.99), (save_file, 0.9), (save_file, 0.05)])
def test_files_that_were_cut_off(tmp_path, save, kept):
    save(TinyGAP().state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(len(content) * kept)])
    assert refused(tmp_path / "w.pth").split(": ")[1].startswith(("its end is missing", "it is incomplete or damaged"))
    torch.save(TinyGAP().state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(len(content) * kept)])
    assert "it is incomplete or damaged" in refused(tmp_path / "w.pth")


def test_folders(tmp_path):
    for name, inside, says in (
        ("savedmodel", "saved_model.pb", "a SavedModel of TensorFlow"),
        ("distributed", ".metadata", "a distributed checkpoint: torch.distributed.checkpoint.format_utils.dcp_to_torch_save"),
        ("unpacked", "data.pkl", "a file of torch.save that was unpacked"),
        ("hub", "model.safetensors", "a folder: give the file in it (model.safetensors)"),
        ("nothing", "notes.txt", "a folder: give the file in it (there is none)"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / inside).touch()
        assert says in refused(tmp_path / name)
    (tmp_path / "model.ckpt.index").touch()
    assert "a checkpoint of TensorFlow" in refused(tmp_path / "model.ckpt")
