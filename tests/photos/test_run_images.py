"""Pictures of a finished run show what its network saw."""

import base64
import io

import numpy as np
import pytest
import torch
import yaml
from builders import fresh, tiny_overrides
from PIL import Image

from evalkit.analysis.load import at_point, load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.models import zoo
from evalkit.photos import pictures
from evalkit.photos.run_images import RunImages

EVERY_POINT = ["protocol.select=[keep_top,remove_top,soft]", "protocol.fill=[black,mean,blur]", "maps=store"]
ROAD = ["protocol.select=[keep_top,remove_top]", "protocol.fill=road", "maps=store"]


@pytest.fixture
def made(folder, tmp_path, request):
    """The run of a job on 16x16 pictures, and its network."""
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), *getattr(request, "param", EVERY_POINT)])
    run_job(job)
    return load_runs([tmp_path / "run"])[0], zoo.load(job.config.model, torch.device("cpu")).net


@pytest.mark.parametrize("made", [EVERY_POINT, ROAD], indirect=True)
def test_explanation_maps_have_the_scores_of_the_rows(made):
    run, net = made
    seen = RunImages(run)
    assert len(run.points) in ((2 * 2 + 1) * 3, 2 * 2)
    for point in run.points:
        for row in at_point(run.scored, point).sample(4, random_state=fresh()).itertuples():
            shown = seen.explanation(row.method, row.index, row.target, point)
            with torch.no_grad():
                assert float(net(shown[None])[0, row.target]) == pytest.approx(row.logit_masked, rel=1e-4, abs=1e-5)
                assert float(net(seen.image(row.index)[None])[0, row.target]) == pytest.approx(row.logit_full, rel=1e-4, abs=1e-5)


def test_merged_runs_find_the_maps_of_each(folder, tmp_path):
    (tmp_path / "runs").mkdir()
    for name in ("grad_cam", "random"):
        overrides = [*tiny_overrides(folder, tmp_path / "runs" / name), f"method=[{name}]", "maps=store"]
        run_job(compose_jobs(overrides)[0])
    (run,) = load_runs([tmp_path / "runs"])
    seen = RunImages(run)
    row = run.scored.iloc[0]
    assert {"grad_cam", "random"} <= set(run.methods)
    assert not torch.equal(seen.map("grad_cam", row["index"], row.target), seen.map("random", row["index"], row.target))


def test_images_that_moved_or_changed(made, folder, tmp_path):
    run, _ = made
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="pictures"):
        RunImages(run)
    assert len(RunImages(run, str(tmp_path / "moved")).source) == 12
    (tmp_path / "moved" / "a" / "0.png").unlink()
    with pytest.raises(UserError, match=r"have changed since.*--data-root"):
        RunImages(run, str(tmp_path / "moved"))


def test_a_run_without_maps(folder, tmp_path):
    run_job(compose_jobs(tiny_overrides(folder, tmp_path / "run"))[0])
    seen = RunImages(load_runs([tmp_path / "run"])[0])
    assert seen.image(3).shape == (3, 16, 16)
    with pytest.raises(UserError, match="maps=store"):
        seen.map("grad_cam", 3, 0)


@pytest.mark.parametrize("wrong", ["!!python/object/apply:os.system ['true']", "a: [", "model: 3"])
def test_a_configuration_that_is_none(made, tmp_path, wrong):
    (tmp_path / "run" / "run.yaml").write_text(wrong)
    with pytest.raises(UserError, match="is no configuration of a run"):
        RunImages(made[0])


def test_nobody_elses_functions_are_called(made, tmp_path):
    file = tmp_path / "run" / "run.yaml"
    settings = yaml.safe_load(file.read_text())
    settings["data"]["_target_"] = "os.system"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="not called again"):
        RunImages(made[0])


def test_heat_maps_run_from_dark_to_bright():
    values = torch.arange(12.0).reshape(3, 4)
    colours = pictures.heat(values)
    assert colours.shape == (3, 3, 4) and (colours.mean(0).flatten().diff() > 0).all()
    assert len(pictures.heat(torch.full((2, 2), 7.0)).unique()) <= 3
    grey = pictures.overlay(torch.rand(3, 3, 4), values)
    assert grey.shape == (3, 3, 4) and grey.min() >= 0 and grey.max() <= 1


def test_data_uris_hold_the_picture():
    image = torch.rand(3, 4, 6).repeat_interleave(40, 1).repeat_interleave(40, 2)
    data_uri = pictures.webp_uri(image, 120)
    kind, _, content = data_uri.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/webp;base64" and picture.size == (120, 80)
    expected = pictures.to_pil(image).resize((120, 80), Image.Resampling.BOX)
    assert np.abs(np.asarray(picture, float) - np.asarray(expected, float)).mean() < 12
