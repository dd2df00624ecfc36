"""`like=`: further methods on the images of a run, whose settings nobody types again."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from builders import launched, save_pictures, tiny_overrides
from commands import here, through_main
from PIL import Image
from upath import UPath

from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.config.like import started_in
from evalkit.errors import UserError
from evalkit.runs.folder import RunFolder
from evalkit.runs.like import beside

pytestmark = pytest.mark.usefixtures("reachable")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with settings that are not the defaults: ablation_cam and centre on 9 of 12 pictures."""
    folder = tmp_path_factory.mktemp("like")
    overrides = tiny_overrides(save_pictures(folder / "pictures"), folder / "mine")
    launched([*overrides, "method=[ablation_cam,centre]", "sample=9", "seed=3", "target=label", "measures=[coherency]"])
    return folder


@pytest.fixture
def mine(made, tmp_path):
    shutil.copytree(made / "mine", tmp_path / "mine")
    return tmp_path / "mine"


def run(*overrides):
    done = through_main("run", *overrides)
    assert done.returncode == 0, done.stderr
    return done.stderr


def mistake(*overrides) -> str:
    error = here("run", *overrides).exception
    assert isinstance(error, UserError) and "\n" not in str(error), error
    return str(error)


def test_one_table_of_both_with_the_rows_of_a_run_of_all(mine, made, tmp_path):
    said = run("method=[layer_cam]", f"like={mine}")
    second = tmp_path / "mine-2"
    assert f"one table of both: evalkit tables {mine} {second}" in said and "other than" not in said
    first, new = (yaml.safe_load((folder / "run.yaml").read_text()) for folder in (mine, second))
    assert list(new["method"]) == ["layer_cam"] and new["out"] == str(second)
    assert {k: v for k, v in new.items() if k not in ("method", "out")} == {k: v for k, v in first.items() if k not in ("method", "out")}
    (merged,) = load_runs([mine, second])
    overrides = tiny_overrides(made / "pictures", tmp_path / "all")
    asked = ["method=[ablation_cam,centre,layer_cam]", "sample=9", "seed=3", "target=label", "measures=[coherency]"]
    whole, _ = launched([*overrides, *asked])
    order = ["method", "index", "top_percent"]
    ours, theirs = (table.sort_values(order, ignore_index=True) for table in (merged.rows, whole.rows()))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5)
    assert set(merged.methods) == {"ablation_cam", "centre", "layer_cam"} and ours["index"].nunique() == 9


def test_methods_that_are_there_are_named_and_not_computed_again(mine, tmp_path):
    said = run("method=[centre,layer_cam,ablation_cam]", f"like={mine}")
    assert f"centre, ablation_cam: in {mine} already, and not computed again" in said
    assert set(RunFolder(tmp_path / "mine-2").rows().method) == {"layer_cam"}
    assert f"{mine} holds ablation_cam, centre already" in mistake(f"like={mine}")
    assert f"{mine} holds centre already" in mistake("method=[centre]", f"like={mine}")
    assert not (tmp_path / "mine-3").exists()


def test_a_method_with_other_settings_is_computed_and_named(mine, tmp_path):
    said = run("method=[ablation_cam,layer_cam]", "method.ablation_cam.normalise=norm", f"like={mine}")
    assert f"ablation_cam: in {mine} too; so the two runs have tables of their own" in said and "one table" not in said
    assert set(RunFolder(tmp_path / "mine-2").rows().method) == {"ablation_cam", "layer_cam"}
    assert len(load_runs([mine, tmp_path / "mine-2"])) == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("protocol.top_percent=30", "protocol.top_percent: [20.0, 50.0] -> [30.0]"),
        ("seed=4", "seed: 3 -> 4"),
        ("target=predicted", "target: label -> predicted"),
        ("sample=5", "sample: 9 -> 5"),
        ("precision=bf16", "precision: fp32 -> bf16"),
        ("measures=[]", "measures: ['coherency'] -> []"),
        ("model.seed=1", "model.weights_hash"),
    ],
)
def test_an_override_that_makes_another_run_is_named(mine, tmp_path, override, says):
    said = run("method=[centre]", override, f"like={mine}")  # which the run holds, but not so
    assert f"other than in {mine}: " in said and says in said and "have tables of their own" in said and "one table" not in said
    assert len(load_runs([mine, tmp_path / "mine-2"])) == 2


