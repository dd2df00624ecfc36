"""All of the user's files behind a run determine its identity, however they are imported."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from builders import tiny_overrides

from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session
from evalkit.imports import find
from evalkit.launch.run import run_job
from evalkit.runs import provenance
from evalkit.runs.folder import RunFolder
from evalkit.runs.user_code import UserCode

NET = """
import torch
from builders import TinyFC
def Net():
    torch.manual_seed(0)
    return TinyFC()
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the user's files, by path, into a folder on the Python path; their modules are forgotten afterwards."""
    root = tmp_path / "code"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)

    def files(texts: dict[str, str]) -> None:
        for path, text in texts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        importlib.invalidate_caches()

    yield files
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(root)) or "his_" in name:
            del sys.modules[name]


def labels(dotted: str) -> list[str]:
    """The imported files behind a factory, which is imported first."""
    return list(UserCode().facts("k", dotted, find(dotted, "k")).get("k.imports", {}))


@pytest.mark.parametrize(
    ("texts", "dotted", "imports"),
    [
        ({"his_net.py": "import torch, json\ndef f(): ...\n"}, "his_net.f", []),
        ({"his_net.py": "import his_a\ndef f(): ...\n", "his_a.py": "from his_b import x\n", "his_b.py": "x = 1\n"},
         "his_net.f", ["his_a.py", "his_b.py"]),
        ({"his_net.py": "def f():\n    import his_a\n", "his_a.py": ""}, "his_net.f", ["his_a.py"]),
        ({"his_pkg/__init__.py": "from .sub.net import f\n", "his_pkg/sub/__init__.py": "",
          "his_pkg/sub/net.py": "from ..a import x\ndef f(): ...\n",
          "his_pkg/a.py": "x = 1\n"}, "his_pkg.f", ["his_pkg/__init__.py", "his_pkg/a.py", "his_pkg/sub/__init__.py"]),
        ({"his_space/net.py": "from . import a\ndef f(): ...\n", "his_space/a.py": ""}, "his_space.net.f", ["his_space/a.py"]),
        ({"his_net.py": "import functools, his_a\nf = functools.partial(his_a.g, 1)\n",
          "his_a.py": "import his_b\ndef g(x): ...\n", "his_b.py": ""},
         "his_net.f", ["his_b.py", "his_net.py"]),
        ({"his_net.py": "import his_a\nclass C:\n    def __call__(self): ...\nf = C()\n", "his_a.py": ""}, "his_net.f", ["his_a.py"]),
        ({"his_net.py": "from his_deco import deco\n@deco\ndef f(): ...\n",
          "his_deco.py": "from functools import wraps\ndef deco(g):\n    @wraps(g)\n    def h(): return g()\n    return h\n"},
         "his_net.f", ["his_deco.py"]),
        ({"his_net.py": "from torchvision.models import resnet18 as f\nimport his_a\n", "his_a.py": ""}, "his_net.f", ["his_a.py"]),
        ({"his_net.py": "import importlib\ndef f(): importlib.import_module('his_a')\n", "his_a.py": ""}, "his_net.f", ["his_a.py"]),
        ({"his_net.py": "try:\n    import his_absent\nexcept ImportError:\n    import his_a\ndef f(): ...\n", "his_a.py": "def broken(:\n"},
         None, ["his_a.py"]),
        ({"his_net.py": "import his_a\ndef f(): ...\n", "his_a.py": "import his_net\n"}, "his_net.f", ["his_a.py"]),
    ],
)  # fmt: skip
def test_which_files_are_imported(write, texts, dotted, imports):
    write(texts)
    if dotted is None:  # a file that cannot be imported is hashed, too, and nothing is executed to find it
        assert list(UserCode().facts("k", "his_net.f")["k.imports"]) == imports
    else:
        assert labels(dotted) == imports


def test_what_is_installed_or_evalkits_has_no_hash():
    for dotted in ("torchvision.models.resnet18", "evalkit.methods.grad_cam", "functools.partial", "timm.create_model"):
        assert UserCode().facts("k", dotted) == {}


@pytest.fixture
def run(write, folder, tmp_path):
    """Runs a network in his_net.py, unless other settings are given."""

    def of(*overrides: str, out: str = "run") -> Path:
        for name in [name for name in sys.modules if name.startswith("his_")]:
            del sys.modules[name]
        (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / out, "his_net.Net"), "method=[grad_cam]", *overrides])
        return run_job(job).path

    return of


def test_an_edited_import_is_another_run(write, run):
    write({"his_net.py": "import his_blocks\n" + NET, "his_blocks.py": "A = 1\n"})
    out = run()
    run()
    write({"his_blocks.py": "A = 22\n"})
    with pytest.raises(UserError, match=r"holds another run \(code.model.factory.imports.his_blocks.py: \w+ -> \w+\)"):
        run()
    assert len(load_runs([out])) == 1


