"""Whole runs of tiny networks, against slow plain code, in any batch size, interrupted and resumed."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from builders import finished_rows, save_pictures, tiny_overrides
from PIL import Image

from evalkit import Probe, methods, protocol
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.models import zoo
from evalkit.runs.folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run on the pictures of `folder`, of which tests change only copies."""
    place = tmp_path_factory.mktemp("finished")
    finished_rows(tiny_overrides(save_pictures(place / "pictures"), place / "run"))
    return place / "run"


@pytest.fixture
def whole(finished):
    return RunFolder(finished).rows()


def dense(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """ROAD's system with an equation for each pixel: a missing one is the weighted mean of its neighbours inside the image."""
    y, x = np.divmod(np.arange(kept.size), kept.shape[1])
    apart = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    weights = np.where(apart == 1, 1 / 6, np.where(apart == 2, 1 / 12, 0))
    matrix = np.where(kept.ravel()[:, None], np.eye(kept.size), np.diag(weights.sum(1)) - weights)
    return np.linalg.solve(matrix, np.where(kept, image, 0).reshape(len(image), -1).T).T.reshape(image.shape)


def test_rows_equal_a_plain_loop(folder, tmp_path):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "protocol.select=[keep_top,remove_top,soft]", "protocol.fill=[black,mean,blur]"]
    (job,) = compose_jobs(overrides)
    rows = run_job(job).rows()
    model = zoo.load(job.config.model, torch.device("cpu"))
    assert len(rows) == 12 * 5 * (2 * 2 + 1) * 3
    files = sorted(folder.rglob("*.png"))
    for row in rows.sample(40, random_state=1).itertuples():
        image = Image.open(files[row.index]).resize((16, 16), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        probe = Probe(model.net, x, indices=torch.tensor([row.index]))
        heat = torch.nn.functional.interpolate(getattr(methods, row.method)(probe)[:, None], size=(16, 16), mode="bilinear")[0, 0]
        filler = {"black": torch.zeros_like(x), "mean": model.net.mean.expand_as(x), "blur": protocol.filling(x, "blur", model.net.mean)}[
            row.fill
        ]
        if row.select == "soft":
            keep = (heat - heat.min()) / (heat.max() - heat.min()) if heat.max() > heat.min() else torch.zeros_like(heat)
        else:
            order = sorted(range(256), key=lambda i: (-float(heat.flatten()[i]), i))
            keep = torch.zeros(256)
            keep[order[: round(row.top_percent / 100 * 256)]] = 1
            keep = keep.view(16, 16) if row.select == "keep_top" else 1 - keep.view(16, 16)
        logits = model.net(x * keep + filler * (1 - keep))[0].double()
        assert row.target == int(probe.logits.argmax())
        assert row.logit_masked == pytest.approx(float(logits[row.target]), abs=1e-5)
        assert row.prob_masked == pytest.approx(float(logits.softmax(0)[row.target]), abs=1e-6)
        assert row.prob_full == pytest.approx(float(probe.logits[0].double().softmax(0)[row.target]), abs=1e-6)
        assert row.kept_fraction == pytest.approx(float(keep.double().mean()), abs=1e-6)
        assert row.positive_fraction == pytest.approx(float((heat > 0).double().mean()))
        assert row.status == ("degenerate" if heat.max() == heat.min() else "ok")


def test_batch_size_and_workers_change_nothing(folder, tmp_path, whole):
    base, reference = tiny_overrides(folder, tmp_path / "base"), whole
    for name, extra in (("one", "batch_size=1"), ("seven", "batch_size=7"), ("workers", "workers=2"), ("shards", "shard_size=5")):
        other = finished_rows([*base, extra, f"out={tmp_path / name}"])
        same = reference.rank_gap >= 1e-5
        assert list(other["index"]) == list(reference["index"]) and list(other.method) == list(reference.method)
        for column in ("prob_masked", "logit_masked", "kept_fraction"):
            assert np.allclose(other[column][same], reference[column][same], atol=1e-5)


def test_imputed_rows_are_those_of_their_images_alone(folder, tmp_path):
    """Every row again with its image by itself, the system solved densely: no batch, order or other method has a part in it."""
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "protocol.select=[keep_top,remove_top]", "protocol.fill=[road,black]"]
    (job,) = compose_jobs([*overrides, "protocol.top_percent=[0,20,60,100]"])
    rows, model = run_job(job).rows(), zoo.load(job.config.model, torch.device("cpu"))
    files = sorted(folder.rglob("*.png"))
    for row in rows[rows.fill == "road"].sample(30, random_state=1).itertuples():
        image = Image.open(files[row.index]).resize((16, 16), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        heat = protocol.upsample(getattr(methods, row.method)(Probe(model.net, x, indices=torch.tensor([row.index]))), (16, 16))
        kept = protocol.Ranking(heat).top(row.top_percent)[0].numpy()
        kept = kept if row.select == "keep_top" else ~kept
        noise = np.random.default_rng([protocol.ROAD_SEED, row.index]).standard_normal((3, 16, 16)) * 0.01 * model.net.std[0].numpy()
        solved = dense(x[0].double().numpy(), kept) if kept.any() else np.broadcast_to(model.net.mean[0].numpy(), x[0].shape)
        masked = torch.from_numpy(np.where(kept, x[0].numpy(), solved + noise)).float()
        assert row.logit_masked == pytest.approx(float(model.net(masked[None])[0, row.target]), abs=1e-4), row


@pytest.mark.parametrize(("extra", "images"), [("sample=5", 5), ("limit=7", 7), ("sample=12", 12)])
def test_part_of_the_images(folder, tmp_path, whole, extra, images):
    overrides = [*tiny_overrides(folder, tmp_path / "part"), extra, "shard_size=2"]
    part = finished_rows(overrides)
    assert part["index"].nunique() == images and (extra != "sample=5" or part["index"].max() >= 6)  # shard 2 holds ranks 4 and 5
    expected = whole[whole["index"].isin(part["index"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected, rtol=1e-4, atol=1e-6)
    (loaded,) = load_runs([tmp_path / "part"])
    assert loaded.counts()["scored"] == images
    pd.testing.assert_frame_equal(finished_rows(overrides), part)


def test_an_interrupted_run_resumes_to_the_same_rows(folder, tmp_path, whole):
    overrides = tiny_overrides(folder, tmp_path / "cut")
    (job,) = compose_jobs(overrides)

    class Killed(Exception):
        pass

    finished = 0

    def stop_in_the_second_shard(images: int) -> None:
        nonlocal finished
        finished += images
        if finished > 4:
            raise Killed

    with pytest.raises(Killed):
        run_job(job, stop_in_the_second_shard)
    assert RunFolder(tmp_path / "cut").missing() == [1, 2]
    (again,) = compose_jobs([*overrides, "batch_size=2"])
    resumed = run_job(again).rows()
    keys = ["index", "method", "select", "top_percent", "fill"]
    assert not resumed.duplicated(keys).any()
    assert len(resumed) == len(whole) and set(resumed["index"]) == set(whole["index"])
    assert np.allclose(resumed.prob_masked, whole.prob_masked, atol=1e-5)


@pytest.mark.parametrize("rank", ["0", "1", "2"])
def test_a_worker_of_any_rank_finishes_what_the_others_leave(folder, tmp_path, whole, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    begun = []
    (job,) = compose_jobs(tiny_overrides(folder, tmp_path / "shared"))
    (tmp_path / "shared" / "claims").mkdir(parents=True)
    (tmp_path / "shared" / "claims" / "shard-00000").write_text("of a worker that died")
    together = run_job(job, lambda _: begun.append(RunFolder(tmp_path / "shared").missing())).rows()
    assert begun[-1] == [0]  # the claimed one comes last
    pd.testing.assert_frame_equal(together, whole)


def test_what_another_worker_finishes_meanwhile_is_dropped(folder, tmp_path):
    base = [*tiny_overrides(folder, tmp_path / "alone"), "batch_size=1"]
    alone = finished_rows(base)
    (job,) = compose_jobs([*base, f"out={tmp_path / 'shared'}"])
    images = 0

    def meanwhile(_done: int) -> None:
        nonlocal images
        images += 1
        if images == 2:
            shutil.copytree(tmp_path / "alone", tmp_path / "shared", dirs_exist_ok=True)

    together = run_job(job, meanwhile).rows()
    assert images == 2
    pd.testing.assert_frame_equal(together, alone)


def test_broken_images_keep_their_rows_and_the_run_goes_on(folder, tmp_path):
    (folder / "a" / "1.png").write_bytes(b"")
    (folder / "b" / "2.png").write_bytes((folder / "b" / "1.png").read_bytes()[:200])
    rows = finished_rows(tiny_overrides(folder, tmp_path / "run"))
    assert len(rows) == 12 * 5 * 2
    broken = rows[rows.status == "error"]
    assert set(broken.image_id) == {"a/1.png", "b/2.png"}
    assert "the file is empty" in set(broken.error)
    assert broken.prob_full.isna().all()
    assert (rows[rows.status != "error"].groupby("image_id").size() == 10).all()


def test_a_network_that_puts_out_nan(folder, tmp_path):
    Image.new("RGB", (16, 16)).save(folder / "a" / "0.png")
    rows = finished_rows([*tiny_overrides(folder, tmp_path / "run", "builders.NaNNet"), "method=[grad_cam,constant]"])
    assert set(rows[rows.image_id == "a/0.png"].status) == {"nonfinite"}
    assert {"ok", "degenerate"} & set(rows[rows.image_id != "a/0.png"].status)


def test_targets_and_correct_images(folder, tmp_path, whole):
    base, predicted = tiny_overrides(folder, tmp_path / "base"), whole
    labelled = finished_rows([*base, "target=label", f"out={tmp_path / 'label'}"])
    assert (labelled.target == labelled.label).all() and (labelled.label == labelled["index"] // 4).all()
    fixed = finished_rows([*base, "target=3", f"out={tmp_path / 'fixed'}"])
    assert (fixed.target == 3).all() and (fixed.predicted == predicted.predicted).all()
    correct = finished_rows([*base, "images=correct", f"out={tmp_path / 'correct'}"])
    right = predicted[predicted.predicted == predicted.label]
    assert set(correct["index"]) == set(right["index"])
    shards = RunFolder(tmp_path / "correct").load().shards
    assert sum(s["left_out"] for s in shards) == 12 - right["index"].nunique()


def test_stored_maps_are_the_methods_own(folder, tmp_path):
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), "maps=store"])
    run_job(job)
    stored = pd.concat(pd.read_parquet(f) for f in sorted((tmp_path / "run" / "maps").glob("*.parquet")))
    assert len(stored) == 12 * 5 and stored["map"].notna().all()
    row = stored[(stored["index"] == 7) & (stored.method == "grad_cam")].iloc[0]
    model = zoo.load(job.config.model, torch.device("cpu"))
    x = model.preprocess(Image.open(folder / "b" / "3.png"))[None].float() / 255
    assert np.allclose(row["map"].reshape(row.height, row.width), methods.grad_cam(Probe(model.net, x))[0], atol=1e-6)


def test_maps_can_be_asked_for_afterwards(folder, tmp_path, finished, whole):
    overrides = tiny_overrides(folder, shutil.copytree(finished, tmp_path / "run"))
    stored = RunFolder(tmp_path / "run")
    assert stored.missing() == [] and stored.missing(maps=True) == [0, 1, 2]
    pd.testing.assert_frame_equal(finished_rows([*overrides, "maps=store"]), whole)
    assert stored.missing(maps=True) == []
    pd.testing.assert_frame_equal(finished_rows(overrides), whole)  # and stay
    assert stored.missing(maps=True) == []


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["target=7"], "target=7 is no output: the model has 5"),
        (["+method.mine._target_=theirs.absent"], "has no 'absent'"),
        (["+method.mine._target_=theirs.bad_shape"], r"method mine must return maps \(4, h, w\)"),
        (["model.layer=featurs"], "did you mean 'features'"),
        (["model.classes=imagenet"], "the model has 5 outputs"),
        (["model.resize=[4,4]"], "cannot process a 4x4 image"),
        (["device=cuda"], "sees no GPU"),
        (["model.factory=builders.Absent"], "has no 'Absent'"),
        (["model.factory=nowhere.Net"], "cannot import 'nowhere'"),
        (["model.weights=absent.safetensors"], "no weights file"),
        (["model.weights=IMAGENET1K_V1"], "has no weights by name"),
    ],
)
def test_mistakes_get_one_sentence(folder, tmp_path, extra, says):
    if extra == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=says):
        finished_rows([*tiny_overrides(folder, tmp_path / "run"), *extra])