def test_what_changes_no_number_is_not_named(mine, tmp_path):
    said = run("method=[layer_cam]", "batch_size=2", "workers=0", "shard_size=2", "maps=store", f"like={mine}")
    assert "other than" not in said and "one table of both" in said
    assert len(load_runs([mine, tmp_path / "mine-2"])) == 1


def test_the_same_command_continues_and_another_has_the_next_folder(mine, tmp_path):
    command = ["method=[layer_cam]", f"like={mine}"]
    run(*command)
    (tmp_path / "mine-2" / "rows" / "shard-00001.parquet").unlink()
    assert f"-> {tmp_path / 'mine-2'};" in run(*command) and not RunFolder(tmp_path / "mine-2").missing()
    assert "every shard was done before" in run(*command)
    assert f"-> {tmp_path / 'mine-3'};" in run("method=[grad_cam]", f"like={mine}")
    assert len(load_runs([mine, tmp_path / "mine-2", tmp_path / "mine-3"])) == 1
    assert f"-> {tmp_path / 'elsewhere'};" in run("method=[grad_cam]", f"like={mine}/", f"out={tmp_path / 'elsewhere'}")


def test_it_is_relative_to_this_folder_and_may_be_it(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "-> mine-2;" in run("method=[layer_cam]", "like=mine")
    monkeypatch.chdir(mine)
    assert f"-> {tmp_path / 'mine-3'};" in run("method=[grad_cam]", "like=.")


def test_mistakes(mine, tmp_path):
    folder = tmp_path / "sweep"
    shutil.copytree(mine, folder / "seed=1")
    assert f"like={tmp_path / 'mien'} is not a run folder: it has no provenance.json; did you mean 'mine'?" in mistake(
        f"like={tmp_path / 'mien'}"
    )
    assert "is not a run folder" in mistake("like=/nowhere/at/all")
    assert f"holds several runs (seed=1): name one, as in like={folder / 'seed=1'}" in mistake(f"like={folder}")
    assert "given 2 times" in mistake("like=a", "like=b")
    assert "names no run folder" in mistake("like=") and "names no run folder" in mistake("+like=null")
    assert "is the folder of the run that like= names" in mistake("method=[layer_cam]", f"like={mine}", f"out={mine}")
    assert "no method 'layer_cm'; did you mean 'layer_cam'?" in mistake("method=[layer_cm]", f"like={mine}")
    assert "no key 'protocol.top_percnt'" in mistake("protocol.top_percnt=3", f"like={mine}")
    assert "no method chosen" in mistake("method=[]", f"like={mine}")
    record = json.loads((mine / "provenance.json").read_text())
    (mine / "provenance.json").write_text(json.dumps({**record, "images": 8}))
    assert "its checksum does not match" in mistake("method=[layer_cam]", f"like={mine}")
    (mine / "provenance.json").write_text(json.dumps(record))
    assert "sample=N and limit=N exclude each other" in mistake("method=[layer_cam]", f"like={mine}", "limit=3")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [", "cannot be read, or is no configuration of a run (ParserError)"),
        ("- a", "it has no settings of model, data, method, protocol"),
        ("", "it has no settings of model, data, method, protocol"),
        ("{model: {name: x}, data: {}, method: {a: {}}, protocol: 3}", "it has no settings of data, protocol"),
        ("{model: {name: '${oc.env:HOME}'}, data: {a: 1}, method: {a: {}}, protocol: {a: 1}}", "it holds a reference ${...}"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_damaged_configuration(mine, text, says):
    file = mine / "run.yaml"
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = mistake("method=[layer_cam]", f"like={mine}")
    assert f"{file} cannot be read" in said and says in said and "give its settings as overrides" in said


def test_a_configuration_of_another_version(mine, tmp_path):
    file, content = mine / "run.yaml", yaml.safe_load((mine / "run.yaml").read_text())
    later = ("until", "until_metric", "until_point", "until_from", "control", "control_of", "single_deletion", "stability", "randomisation")
    older = {key: value for key, value in content.items() if key not in later}
    older["model"] = {key: value for key, value in content["model"].items() if key not in ("grid", "fuse", "select", "score", "channels")}
    file.write_text(yaml.safe_dump(older))
    assert "one table of both" in run("method=[layer_cam]", f"like={mine}")
    assert yaml.safe_load((tmp_path / "mine-2" / "run.yaml").read_text())["model"]["grid"] == "auto"
    file.write_text(yaml.safe_dump({**content, "sampel": 3}))
    assert f"{file} does not fit this version: no key 'sampel' in the configuration; did you mean 'sample'?" in mistake(f"like={mine}")
    file.write_text(yaml.safe_dump({**content, "precision": "fp8"}))
    assert f"{file} does not fit this version: precision=fp8 is not valid" in mistake(f"like={mine}")
    file.write_text(yaml.safe_dump(content))
    (mine / "provenance.json").write_text("{}")
    assert f"{mine / 'provenance.json'} is damaged" in mistake(f"like={mine}")


def test_a_name_that_looks_like_a_number(mine, tmp_path):
    content = yaml.safe_load((mine / "run.yaml").read_text())
    content["model"]["name"] = "3.10"
    (mine / "run.yaml").write_text(yaml.safe_dump(content))
    run("method=[layer_cam]", f"like={mine}")
    assert RunFolder(tmp_path / "mine-2").provenance["identity"]["model"]["name"] == "3.10"


def test_multirun(mine, tmp_path):
    said = run("-m", "method=[layer_cam]", f"like={mine}", "target=label,predicted")
    both = [tmp_path / "mine-2" / name for name in ("target=label", "target=predicted")]
    assert all(RunFolder(folder).exists for folder in both)
    assert f"-> {both[0]}; one table of both" in said and f"-> {both[1]}\n" in said and "target: label -> predicted" in said
    assert "every shard was done before" in run("-m", "method=[layer_cam]", f"like={mine}", "target=label,predicted")
    assert f"-> {both[0]}-2; one table of both" in run("method=[grad_cam]", f"like={both[0]}")  # one that a multirun made
    run("method=[grad_cam]", f"like={mine}")
    assert RunFolder(tmp_path / "mine-3").exists  # not among the folders of the others
    assert "need -m (multirun)" in mistake("method=[layer_cam]", f"like={mine}", "target=label,predicted")


def test_an_experiment_wins_over_the_run_and_the_command_over_both(mine, made):
    (job,) = compose_jobs(["experiment=threshold_sweep", f"like={mine}", "batch_size=7"])
    (alone,) = compose_jobs(["experiment=threshold_sweep"])
    assert job.config.protocol == alone.config.protocol and job.config.model.factory == "builders.TinyFC"
    assert (job.config.sample, job.config.batch_size, job.config.data["root"]) == (9, 7, str(made / "pictures"))
    (job,) = compose_jobs([f"like={mine}", "model=digits_gap", "data=digits", "protocol=soft"])
    (alone,) = compose_jobs(["model=digits_gap", "protocol=soft"])
    assert (job.config.model, job.config.data, job.config.protocol) == (alone.config.model, alone.config.data, alone.config.protocol)
    assert list(job.config.method) == ["ablation_cam", "centre"] and job.config.seed == 3


def test_control_versions(made, tmp_path):
    overrides = tiny_overrides(made / "pictures", tmp_path / "mine")
    launched([*overrides, "method=[ablation_cam,grad_cam]", "+control=[blurred,dilated]", "control_of=[grad_cam]"])
    said = run("method=[layer_cam,grad_cam]", f"like={tmp_path / 'mine'}")
    assert "grad_cam: in" in said and "one table of both" in said
    (merged,) = load_runs([tmp_path / "mine", tmp_path / "mine-2"])
    versions = {f"{method}+{control}" for method in ("grad_cam", "layer_cam") for control in ("blurred", "dilated")}
    assert set(merged.methods) == {"ablation_cam", "grad_cam", "layer_cam", *versions}
    assert "one table of both" in run("method=[grad_cam,centre]", f"like={tmp_path / 'mine'}")  # which has no control versions
    assert set(RunFolder(tmp_path / "mine-3").rows().method) == {"centre"}
    said = run("method=[grad_cam]", "+control=[shuffled]", f"like={tmp_path / 'mine'}")  # needs its method in the same run
    assert f"grad_cam: in {tmp_path / 'mine'} too" in said
    assert set(RunFolder(tmp_path / "mine-4").rows().method) == {"grad_cam", "grad_cam+shuffled"}


def test_relative_paths_are_those_of_the_folder_it_was_started_in(tmp_path, monkeypatch):
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_pictures(there / "pictures")
    monkeypatch.chdir(there)
    overrides = tiny_overrides(there / "pictures", there / "mine")
    relative = ["data.root=pictures", "model.classes=classes.txt", "out=results/mine"]
    launched([one for one in overrides if not one.startswith(("data.root", "out=", "model.classes"))] + relative + ["method=[centre]"])
    monkeypatch.chdir(elsewhere)
    assert "one table of both" in run("method=[layer_cam]", "like=../there/results/mine")
    (job,) = compose_jobs(["method=[layer_cam]", "like=../there/results/mine"])
    assert job.config.data["root"] == str(there / "pictures") and job.config.model.classes == str(there / "classes.txt")
    (there / "results" / "mine").rename(elsewhere / "moved")  # its place no longer tells
    assert "no folder pictures: set data.root" in mistake("method=[grad_cam]", "like=moved")


def test_where_a_run_was_started(tmp_path):
    assert started_in(tmp_path / "a" / "b", "a/b") == tmp_path
    assert started_in(tmp_path / "a" / "b", "./b") == tmp_path / "a"
    assert started_in(tmp_path / "a" / "b", "c/b") is None and started_in(tmp_path / "b", str(tmp_path / "b")) is None
    assert started_in(UPath("memory://x/b"), "b") is None


def test_own_methods_and_edited_files(tmp_path, monkeypatch):
    conf = tmp_path / "conf" / "method"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("# @package method.mine\n_target_: theirs_like.mean_cam\n")
    monkeypatch.syspath_prepend(tmp_path)
    net = "from builders import TinyFC\n\n\ndef net():\n    return TinyFC()\n"
    (tmp_path / "net_like.py").write_text(net)
    (tmp_path / "theirs_like.py").write_text("def mean_cam(probe):\n    return probe.activations.mean(1)\n")
    overrides = tiny_overrides(save_pictures(tmp_path / "pictures"), tmp_path / "mine", "net_like.net")
    launched([*overrides, "method=[centre]"])
    command = ["method=[mine]", f"like={tmp_path / 'mine'}"]
    assert "one table of both" in run("--conf", str(conf.parent), *command)
    added = run("method=[again]", "+method.again._target_=theirs_like.mean_cam", f"like={tmp_path / 'mine'}")
    assert "one table of both" in added and len(load_runs([tmp_path / f"mine{n}" for n in ("", "-2", "-3")])) == 1
    assert "one table of both" in run("method=[layer_cam]", f"like={tmp_path / 'mine-2'}")  # --conf is not needed for its own method
    (tmp_path / "net_like.py").write_text(net + "\n# edited\n")
    assert "other than in" in (said := run("method=[grad_cam]", f"like={tmp_path / 'mine'}")) and "code.model.factory" in said


def test_a_folder_names_no_function_of_others(mine):
    content = yaml.safe_load((mine / "run.yaml").read_text())
    for part, key, name in (
        ("model", "factory", "subprocess.run"),
        ("data", "_target_", "torch.hub.load"),
        ("method", "ablation_cam", {"_target_": "os.system"}),
        ("method", "ablation_cam", {"_target_": "evalkit.methods.ablation_cam", "inner": ["builtins.eval"]}),
    ):
        changed = json.loads(json.dumps(content))
        changed[part][key] = name
        (mine / "run.yaml").write_text(yaml.safe_dump(changed))
        said = mistake(f"like={mine}", "seed=8")
        assert "which is neither evalkit's nor in a file of yours" in said and f"{part}.{key}" in said
    (mine / "run.yaml").write_text(yaml.safe_dump({**content, "data": {"name": "x", "_target_": "posixpath.join"}}))
    with pytest.raises(UserError, match="neither evalkit's"):  # nor for a photograph
        compose_jobs([f"like={mine}"])
    assert compose_jobs([f"like={mine}", "data=digits"])[0].config.data["name"] == "digits"
    assert compose_jobs([f"like={mine}", "data._target_=posixpath.join"])[0].config.data["name"] == "x"  # one's own words


def test_on_another_file_system(made):
    out = UPath("memory://like-runs/mine")
    launched([*tiny_overrides(made / "pictures", made / "x"), "method=[centre]", f"out={out}"])
    said = run("method=[layer_cam]", f"like={out}")
    assert "one table of both" in said and RunFolder("memory://like-runs/mine-2").exists
    assert len(load_runs([out, UPath("memory://like-runs/mine-2")])) == 1


def test_the_images_on_which_until_has_ended(tmp_path):
    pictures = save_pictures(tmp_path / "pictures")
    asked = ["until=centre-constant", "shard_size=1", "batch_size=1", "method=[centre,constant]", "seed=5"]
    overrides = [*tiny_overrides(pictures, tmp_path / "mine", "theirs.TopRows"), *asked]
    for name in "abc":
        for i in range(8):
            Image.new("RGB", (16, 16), (255, 230 + i, 240)).save(pictures / name / f"{i}.png")
    first, _ = launched(overrides)
    assert first.provenance["end"]["settled"] and first.images < 24
    like = f"like={tmp_path / 'mine'}"
    assert "one table of both" in run("method=[layer_cam]", like)
    second = RunFolder(tmp_path / "mine-2")
    assert second.provenance["end"] == first.provenance["end"] and not second.missing()
    assert list(second.rows()["index"].unique()) == list(first.rows()["index"].unique())
    (merged,) = load_runs([tmp_path / "mine", tmp_path / "mine-2"])
    assert len(merged.scored) == 3 * 2 * first.images
    assert "images that this run would not have, or not so (seed: 5 -> 6)" in mistake("method=[grad_cam]", "seed=6", like)
    whole = run("method=[grad_cam]", "until=null", like)
    assert "seed: 5 -> None" in whole and RunFolder(tmp_path / "mine-3").images == 24
    again = run("method=[centre,constant,grad_cam]", "protocol.top_percent=20", like)  # asks the question anew
    assert "protocol.top_percent" in again and "end" in RunFolder(tmp_path / "mine-4").provenance


def test_several_layers(made, tmp_path):
    layers = ["model.layer=[features.0,features.1]", "model.fuse=mean", "method=[ablation_cam,centre]"]
    launched([*tiny_overrides(made / "pictures", tmp_path / "mine"), *layers])
    assert "centre: in" in (said := run("method=[layer_cam,centre]", f"like={tmp_path / 'mine'}")) and "one table of both" in said
    (merged,) = load_runs([tmp_path / "mine", tmp_path / "mine-2"])
    at = {f"{method}@{layer}" for method in ("ablation_cam", "layer_cam") for layer in ("features.0", "features.1", "mean")}
    assert set(merged.methods) == {*at, "centre"}


def test_a_photograph_explained_as_in_a_run(made, tmp_path):
    shutil.copytree(made / "mine", tmp_path / "mine")
    photo = next((made / "pictures" / "a").glob("*.png"))
    done = through_main("explain", str(photo), f"like={tmp_path / 'mine'}", "target=1", "--out", str(tmp_path / "out"))
    assert done.returncode == 0 and (tmp_path / "out" / f"{photo.stem}-explained.png").is_file(), done.stderr


def test_unlike_jobs_are_left_alone():
    (job,) = compose_jobs([])
    assert beside(job) == (job, "")