@pytest.mark.parametrize(
    ("files", "overrides", "key"),
    [
        ({"his_cam.py": "import his_help\ndef f(probe): return probe.activations.sum(1)\n", "his_help.py": ""},
         ["+method.mine._target_=his_cam.f"], "code.method.mine.imports.his_help.py"),
        ({"his_help.py": "def f(probe): return probe.activations.sum(1)\n"},
         ["+method.mine._target_=theirs.named", "+method.mine.inner=his_help.f"], "code.method.mine.inner"),
        ({"his_help.py": "from evalkit.data.sources import image_folder as f\n"}, ["data._target_=his_help.f"], "code.data._target_"),
    ],
)  # fmt: skip
def test_methods_data_sources_and_dotted_names_among_the_parameters(write, run, files, overrides, key):
    write({"his_net.py": NET, **files})
    run(*overrides)
    write({"his_help.py": files["his_help.py"] + "# edited\n"})
    with pytest.raises(UserError, match=rf"holds another run \({key}: \w+ -> \w+\)"):
        run(*overrides)


def test_a_module_imported_by_a_computed_name_is_found_from_the_network(write, run):
    write({
        "his_net.py": "import importlib, torch\nfrom builders import TinyFC\ndef Net():\n    torch.manual_seed(0)\n"
        "    return importlib.import_module('his_' + 'blocks').Block()\n",
        "his_blocks.py": "from builders import TinyFC\nclass Block(TinyFC): ...\n",
    })  # fmt: skip
    run()
    write({"his_blocks.py": "from builders import TinyFC\nclass Block(TinyFC):\n    x = 1\n"})
    with pytest.raises(UserError, match=r"imports\.his_blocks\.py"):
        run()


COMPUTED = "import importlib\nload = importlib.import_module\n"


@pytest.mark.parametrize(
    "net",
    [
        COMPUTED + "f = load('his_' + 'blocks').f\n" + NET,
        COMPUTED + NET.replace("    torch.manual_seed(0)", "    load(f'his_{str.lower(\"BLOCKS\")}').f()\n    torch.manual_seed(0)"),
        "import importlib.util\nspec = importlib.util.spec_from_file_location('his_b', __file__.replace('net', 'blocks'))\n"
        "b = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(b)\n" + NET,
    ],
)  # fmt: skip
def test_a_helper_imported_by_a_computed_name_is_part_of_the_run(write, run, net):
    write({"his_net.py": net, "his_blocks.py": "import his_deep\ndef f(): return 1\n", "his_deep.py": "A = 1\n"})
    run()
    run()
    write({"his_deep.py": "A = 22\n"})
    with pytest.raises(UserError, match=r"holds another run \(code.model.factory.imports.his_deep.py: \w+ -> \w+\)"):
        run()


def test_a_sweep_over_modules_records_for_each_network_its_own(write, run):
    net = COMPUTED + NET.replace("Net():", "Net(name='a'):\n    load(f'his_models.{name}')")
    write({"his_net.py": net, "his_models/__init__.py": "", "his_models/a.py": "", "his_models/b.py": ""})
    importlib.import_module("his_models.b")  # as a former job of the same process leaves it
    code = json.loads((run("+model.args.name=a") / "provenance.json").read_text())["identity"]["code"]
    assert set(code["model.factory.imports"]) >= {"his_models/__init__.py", "his_models/a.py"}
    assert "his_models/b.py" not in code["model.factory.imports"]


def as_before(path: Path, identity: provenance.Identity) -> None:
    """Give a finished run the identity that earlier versions recorded."""
    assert identity.earlier is not None
    folder = RunFolder(path)
    contents = [(shard, *folder._shard(shard)) for shard in folder.shards]
    record = folder.provenance
    images, size = record["images"], record["shard_size"]
    for file in [*path.rglob("*.parquet"), path / "provenance.json"]:
        file.unlink()
    old = RunFolder(path)
    told = {key: value for key, value in record.items() if key not in ("identity", "identity_hash", "images", "shard_size")}
    old.create_or_resume(provenance.Identity(identity.earlier.facts), told, "", images, size)
    for shard, rows, maps, description in contents:
        old.write_shard(shard, rows, maps, {key: value for key, value in description.items() if key not in ("identity", "shard")})


def test_runs_of_earlier_versions_resume_and_are_compared_with_new_ones(write, run, folder, tmp_path):
    write({"his_net.py": "import his_blocks\n" + NET, "his_blocks.py": "A = 1\n"})
    out = run("maps=store")
    (job,) = compose_jobs([*tiny_overrides(folder, out, "his_net.Net"), "method=[grad_cam]"])
    as_before(out, provenance.identify(open_session(job.config)))
    before = json.loads((out / "provenance.json").read_text())
    assert not any("imports" in key for key in before["identity"]["code"])
    (out / "rows" / "shard-00001.parquet").unlink()
    run("maps=store")
    assert json.loads((out / "provenance.json").read_text()) == before and not RunFolder(out).missing()
    other = run("method=[grad_cam,centre]", f"maps_from={out}", out="other")
    with pytest.raises(UserError, match=r"holds another run \(protocol.fill: [^;]*\)"):
        run("protocol.fill=mean")
    (out / "provenance.json").write_text("{")  # a damaged record is written again, for the shards that are there
    run("maps=store")
    assert json.loads((out / "provenance.json").read_text())["identity_hash"] == before["identity_hash"]
    again = run("method=[centre]", out="third")
    assert len(load_runs([out, again])) == 1 and len(load_runs([out, other])) == 2  # grad_cam twice: not merged
    write({"his_net.py": (tmp_path / "code" / "his_net.py").read_text() + "# edited\n"})
    with pytest.raises(UserError, match=r"holds another run \(code.model.factory: \w+ -> \w+\)"):
        run()
