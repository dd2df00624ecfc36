"""What all methods promise: short, named in conf, cited, blind to the batch; and a new one needs no edit in the package."""

import ast
import inspect
import textwrap

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, tiny_overrides

from evalkit import Probe, SplitModel, methods
from evalkit.config.choices import choices, read_choice
from evalkit.config.compose import compose_jobs
from evalkit.imports import find
from evalkit.launch.run import run_job

KINDS = sorted({str(read_choice("method", name)["_target_"]) for name in choices("method")} - {"evalkit.methods.cam"})
"""Functions behind conf/method; CAM is defined on some networks only."""


def lines_of(function) -> int:
    """Lines of a function without its docstring."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return body[-1].end_lineno - body[0].lineno + 2


@pytest.mark.parametrize("target", [*KINDS, "evalkit.methods.cam"])
def test_a_method_is_one_short_function_with_its_source(target):
    function = find(target, "method")
    assert lines_of(function) <= 25
    assert "(N," in inspect.getdoc(function)


def test_every_exported_method_has_a_yaml():
    listed = {target.rpartition(".")[2] for target in [*KINDS, "evalkit.methods.cam"] if target.count(".") == 2}
    assert set(methods.__all__) - {"guided"} == listed


def parameters(name):
    return {key: value for key, value in read_choice("method", name).items() if key != "_target_"}


@pytest.mark.parametrize("name", [name for name in choices("method") if name not in ("cam", "pytorch_grad_cam", "torch_cam", "captum")])
@pytest.mark.parametrize("factory", [TinyFC, TinyGAP])
def test_maps_do_not_depend_on_the_batch(name, factory):
    """The adapters have their own such test."""
    net = SplitModel(factory().eval(), "features", mean=HALF, std=HALF)
    function = find(read_choice("method", name)["_target_"], name)
    given = parameters(name) | ({"window": 4, "stride": 2} if name == "occlusion" else {})
    images, indices = torch.rand(5, 3, 16, 16), torch.arange(20, 25)
    together = function(Probe(net, images, indices=indices), **given)
    alone = torch.cat([function(Probe(net, images[i : i + 1], indices=indices[i : i + 1]), **given) for i in range(5)])
    assert together.shape[0] == 5 and torch.isfinite(together).all()
    assert torch.allclose(together, alone, atol=1e-5 * float(together.abs().max()) + 1e-7)


def test_a_method_from_outside_by_one_function_and_one_yaml(folder, tmp_path, monkeypatch):
    """README's own example, in a file outside the package."""
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\ndef brightness_cam(probe, power=1.0):\n"
        "    weights = probe.activations.mean((2, 3)) ** power\n"
        '    return torch.einsum("nk,nkhw->nhw", weights, probe.activations)\n'
    )
    (tmp_path / "myconf" / "method").mkdir(parents=True)
    (tmp_path / "myconf" / "method" / "mine.yaml").write_text("# @package method.mine\n_target_: mine.brightness_cam\npower: 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    by_yaml = [*tiny_overrides(folder, tmp_path / "yaml"), "method=[grad_cam,guided_ablation_cam,mine]", "maps=store"]
    (job,) = compose_jobs(by_yaml, conf=tmp_path / "myconf")
    one = run_job(job).rows()
    assert set(one.method) == {"grad_cam", "guided_ablation_cam", "mine"} and set(one.status) <= {"ok", "degenerate"}
    by_name = ["method=[grad_cam,guided_ablation_cam]", "+method.mine._target_=mine.brightness_cam", "+method.mine.power=2"]
    (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "name"), *by_name])
    assert run_job(job).rows().equals(one)
