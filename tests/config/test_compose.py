"""Overrides in, typed configurations out."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evalkit.config.choices import choices, read_choice
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError


def test_defaults_and_lists():
    (job,) = compose_jobs(["protocol.top_percent=[20,30]", "protocol.select=soft", "limit=5"])
    config = job.config
    assert config.model.name == "digits_fc" and config.protocol.select == ["soft"] and config.protocol.top_percent == [20, 30]
    assert list(config.method) == ["ablation_cam", "grad_cam", "random", "constant", "centre"]
    assert "top_percent:" in job.yaml and config.out == Path("results/digits_fc-digits")


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes(name):
    jobs = compose_jobs(
        [f"experiment={name}", *(["data.root=/data"] if "/data: imagenet" in read_choice("experiment", name, as_text=True) else [])]
    )
    assert len(jobs) == (2 if name == "demo" else 1)
    expected = {"table1": "vgg16", "table2": "inception_v3", "published_soft": "vgg16", "layers": "digits_gap", "planted": "planted"}
    assert jobs[0].config.model.name == expected.get(name, "digits_fc")


def test_the_command_line_wins_over_an_experiment():
    (job,) = compose_jobs(["experiment=demo", "model=digits_gap", "protocol.top_percent=7"])
    assert job.config.model.name == "digits_gap" and job.config.protocol.top_percent == [7]
    (soft,) = compose_jobs(["experiment=published_soft", "data.root=/d", "model=resnet50", "model.layer=layer4"])
    assert (soft.config.model.layer, soft.config.protocol.fill, soft.config.protocol.select) == ("layer4", ["mean"], ["soft"])


def test_chosen_methods_do_not_overwrite_one_another():
    (job,) = compose_jobs(["method=[random,grad_cam]", "method.random.seed=3", "+method.mine._target_=pkg.fn", "+method.mine.power=2"])
    assert {name: m["_target_"] for name, m in job.config.method.items()} == {
        "random": "evalkit.methods.random", "grad_cam": "evalkit.methods.grad_cam", "mine": "pkg.fn",
    }  # fmt: skip
    assert job.config.method["random"]["seed"] == 3 and job.config.method["mine"]["power"] == 2


def test_methods_of_a_command_line_s_own_have_a_place_among_the_others():
    mine = ["+method.mine._target_=mine.cam", "+method.mine.power=2"]
    for chosen, order in (
        ("[mine,grad_cam]", ["mine", "grad_cam"]),
        ("[grad_cam,mine,cam]", ["grad_cam", "mine", "cam"]),
        ("[mine]", ["mine"]),
        ("[grad_cam]", ["grad_cam", "mine"]),
    ):
        (job,) = compose_jobs([f"method={chosen}", *mine])
        assert list(job.config.method) == list(yaml.safe_load(job.yaml)["method"]) == order
        assert job.config.method["mine"] == {"_target_": "mine.cam", "power": 2}
    (job,) = compose_jobs(["method=[cam,grad_cam]", "+method.grad_cam.extra=1"])  # no method of its own, an option
    assert list(job.config.method) == ["cam", "grad_cam"]
    with pytest.raises(UserError, match="no method 'other'"):
        compose_jobs(["method=[mine,other]", *mine])


def test_multirun_is_the_product():
    jobs = compose_jobs(["model=digits_fc,digits_gap", "limit=3,5", "out=o"], multirun=True)
    assert [str(job.config.out) for job in jobs] == [f"o/model={m},limit={n}" for m in ("digits_fc", "digits_gap") for n in (3, 5)]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("batch_size=0", "batch_size=0"),
        ("limit=-1", "limit=-1"),
        ("model.mean=[1,2]", "model.mean"),
        ("method=[]", "no method chosen"),
        ("device=gpu", "device=gpu should be auto, cpu, cuda or one GPU as in cuda:1"),
        ("devices=0", "devices=0 is not valid: give a whole number of 1 or more, or auto"),
        ("launcher=rai", "no launcher 'rai'; did you mean 'ray'?"),
        ("launcher=ray launcher.num_gpus=x", "launcher.num_gpus=x is not valid: give a number of 0 or more, or auto"),
        ("launcher=slurm launcher.tasks=0", "launcher.tasks=0 is not valid: give a whole number of 1 or more"),
        ("out=foo://x", "foo://x cannot be opened"),
        ("target=${oops}", "${oops} names no key of the configuration"),
        ("model=null", "model=null is not valid: model takes one name"),
        ("model=[vgg16,resnet50]", "model takes one name"),
        ("method={a:1}", "method={a: 1} is not valid: method takes a list of names"),
        ("protocol=3", "no protocol '3'"),
        ("~model", "~model leaves no model: choose another one"),
        ("~limits", "no key 'limits' in the configuration that could be deleted"),
        ("model.args={a:1}", "new ones are added, as in +model.args.KEY=VALUE"),
        ("+model.foo=1", "no key 'model.foo' in the configuration; did you mean 'model.fuse'?"),
        ("launcher.name=foo", "launcher.name=foo is not valid: choose local, ray or slurm with launcher=NAME"),
    ],
)
def test_values_that_do_not_fit(overrides, says):
    with pytest.raises(UserError) as mistake:
        compose_jobs(overrides.split())
    assert says in str(mistake.value) and "\n" not in str(mistake.value)


def test_points_on_top_of_combinations_name_what_to_add():
    named = "protocol.points=[{select: soft, fill: black}]"
    with pytest.raises(UserError, match="already names every point") as mistake:
        compose_jobs([named])
    advice = [word.rstrip(",") for word in str(mistake.value).split() if word.startswith("protocol.")]
    assert advice[-1] == "protocol.points=[]"
    (job,) = compose_jobs([named, *advice[:-1]])
    assert [point.select for point in job.config.protocol.points] == ["soft"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("bad", "# @package method.bad\n_target_: [", "not valid yaml: while parsing"),
        ("loose", "_target_: mine.f\n", "begins with the line '# @package method.NAME'"),
        ("grad_cam", "# @package method.grad_cam\n_target_: mine.f\n", "has the name of one of evalkit's own"),
    ],
)
def test_files_of_ones_own_that_do_not_fit(tmp_path, name, text, says):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        compose_jobs([f"method=[{name}]", "data=digits"], conf=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"), [(b"- a\n", "holds a list, not settings"), (b"name: \xe9\n", "is no file of settings in UTF-8")]
)
def test_files_of_ones_own_that_hold_no_settings(tmp_path, content, says):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"mine\.yaml {says}"):
        compose_jobs(["data=mine"], conf=tmp_path)


def test_a_folder_without_the_groups(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "a.yaml").write_text("a: 1\n")
    for conf, says in (
        (tmp_path / "method", f"holds none of the folders model, .*; did you mean {tmp_path}\\?"),
        (tmp_path / "a.yaml", r"\(--conf\) is a file: give the folder"),
        (tmp_path / "nowhere", "no folder .*nowhere"),
    ):
        with pytest.raises(UserError, match=says):
            compose_jobs([], conf=conf)


def test_a_crop_that_stays_on_top_of_another_resize(caplog):
    with pytest.raises(UserError, match=r"model.crop=224 is larger than model.resize=\[128,300\].*set model.crop=128, or model.crop=null"):
        compose_jobs(["model=vgg16", "model.resize=[128,300]"])
    compose_jobs(["model=vgg16", "model.resize=300"])
    assert "the network sees the central 224x224 pixels" in caplog.text
    caplog.clear()
    compose_jobs(["model=vgg16"])
    compose_jobs(["model=vgg16", "model.resize=300", "model.crop=null"])
    assert not caplog.text


def test_a_network_that_timm_has():
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"timm has it: model=timm/vit_tiny_patch16_224$"):
        compose_jobs(["model=vit_tiny_patch16_224"])


def test_composing_imports_no_torch():
    code = "import sys; from evalkit.config.compose import compose_jobs; compose_jobs(['out=3.10']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_switch_of_a_method_that_was_not_chosen():
    with pytest.raises(UserError, match=r"ablation_cam is not among the chosen methods: add it to method=\[...\]"):
        compose_jobs(["method=[grad_cam]", "method.ablation_cam.drop=softmax", "data=digits"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.grad_cam.gradiant=softmax", r"grad_cam takes no 'gradiant'; did you mean 'gradient'\? grad_cam takes gradient$"),
        ("method.ablation_cam.zzz=1", r"ablation_cam takes no 'zzz': ablation_cam takes drop, normalise$"),
        ("method.centre.power=2", r"centre takes no 'power': centre takes no settings$"),
        ("method.grad_cam.layer=layer4", r"a method has no layer of its own: .*, and model\.layer=\[a,b\] explains several$"),
        ("method.mine.power=2", r"a further argument of mine needs a plus, as in \+method\.mine\.power=\.\.\.$"),
    ],
)
def test_an_unknown_key_of_a_method_that_was_chosen(override, says):
    with pytest.raises(UserError, match=says):
        compose_jobs(["method=[grad_cam,ablation_cam,centre]", "+method.mine._target_=mine.f", override, "data=digits"])


@pytest.mark.parametrize("text", ["sample: 3\n", "# Mine\n# @package _global_\nsample: 3\n", "defaults:\n  - override /data: digits\n"])
def test_an_experiment_without_its_first_line(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"{file} lacks the first line '# @package _global_'"):
        compose_jobs(["experiment=mine", "model=digits_gap", "data=digits"], conf=tmp_path)
    file.write_text("# @package _global_\nsample: 3\n")
    assert compose_jobs(["experiment=mine", "model=digits_gap", "data=digits"], conf=tmp_path)[0].config.sample == 3


def test_files_with_the_other_suffix_of_yaml(tmp_path):
    for group in ("experiment", "model", "method"):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yml").write_text("# @package _global_\nsample: 3\n")
        with pytest.raises(UserError, match=rf"{group}/mine\.yml is not read, .*: call it mine\.yaml$"):
            compose_jobs([f"{group}=[mine]" if group == "method" else f"{group}=mine"], conf=tmp_path)


@pytest.mark.parametrize(
    ("name", "factory"), [("builders.py", "builders.Net, Net being what builds it"), ("builders.TinyFC", "builders.TinyFC")]
)
def test_a_network_of_ones_own_has_a_factory(name, factory):
    with pytest.raises(UserError, match=f"model=custom model.factory={factory}"):
        compose_jobs([f"model={name}"])