@pytest.mark.parametrize("name", ["activations", "gradients"])
def test_a_method_cannot_spoil_the_others(folder, tmp_path, name):
    """Also where it is the first that asks."""
    base = [o for o in tiny_overrides(folder, tmp_path / "run") if not o.startswith("method")]
    vandalism = ["+method.mine._target_=theirs.vandal", f"+method.mine.name={name}"]
    with pytest.raises(UserError, match=f"method mine writes into the probe's {name}"):
        finished_rows([*base, "method=[]", *vandalism])


def test_methods_of_every_kind(folder, tmp_path):
    base = tiny_overrides(folder, tmp_path / "run")
    assert "mine" in set(finished_rows([*base, "+method.mine._target_=theirs.an_object"]).method)
    with pytest.raises(UserError, match=r"method mine failed with AttributeError: .*'gradeints' \(theirs.py, line \d+\)"):
        finished_rows([*base, "+method.mine._target_=theirs.vandal", "+method.mine.name=gradeints", f"out={tmp_path / 'b'}"])
    with pytest.raises(UserError, match="cannot be called with a probe"):
        finished_rows([*base, "+method.mine._target_=torch.sum", f"out={tmp_path / 'c'}"])
    with pytest.raises(UserError, match="cannot be called with a probe and"):
        finished_rows([*tiny_overrides(folder, tmp_path / "run"), "+method.random.sed=1"])


