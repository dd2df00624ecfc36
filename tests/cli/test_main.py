"""The command line as a user meets it: exit codes, sentences, files."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from builders import ROOT, save_pictures, tiny_overrides
from commands import ENVIRONMENT, Command, evalkit, here, through_main
from kill_runs import heed_interrupts

from evalkit.cli import main
from evalkit.cli.run import Stopped, run
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.evaluation import loop
from evalkit.runs.folder import RunFolder


def test_run_then_tables_then_nothing_left_to_do(folder, tmp_path):
    overrides = tiny_overrides(folder, tmp_path / "run")
    (folder / "c" / "3.png").write_bytes(b"")
    first = evalkit("run", *overrides)
    assert first.returncode == 0, first.stderr
    assert "12 images in" in first.stderr and "; 11 of 12 images scored (1 unreadable)" in first.stderr and not first.stdout
    assert "every shard was done before" in here("run", *overrides).stderr
    tables = through_main("tables", str(tmp_path / "run"))
    assert tables.returncode == 0, tables.stderr
    for text in ("RANDOM WEIGHTS", "11 of 12 images scored", "1 unreadable", "constant 11 (100.0 %)", "Average drop %"):
        assert text in tables.stdout
    made = {p.name for p in (tmp_path / "run").rglob("*")}
    assert {"tables.md", "tables.tex", "summary.csv", "comparisons.csv", "run-drop.png", "run-drop.pdf", "run-wins.pdf"} <= made
    assert "run-keep_top-black-threshold.png" in made
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert provenance["weights"] == "random (seed 0)" and provenance["images"] == 12
    assert (tmp_path / "run" / "run.yaml").read_text().startswith("model:")
    assert "holds another run (target: predicted -> label)" in str(here("run", *overrides, "target=label").exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "model=vgg61"], "no model 'vgg61'; did you mean 'vgg16'?"),
        (["run", "method=[grad_cam,ablation-cam]"], "no method 'ablation-cam'; did you mean 'ablation_cam'?"),
        (["run", "protocol.top_percnt=20"], "no key 'protocol.top_percnt' in the configuration; did you mean 'protocol.top_percent'?"),
        (["run", "protocol.top_percent=120"], "protocol.top_percent=120 is not valid: give a number from 0 to 100"),
        (["run", "protocol.select=keep"], "give keep_top, remove_top or soft, or a list of such; did you mean 'keep_top'?"),
        (["run", "target=all"], "target=all: the model has no such class"),
        (["run", "model=vgg16", "data=imagenet"], "data.root is not set: add data.root=..."),
        (["run", "model=vgg16", "model.weights=null", "data=imagenet", "data.root=/nowhere"], "no folder /nowhere: set data.root"),
        (["run", "sample=3", "limit=3"], "exclude each other"),
        (["run", "model=vgg16,alexnet"], "need -m (multirun)"),
        (["run", "limit=true"], "limit=true is not valid: give a whole number"),
        (["run", "model.interpolation=nearest"], "model.interpolation=nearest is not valid: give bilinear or bicubic"),
        (["run", "model.std=[1,0,1]"], "model.std=[1,0,1]: images are scaled to [0, 1] before normalisation; give values above 0"),
        (["run", "limit"], "'limit' is not an override of the form key=value"),
        (["run", "model.layer=features.31"], "layer 'features.31' is not in DigitsFC; did you mean 'features.13'?"),
        (["run", "method=[cam]"], "cam needs global average pooling"),
        (["tables", "/nowhere"], "is not a run folder"),
        (["list", "modles"], "cannot list 'modles'; did you mean 'models'?"),
        (["explain", "/nowhere.jpg", "model=vgg16"], "cannot read /nowhere.jpg"),
        (["explain", "/nowhere.jpg"], "explain needs a model, as in model=resnet50"),
        (
            ["figure", "units", "/nowhere.jpg", "model=vgg16", "model.layer=[a,b]"],
            "evalkit figure units needs one layer, and model.layer=[a,b]",
        ),
        (["app", "model.layer=[a,b]"], "evalkit app, whose page has a choice of layers, needs one layer"),
        (["bench", "ablation", "--model", "digits_gap", "model.layer=[a,b]"], "this benchmark needs one layer, and model.layer=[a,b]"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mistake = here(*arguments).exception
    assert isinstance(mistake, UserError) and says in str(mistake) and "\n" not in str(mistake)


@pytest.mark.parametrize("arguments", [["run", "model=vgg61"], ["run", "target=all"], ["tables", "/nowhere"]])
def test_mistakes_end_in_one_line_and_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = through_main(*arguments)
    assert found.returncode == 2 and found.stderr.startswith("error: ") and not found.stdout
    assert "Traceback" not in found.stderr and len(found.stderr.strip().splitlines()) == 1


def test_multirun_names_folders_by_overrides(folder, tmp_path):
    overrides = [o for o in tiny_overrides(folder, tmp_path / "many") if not o.startswith("protocol")]
    assert here("run", "-m", *overrides, "protocol.fill=black,mean", "seed=0,1").exit_code == 0
    names = {p.name for p in (tmp_path / "many").iterdir()}
    assert names == {f"protocol.fill={fill},seed={seed}" for fill in ("black", "mean") for seed in (0, 1)}
    tables = here("tables", str(tmp_path / "many"), "--no-figures")
    assert tables.exit_code == 0
    assert all(f"({name})" in tables.stdout for name in names)  # titles tell the runs apart
    refused = here("tables", str(tmp_path / "many"), "--out", str(tmp_path / "classes.txt"))
    assert "choose another folder with --out" in str(refused.exception)


def test_a_method_and_a_yaml_from_outside_the_package(folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text("def brightness(probe, sign=1):\n    return sign * probe.images.mean(1)\n")
    conf = tmp_path / "myconf" / "method"
    conf.mkdir(parents=True)
    (conf / "dark.yaml").write_text("# @package method.dark\n# The darker, the higher.\n_target_: mine.brightness\nsign: -1\n")
    base = tiny_overrides(folder, tmp_path / "run")
    arguments = ["--conf", str(tmp_path / "myconf"), *base, "method=[grad_cam,dark]", "+method.bright._target_=mine.brightness"]
    found = through_main("run", *arguments)
    assert found.returncode == 0, found.stderr
    rows = pd.concat(pd.read_parquet(f) for f in (tmp_path / "run" / "rows").glob("*.parquet"))
    assert set(rows.method) == {"grad_cam", "dark", "bright"}
    listed = here("list", "methods", "--conf", str(tmp_path / "myconf"))
    assert "The darker, the higher." in listed.stdout


def test_incomplete_runs_are_refused_or_named(folder, tmp_path):
    assert here("run", *tiny_overrides(folder, tmp_path / "run")).exit_code == 0
    (tmp_path / "run" / "rows" / "shard-00001.parquet").unlink()
    assert "is not finished: 1 shard missing" in str(here("tables", str(tmp_path / "run")).exception)
    shown = here("tables", str(tmp_path / "run"), "--allow-incomplete", "--no-figures")
    assert shown.exit_code == 0 and "INCOMPLETE: 1 shard missing" in shown.stdout


def test_kill_and_resume(tmp_path):
    """SIGKILL after the first shard and before the last; then another batch size."""
    base = ["run", "limit=120", "shard_size=20", "workers=0", "method=[ablation_cam,grad_cam,random]"]
    assert here(*base, f"out={tmp_path / 'whole'}").exit_code == 0
    process = Command(tmp_path / "printed", *base, f"out={tmp_path / 'cut'}", "batch_size=4")
    rows = tmp_path / "cut" / "rows"
    while process.poll() is None and not (rows / "shard-00000.parquet").exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(rows.glob("shard-*.parquet")))
    assert 1 <= done < 6
    again = here(*base, f"out={tmp_path / 'cut'}", "batch_size=7")
    assert again.exit_code == 0 and f"{120 - 20 * done} images in" in again.stderr
    keys = ["index", "method"]
    whole, cut = (
        pd.concat(pd.read_parquet(f) for f in sorted((tmp_path / n / "rows").glob("*.parquet"))).sort_values(keys) for n in ("whole", "cut")
    )
    assert cut[keys].to_numpy().tolist() == whole[keys].to_numpy().tolist()
    differing = (cut.logit_masked.to_numpy() - whole.logit_masked.to_numpy()).__abs__() > 1e-3
    assert (whole.rank_gap.to_numpy()[differing] < 1e-5).all()


def test_explain_and_lists(tmp_path):
    Digits().load(3).save(tmp_path / "three.png")
    arguments = ["target=2", "method=[ablation_cam,grad_cam,cam]", "model=digits_gap", "--out", str(tmp_path / "out")]
    assert here("explain", str(tmp_path / "three.png"), *arguments).exit_code == 0
    assert (tmp_path / "out" / "three-explained.png").stat().st_size > 10_000
    for what, text in (("models", "inception_v3"), ("methods", "ablation_cam"), ("data", "root=???")):
        assert text in here("list", what).stdout
    layers = here("list", "layers", "digits_fc").stdout
    assert "features.13" in layers and "tier 2" in layers


def test_tables_do_not_load_torch():
    code = (
        "import sys, evalkit.analysis.summary, evalkit.output.tables, evalkit.output.plots, evalkit.cli.main; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert found.stdout.strip() == "False"


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start a command whose Python also ends by itself, where decoders may disturb it."""
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "evalkit", *arguments],
        stderr=(folder / "stderr").open("w"),
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509
    )


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_stopping_in_order(tmp_path, how, workers):
    """Signalled as terminals and schedulers do: the whole process group, with the processes that decode."""
    arguments = ["run", "limit=400", "shard_size=4", "batch_size=4", f"out={tmp_path / 'run'}", f"workers={workers}"]
    process = start(tmp_path / "printed", *arguments) if workers else Command(tmp_path / "printed", *arguments)
    while not (tmp_path / "run" / "rows" / "shard-00000.parquet").exists():
        time.sleep(0.01)
    os.killpg(process.pid, how)
    code, said = process.wait(60), (tmp_path / "printed" / "stderr").read_text()
    assert code == 130, said
    assert f" of 400 images are kept in {tmp_path / 'run'}; the same command continues with the rest" in said and "Traceback" not in said
    assert int(said.partition("stopped: ")[2].split()[0]) == 400 - sum(RunFolder(tmp_path / "run").images_left().values())
    assert not list((tmp_path / "run" / "claims").iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_swallows_is_heeded_at_the_next_image(tmp_path, monkeypatch):
    """As it does inside finalizers: it prints the exception, and goes on."""
    monkeypatch.setattr("evalkit.cli.run.asked_to_stop", stopping := threading.Event())
    monkeypatch.setattr(main, "asked_to_stop", stopping)
    computed = loop.compute

    class Finalized:
        def __del__(self):
            main._stop()

    def interrupted(*arguments, **named):
        Finalized()
        return computed(*arguments, **named)

    monkeypatch.setattr("evalkit.launch.run.compute", interrupted)
    with pytest.raises(Stopped, match="8 of 64 images are kept"):
        run([f"out={tmp_path / 'run'}", "limit=64", "batch_size=8", "shard_size=8"])
    assert len(list((tmp_path / "run" / "rows").glob("*"))) == 1


@pytest.mark.parametrize(
    ("variables", "shell", "code", "says"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "$0 -m evalkit tables $1 --no-figures", 0, "written:"),
        ({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}, "$0 -m evalkit tables $1 --no-figures", 0, "written:"),
        ({}, "$0 -m evalkit tables $1 --no-figures > /dev/full", 2, "error: cannot write to standard output (No space left on device)"),
        ({}, "$0 -m evalkit tables $1 --no-figures >&-", 0, "written:"),
        ({}, "set -o pipefail; $0 -m evalkit tables $1 --no-figures | true", 1, ""),
        ({}, "mkdir $1/gone; cd $1/gone; rmdir $1/gone; $0 -m evalkit run limit=1", 2, "error: the current folder was deleted"),
    ],
)
def test_streams_that_cannot_take_everything(small_run, variables, shell, code, says):
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(ROOT), ENVIRONMENT["PYTHONPATH"]]), **variables}
    ended = subprocess.run(["bash", "-c", shell, sys.executable, str(small_run)], capture_output=True, env=environment, check=False)
    err = ended.stderr.decode()
    assert ended.returncode == code and says in err and "Traceback" not in err and "Exception ignored" not in err, err
    if says == "written:":
        assert "r\N{GREEK SMALL LETTER ETA}seau" in (small_run / "tables.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    overrides = tiny_overrides(save_pictures(folder / "pictures"), folder / "run")
    assert here("run", *overrides, "method=[grad_cam]", "model.name=r\N{GREEK SMALL LETTER ETA}seau").exit_code == 0
    return folder / "run"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "data=image_folder", "data.root=~nobody9/x"], ["run", "out=~nobody9/x"], ["run", "maps_from=~nobody9/x"],
        ["run", "model.weights=~nobody9/x.pth"], ["run", "model.classes=~nobody9/x"], ["run", "model.class_map=~nobody9/x.csv"],
        ["run", "data=image_folder", "data.root=.", "data.labels=~nobody9/x.csv"], ["tables", "~nobody9/x"],
        ["tables", ".", "--out=~nobody9/x"], ["report", "~nobody9/x"], ["explain", "~nobody9/x.png", "model=vgg16"],
        ["app", "--images=~nobody9/x"], ["study", "score", "~nobody9/x", "a.json"], ["study", "score", "x", "~nobody9/a.json"],
        ["figure", "unit", "~nobody9/x.png", "model=vgg16"], ["list", "models", "--conf=~nobody9/x"],
    ],
)  # fmt: skip
def test_a_home_folder_that_is_not_there(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mistake = here(*arguments).exception
    assert isinstance(mistake, UserError), mistake
    assert "'~nobody9' stands for a home folder, and there is no user 'nobody9'; write the whole path" in str(mistake)


def test_the_home_folder_everywhere(tmp_path, monkeypatch, small_run):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(small_run.parent))
    assert here("tables", "~/run", "--out=~/elsewhere", "--no-figures").exit_code == 0
    assert (small_run.parent / "elsewhere" / "tables.md").is_file() and not list(tmp_path.iterdir())
