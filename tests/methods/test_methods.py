"""What all methods promise: short, named in conf, cited, blind to the batch; and a new one needs no edit in the package."""

import ast
import inspect
import textwrap
from functools import partial

import pytest
import torch
from builders import HALF, TinyFC, TinyGAP, tiny_overrides

from evalkit import Probe, SplitModel, methods
from evalkit.config.choices import choices, read_choice
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.apply import apply_method
from evalkit.imports import find
from evalkit.launch.run import run_job

KINDS = sorted({str(read_choice("method", name)["_target_"]) for name in choices("method")} - {"evalkit.methods.cam"})
"""Functions behind conf/method; CAM is defined on some networks only."""


SMALL = {"occlusion": {"window": 4, "stride": 2}}
"""Parameters that fit images of 16 pixels."""


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
    given = parameters(name) | SMALL.get(name, {})
    images, indices = torch.rand(5, 3, 16, 16), torch.arange(20, 25)
    together = function(Probe(net, images, indices=indices), **given)
    alone = torch.cat([function(Probe(net, images[i : i + 1], indices=indices[i : i + 1]), **given) for i in range(5)])
    assert together.shape[0] == 5 and torch.isfinite(together).all()
    assert torch.allclose(together, alone, atol=1e-5 * float(together.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", choices("method"))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_with_16_bits(name, dtype):
    """A method gives about the map that it gives in float32, or says that it cannot."""
    function = partial(find(read_choice("method", name)["_target_"], name), **parameters(name) | SMALL.get(name, {}))
    images, targets = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    maps = []
    for kind in (torch.float32, dtype):
        torch.manual_seed(0)
        net = SplitModel(TinyGAP().eval().to(kind), "features", mean=HALF, std=HALF)
        if name == "pytorch_grad_cam" and kind == torch.bfloat16:
            with pytest.raises(UserError, match="numpy, which has no bfloat16"):
                apply_method(name, function, Probe(net, images, targets=targets))
            return
        maps.append(apply_method(name, function, Probe(net, images, targets=targets)))
    assert torch.isfinite(maps[1]).all()
    assert torch.cosine_similarity(*(of_kind.flatten() for of_kind in maps), dim=0) > 0.95


def test_sums_beyond_the_range_of_float16():
    """Activations of 100 at 1024 positions: float16 ends at 65504."""

    images, targets = torch.rand(1, 3, 64, 64), torch.tensor([1])
    found = []
    for kind in (torch.float32, torch.float16):
        torch.manual_seed(0)
        module = TinyGAP().eval()
        with torch.no_grad():
            for part in module.features:
                if hasattr(part, "bias") and part.bias is not None:
                    part.bias += 100
        net = SplitModel(module.to(kind), "features", mean=HALF, std=HALF)
        probe = Probe(net, images, targets=targets)
        found.append([methods.xgrad_cam(probe).float(), methods.ablation_cam(probe, normalise="norm").float()])
    assert float(probe.activations.float().sum((2, 3)).max()) > 65504
    for exact, half in zip(*found, strict=True):
        assert torch.isfinite(half).all() and torch.allclose(exact, half, rtol=0.1, atol=0.1 * float(exact.abs().max()))


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
