"""`evalkit verify`: what is as the run says is verified, whatever the run; what is not is told by its kind."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from alterations import Folder
from builders import fresh, save_pictures, tiny_overrides
from typer.testing import CliRunner

from evalkit.cli.main import app
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.columns import ROWS
from evalkit.launch.run import run_job
from evalkit.runs.folder import RunFolder
from evalkit.verify.compare import Comparison, Suspect
from evalkit.verify.reopen import reopened
from evalkit.verify.sample import drawn, named
from evalkit.verify.verify import open_run, verify

pytestmark = pytest.mark.filterwarnings("ignore")


def made(folder, out, *overrides):
    (job,) = compose_jobs([*tiny_overrides(folder, out), *overrides])
    return run_job(job)


def outcome_of(run, *overrides, count=12):
    opened = open_run(reopened(run, overrides, ["builders"]))
    return verify(run, opened, drawn(run.images, min(count, run.images)))


def invoked(*words):
    result = CliRunner().invoke(app, ["verify", *map(str, words)])
    if isinstance(result.exception, UserError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch_size=3", "maps=store", "protocol.select=[keep_top,remove_top,soft]", "protocol.fill=[black,mean,blur]"],
        ["target=label", "protocol.fill=[road]", "measures=[coherency,single_deletion,stability]", "stability.copies=2"],
        ["target=[0,3]", "model.output=sigmoid", "measures=[randomisation]"],
        ["images=correct", "limit=9", "maps=store"],
        ["+control=[blurred,shuffled,mixed]", "sample=7", "seed=3"],
        ["model.output=raw", "target=1"],
    ],
)
def test_a_run_is_what_it_says(folder, tmp_path, overrides):
    (folder / "b" / "unreadable.png").write_bytes(b"not a picture")
    run = made(folder, tmp_path / "run", *overrides)
    outcome = outcome_of(run, "batch_size=4")
    assert outcome.verified, (outcome.record, outcome.problems, outcome.comparison.differences)
    rows = run.rows()
    seen = set(rows["index"])
    assert outcome.recomputed == min(12, run.images) and 0 < outcome.comparison.rows <= len(rows)
    assert run.images > 12 or (outcome.comparison.rows == len(rows) and not outcome.comparison.differing_images), seen


def test_the_command_says_the_fraction_and_writes_a_badge(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    code, said = invoked(run.path, "--sample", 5, "--seed", 4, "--allow", "builders", "--out", tmp_path / "verified.json")
    assert code == 0 and "\nverified: 5 of 12 images (42 %) recomputed, 0 of 50 rows of scores and 25 maps differ" in said, said
    assert "drawn with --seed 4; of 12 images, fewer than 5 with altered scores would have been missed" in said
    badge = json.loads((tmp_path / "verified.json").read_text())
    assert badge["verified"] and badge["rows_digest"] == run.digest() and badge["identity_hash"] == run.provenance["identity_hash"]
    assert badge["sample"] == {
        "images": 12, "recomputed": 5, "fraction": 5 / 12, "drawn": True, "seed": 4, "shards": [],
        "surely_found_from": 5, "missed_probability": 0.05,
    }  # fmt: skip
    assert badge["rows_compared"] == 50 and badge["maps_compared"] == 25 and badge["largest_deviations"]["logit_full"] < 1e-4
    code, said = invoked(run.path, "--shards", "0,2", "--allow", "builders", "--out", tmp_path / "named.json")
    assert json.loads((tmp_path / "named.json").read_text())["sample"]["drawn"] is False
    assert code == 0 and "8 of 12 images" in said and "the shards 0, 2 were named, not drawn" in said


def test_what_differs_is_told_by_its_kind(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    others = save_pictures(tmp_path / "others")
    (others / "a" / "0.png").rename(others / "a" / "9.png")
    for override, kind in (("model.seed=1", "weights"), (f"data.root={others}", "data"), ("method.grad_cam.gradient=softmax", "settings")):
        code, said = invoked(run.path, override, "--sample", "100%", "--allow", "builders")
        assert code == 1 and "NOT verified: 12 of 12 images (all)" in said and f"differs in {kind}: " in said, said
    record = run.provenance
    record["identity"]["code"]["model.factory"] = "0" * 12
    Folder(tmp_path / "run", fresh()).publish(record)
    code, said = invoked(run.path, "--allow", "builders")
    assert (
        code == 1 and "differs in code: code.model.factory: 000000000000 -> " in said and "0 of 10 rows of scores and 5 maps differ" in said
    )


def test_weights_are_what_they_are_said_to_be(folder, tmp_path):
    """Random weights have no other name; a file may lie elsewhere, and no other one may take its name."""
    run = made(folder, tmp_path / "random")
    for name in ("IMAGENET1K_V1", "best.pt", "random in part (fc, seed 0), the rest set by builders.tiny", None):
        Folder(tmp_path / "random", fresh()).publish({**run.provenance, "weights": name})
        (difference,) = outcome_of(run, count=1).record
        assert difference.kind == "weights" and f"said to be {name}"[:40] in difference.text
    file = tmp_path / "mine.pt"
    torch.save(open_run(reopened(run, [], ["builders"])).session.model.module.state_dict(), file)
    run = made(folder, tmp_path / "trained", f"model.weights={file}")
    assert outcome_of(run, count=1).verified
    for name, count in (("IMAGENET1K_V1", 1), ("random (seed 0)", 1), ("mine.pt (top-1 99 %)", 1), ("elsewhere/mine.pt", 0)):
        Folder(tmp_path / "trained", fresh()).publish({**run.provenance, "weights": name})
        other = file.rename(tmp_path / "moved.pt") if file.exists() else tmp_path / "moved.pt"
        found = outcome_of(run, f"model.weights={other}", count=1).record
        assert len(found) == (count if name != "IMAGENET1K_V1" else 0), (name, found)
    Folder(tmp_path / "trained", fresh()).publish({**run.provenance, "expected_top1": 99.0})
    assert "expected_top1" in str(outcome_of(run, f"model.weights={other}", count=1).record[0])


@pytest.mark.parametrize("name", ["rows/shard-00003.parquet", "maps/shard-00000.parquet.bak", "rows/more.parquet", "rows/.a.parquet"])
def test_files_of_none_of_the_shards_are_named(folder, tmp_path, name):
    run = made(folder, tmp_path / "run")
    (run.path / "rows" / ".shard-00001.parquet.x.tmp").write_bytes(b"")  # left by a process that was killed
    assert outcome_of(run, count=1).verified
    (run.path / name).write_bytes((run.path / "rows" / "shard-00000.parquet").read_bytes())
    code, said = invoked(run.path, "--allow", "builders")
    assert code == 1 and f"1 file of none of the run's shards, which other programs may read as its own: {name}" in said
    assert "3 of 3 shards checked, 1 problem" in said


def test_rows_of_some_methods_are_missing(folder, tmp_path):
    run, altered = made(folder, tmp_path / "run"), Folder(tmp_path / "run", fresh())
    rows, maps, about = altered.read(0)
    lost = rows["index"].isin(rows["index"].unique()[1:3]) & (rows["method"] == rows["method"].iloc[0])
    altered.write(0, rows[~lost], maps, about)
    said = [str(each) for each in outcome_of(run, count=1).problems]
    first = rows.loc[lost, "image_id"].iloc[0]
    assert f"shard 0: rows of some methods or points are missing (2 images or classes, first image {first})" in said, said


def test_labels_of_streamed_data_are_checked_where_images_are_recomputed_alone(folder, tmp_path):
    run = made(folder, tmp_path / "run", "workers=0")
    opened = open_run(reopened(run, [], ["builders"]))
    opened.session.source.streamed = True
    altered = Folder(tmp_path / "run", fresh())
    rows, maps, about = altered.read(1)
    for frame in (rows, maps):
        frame["label"] = 4
    altered.write(1, rows, maps, about)
    outcome = verify(run, opened, named([0, 2], 12, 4))
    assert outcome.verified and "streamed" in outcome.unstructured[0]
    outcome = verify(run, opened, drawn(12, 12))
    assert {difference.column for difference in outcome.comparison.differences} == {"label"} and len(
        outcome.comparison.differing_images
    ) == 4


def test_other_versions_may_differ_and_are_said(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    Folder(tmp_path / "run", fresh()).publish({**run.provenance, "code": "abc", "versions": {"torch": "1.0"}})
    code, said = invoked(run.path, "--allow", "builders")
    assert code == 0 and "allowed to differ: evalkit's code: abc -> " in said and "allowed to differ: torch: 1.0 -> " in said


def test_how_a_run_with_until_ended_is_what_its_rows_say(folder, tmp_path):
    until = ["until=random-centre", "until_metric=win"]
    run = made(folder, tmp_path / "run", *until)
    assert run.provenance["end"]["n"] == 12 and outcome_of(run).verified
    end = {**run.provenance["end"], "difference": run.provenance["end"]["difference"] + 1e-3}
    Folder(tmp_path / "run", fresh()).publish({**run.provenance, "end": end})
    (difference,) = outcome_of(run).record
    assert difference.kind == "record" and difference.text.startswith("end.difference is ")
    Folder(tmp_path / "run", fresh()).publish({key: value for key, value in run.provenance.items() if key != "end"})
    assert "does not say how the run ended" in str(outcome_of(run).record[0])


def test_an_unfinished_run_is_not_verified(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    (tmp_path / "run" / "rows" / "shard-00001.parquet").unlink()
    code, said = invoked(run.path, "--sample", "100%", "--allow", "builders")
    assert code == 1 and "8 of 12 images" in said and "1 shard unfinished, damaged or of another run: 1" in said


def test_code_of_others_is_not_called_unless_allowed(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    file = tmp_path / "run" / "run.yaml"
    content = yaml.safe_load(file.read_text())
    assert invoked(run.path)[0] == 2 and invoked(run.path)[1].endswith("--allow builders")
    assert invoked(run.path, "--allow", "numpy,pandas")[1].endswith("give --allow numpy,pandas,builders")
    assert invoked(run.path, "--allow", "numpy, builders", "--sample", 1)[0] == 0
    for group, target in (
        ("data", "os.system"), ("data", "evalkit.data.sources.read_remote"), ("data", "evalkit.files.publish"),
        ("method", "timm.utils.get_outdir"), ("method", "subprocess.run"), ("method", "evalkit.methods.peers.find"),
    ):  # fmt: skip
        altered = json.loads(json.dumps(content))
        (altered["data"] if group == "data" else altered["method"]["grad_cam"])["_target_"] = target
        file.write_text(yaml.safe_dump(altered))
        code, said = invoked(run.path, "--allow", "builders")
        assert code == 2 and (target in said), said
    file.write_text("- no mapping")
    assert "is no configuration of a run" in invoked(run.path, "--allow", "builders")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=vgg16"], "verify takes model from the run"),
        (["data.rot=x"], "did you mean 'data.root'"),
        (["--shards", "0", "--seed", "1"], "give either"),
        (["data.root=/nowhere"], "the run cannot be computed here"),
        (["--shards", "7"], "the run has the shards 0 to 2"),
    ],
)
def test_a_mistake_ends_in_one_sentence(folder, tmp_path, words, message):
    run = made(folder, tmp_path / "run")
    code, said = invoked(run.path, *words, "--allow", "builders")
    assert code == 2 and message in said
    assert invoked(tmp_path)[0] == 2


def test_rows_differ_exactly_where_a_loop_finds_them(folder, tmp_path):
    """Random deviations around the tolerances, found one by one with Python's own arithmetic."""
    rows, maps, rng = made(folder, tmp_path / "run").rows(), pa.table, fresh()
    rows["rank_gap"] = rng.uniform(0.1, 1, len(rows))  # no near ties
    frame = rows.copy()
    for name in ("prob_full", "prob_masked", "logit_full", "logit_masked", "rank_gap"):
        factor = np.where(rng.random(len(rows)) < 0.5, 0, 10 ** rng.uniform(-7, -1, len(rows)))
        frame[name] = rows[name] * (1 + factor)
    empty = RunFolder(tmp_path / "run")
    maps = next(iter(empty.finished())).maps.slice(0, 0)
    comparison = Comparison()
    comparison.add((_table(frame), maps), (_table(rows), maps))
    usual, expected = float(np.median(rows["logit_full"].abs())), set()
    turned = {at for at, _ in rows.iterrows() if _turned_by_loop(frame, rows, at)}
    for (at, theirs), (_, ours) in zip(frame.iterrows(), rows.iterrows(), strict=True):
        scale = max(abs(ours.logit_full), abs(ours.logit_masked), usual)
        limits = {"prob_full": 1e-6 + 1e-3 * ours.prob_full, "prob_masked": 1e-6 + 1e-3 * ours.prob_masked}
        limits |= {"logit_full": 1e-4 * scale, "logit_masked": 1e-4 * scale, "rank_gap": 2e-5 + 1e-2 * ours.rank_gap}
        if at in turned:
            for name in ("prob_full", "prob_masked"):
                limits[name] = min(0.1 * limits[name], 2 * ours[name] * (1 - ours[name]) * 1e-5 * scale + 1e-15)
            limits |= {"logit_full": 1e-5 * scale, "logit_masked": 1e-5 * scale}
        expected |= {at for name, limit in limits.items() if abs(theirs[name] - ours[name]) > limit}
    assert comparison.differing_rows == len(expected) > 0 and comparison.differing_images == set(rows.loc[list(expected), "index"])
    for name in limits:
        assert comparison.largest[name] == pytest.approx((frame[name] - rows[name]).abs().max())