def test_an_edited_method_is_another_run(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edited.py").write_text("def mine(probe):\n    return probe.activations.sum(1)\n")
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "+method.mine._target_=edited.mine"]
    finished_rows(overrides)
    (tmp_path / "edited.py").write_text("def mine(probe):\n    return -probe.activations.sum(1)\n")
    with pytest.raises(UserError, match=r"code\.method\.mine"):
        finished_rows(overrides)


def test_a_shard_cut_short_is_computed_again(folder, tmp_path, finished, whole):
    overrides = tiny_overrides(folder, shutil.copytree(finished, tmp_path / "run"))
    file = tmp_path / "run" / "rows" / "shard-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    assert RunFolder(tmp_path / "run").missing() == [1]
    pd.testing.assert_frame_equal(finished_rows(overrides), whole)


def test_what_is_not_a_shard_is_computed_again(folder, tmp_path, finished, whole, caplog):
    overrides = tiny_overrides(folder, shutil.copytree(finished, tmp_path / "run"))
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "run" / "rows" / "shard-00001.parquet")
    shutil.rmtree(tmp_path / "run" / "maps")
    assert RunFolder(tmp_path / "run").missing() == [0, 1, 2]
    pd.testing.assert_frame_equal(finished_rows(overrides), whole)
    file = tmp_path / "run" / "rows" / "shard-00002.parquet"
    content = bytearray(file.read_bytes())
    content[4:600] = bytes(596)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"is not finished: 1 shard missing"):
        load_runs([tmp_path / "run"])
    assert "shard-00002.parquet is damaged or gone" in caplog.text
    pd.testing.assert_frame_equal(finished_rows(overrides), whole)


def test_paths_with_brackets_and_letters_beyond_ascii(folder, tmp_path):
    finished_rows([*tiny_overrides(folder, tmp_path / "run"), f"out={tmp_path}/ünï cødé/it's run (1)"])
    assert (tmp_path / "ünï cødé" / "it's run (1)" / "rows" / "shard-00002.parquet").is_file()


def test_labels_that_fit_no_class_are_refused_when_needed(folder, tmp_path):
    classes = tmp_path / "other.txt"
    base = tiny_overrides(folder, tmp_path / "run")
    classes.write_text("v\nw\nx\ny\nz\n")
    with pytest.raises(UserError, match="none of the 12 images has a label"):
        finished_rows([*base, f"model.classes={classes}", "target=label"])


def test_images_of_several_sizes_without_resize(folder, tmp_path):
    Image.new("RGB", (30, 30), "white").save(folder / "a" / "0.png")
    rows = finished_rows([*tiny_overrides(folder, tmp_path / "run", "builders.TinyGAP"), "model.resize=null"])
    assert set(rows[rows.status != "error"].image_id) == {"a/0.png"}
    assert "20x16 pixels where the first image has 30x30" in rows.error.dropna().iloc[0]
