"""What explain, figures and app share: a model ready for photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from evalkit import protocol
from evalkit.cli.photo_arguments import photo_command
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.methods import ablation_cam
from evalkit.photos.session import in_full, open_photo_session, open_photographs, read_photographs, remark


def config(*overrides: str):
    return compose_jobs(["model=digits_fc", "method=[ablation_cam,constant]", *overrides])[0].config


def test_probes_see_the_preprocessed_picture_and_explain_the_classes_asked_for():
    picture = Digits().load(4)
    predicted = open_photo_session(config()).probes(picture)
    assert [int(probe.targets[0]) for probe in predicted] == [int(Digits().class_keys(4)[0])]
    session = open_photo_session(config("target=[7,2]"))
    probes = session.probes(picture)
    assert [int(probe.targets[0]) for probe in probes] == [7, 2] and [session.class_name(probe) for probe in probes] == ["7", "2"]
    wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(probes[0].images, wanted)
    low = session.low_map("ablation_cam", probes[0])
    assert torch.equal(low, ablation_cam(probes[0]))
    assert torch.equal(session.map("ablation_cam", probes[0]), protocol.upsample(low, (64, 64)))
    z = probes[0].logits[0].double()
    assert session.scores(probes[0]) == f"confidence {in_full(float(z.softmax(0)[7]))}\nscore {z[7]:.2f}"
    assert session.scores(probes[0], probes[0].logits + 5, between=", ", y="y = ").endswith(f", score y = {z[7] + 5:.2f}")


def test_pictures_as_they_are_keep_their_size(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    settings = config("model=digits_gap", "model.resize=null", "model.crop=null")
    session, (picture,) = open_photographs(settings, [tmp_path / "wide.png"])
    assert session.map("ablation_cam", session.probe(picture)).shape == (1, 40, 52)


def test_precision_and_random_weights():
    session = open_photo_session(config("precision=bf16", "model.weights=null"))
    assert session.model.net.autocast == torch.bfloat16 and session.random_weights
    assert not open_photo_session(config()).random_weights


def test_remarks():
    assert remark(torch.ones(1, 2, 2)) == " (constant map)" and remark(torch.tensor([[[0.0, 1.0]]])) == ""
    assert "not finite" in remark(torch.tensor([[[torch.nan, 1.0]]]))


def test_mistakes(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match=r"cannot read .*a.png: not an image.*; .*b.png: the file is empty"):
        read_photographs([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(UserError, match="photographs have no labels"):
        open_photo_session(config("target=label"))


def test_files_and_overrides_are_told_apart(tmp_path):
    """A file may have an equals sign in its name."""
    odd = tmp_path / "model=mine.png"
    odd.write_bytes(b"")
    asked = photo_command("explain", [str(odd), "b.png", "model=digits_fc", "out=there"], tmp_path, None, methods="[grad_cam]")
    assert asked.files == [odd, type(odd)("b.png")] and str(asked.out) == "there" and list(asked.config.method) == ["grad_cam"]
    asked = photo_command("figure unit", ["b.png", "model=digits_fc"], tmp_path, None, methods=None)
    assert asked.out == tmp_path and asked.config.model.name == "digits_fc"
    with pytest.raises(UserError, match=r"figure unit draws no methods of your choice: leave out '\+method.x._target_=a.b'"):
        photo_command("figure unit", ["b.png", "model=digits_fc", "+method.x._target_=a.b"], tmp_path, None, methods=None)