def _turned_by_loop(frame, rows, at):
    """Return whether a row's score changes its order with another method's, or with the whole image's, at its point."""
    own = rows.loc[at]
    point = (rows["index"] == own["index"]) & (rows["target"] == own["target"]) & (rows["top_percent"] == own["top_percent"])
    for score in ("prob", "logit"):
        pairs = [(frame.loc[at, f"{score}_full"], own[f"{score}_full"])]
        pairs += [(frame.loc[other, f"{score}_masked"], rows.loc[other, f"{score}_masked"]) for other in rows.index[point]]
        mine, ours = frame.loc[at, f"{score}_masked"], own[f"{score}_masked"]
        if any(np.sign(mine - theirs) != np.sign(ours - here) for theirs, here in pairs):
            return True
    return False


def _table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=ROWS, preserve_index=False)


def test_near_a_tie_only_what_swapped_pixels_explain_may_differ(folder, tmp_path):
    """A constant image ties everywhere: swaps move a score little, and a score beyond that differs."""
    run = made(folder, tmp_path / "run", "method=[centre]", "protocol.top_percent=[50]", "shard_size=12")
    opened = open_run(reopened(run, [], ["builders"]))
    rows = run.rows()
    assert (rows["rank_gap"] < 1e-5).all()  # the control is symmetric
    altered = Folder(tmp_path / "run", fresh())
    frame, maps, about = altered.read(0)
    frame["logit_masked"] += 100.0
    altered.write(0, frame, maps, about)
    outcome = verify(run, opened, drawn(12, 12))
    assert outcome.comparison.near_ties == outcome.comparison.differing_rows == 12 and outcome.comparison.swapped == 0
    net, session = opened.session.model.net, opened.session
    frame["logit_masked"], frame["prob_masked"] = rows["logit_masked"], rows["prob_masked"]
    for at, row in frame.iterrows():  # the k-th pixel and its twin change places
        image = session.model.preprocess(session.source.load(int(row["index"])))[None].float() / 255
        low = torch.tensor(session.methods["centre"](_Probe(image, low=maps.loc[at, ["height", "width"]])))
        values = torch.nn.functional.interpolate(low[:, None], (16, 16), mode="bilinear")[0, 0].flatten()
        order = values.argsort(descending=True, stable=True).tolist()
        order[127], order[128] = order[128], order[127]
        mask = torch.zeros(256)
        mask[order[:128]] = 1
        logits = net(image * mask.view(1, 1, 16, 16))[0].double()
        frame.loc[at, "logit_masked"], frame.loc[at, "prob_masked"] = logits[row["target"]].item(), logits.softmax(0)[row["target"]].item()
    altered.write(0, frame, maps, about)
    outcome = verify(run, opened, drawn(12, 12))
    moved = (frame["logit_masked"] - rows["logit_masked"]).abs().max()
    assert outcome.verified and outcome.comparison.swapped > 0, outcome.comparison.differences
    assert outcome.comparison.largest_swapped["logit_masked"] == pytest.approx(moved)


def test_no_score_is_none_of_those_that_swaps_explain():
    nan = float("nan")
    for theirs, ours, found in (
        ((0.5, 1.0), (0.6, 1.1), 1),
        ((nan, 1.0), (nan, 1.1), 1),
        ((0.5, nan), (0.6, 1.1), 0),
        ((nan, 1.0), (0.6, 1.1), 0),
    ):
        comparison = Comparison()
        comparison.settle(Suspect("a", 0, 0, "m", "p", theirs, ours, (0.0, 0.0)), [0.4, 0.9], [0.7, 1.2])
        assert (comparison.swapped, comparison.differing_rows) == (found, 1 - found)


def test_an_image_that_is_said_to_be_unreadable(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    altered = Folder(tmp_path / "run", fresh())
    rows, maps, about = altered.read(1)
    for frame in (rows, maps):
        empty = frame.columns.difference(["index", "image_id", "label", "method", "select", "top_percent", "fill", "status", "error"])
        frame.loc[frame["index"] == 5, empty] = None
        frame.loc[frame["index"] == 5, "status"] = "error"
    rows.loc[rows["index"] == 5, "error"] = "cannot be decoded"
    altered.write(1, rows, maps, about)
    opened = open_run(reopened(run, [], ["builders"]))
    assert verify(run, opened, named([0, 2], 12, 4)).verified
    outcome = verify(run, opened, drawn(12, 12))
    assert not outcome.problems and outcome.comparison.differing_images == {5}


class _Probe:
    def __init__(self, images, low):
        self.images, self.activations = images, torch.zeros(1, 1, int(low["height"]), int(low["width"]))


def test_the_digest_changes_with_any_value(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    before, altered = run.digest(), Folder(tmp_path / "run", fresh())
    rows, maps, about = altered.read(1)
    altered.write(1, rows, maps, about)
    assert run.digest() == before
    maps.loc[0, "complexity"] += 1e-12
    altered.write(1, rows, maps, about)
    assert run.digest() != before
