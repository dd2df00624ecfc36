"""State dicts as training scripts leave them: they are loaded right, or refused in one sentence."""

import logging
from collections import OrderedDict

import pytest
import torch
from builders import TinyFC, TinyGAP
from torch import Tensor, nn

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.models import zoo
from evalkit.models.fitting import fit
from evalkit.models.weights import hash_weights


def settings(weights="w.pth", factory="builders.TinyGAP", *more: str):
    network = [f"model.factory={factory}", "model.layer=features", f"model.weights={weights}", "model.resize=[16,16]"]
    return compose_jobs(["model=custom", *network, *more])[0].config.model


def loaded(content: object, into: nn.Module | None = None) -> nn.Module:
    module = into or TinyGAP()
    fit(module, content, settings())
    return module


def trained(module: nn.Module | None = None) -> nn.Module:
    """A network with values in every parameter and buffer that a new one does not have."""
    module = module or TinyGAP()
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.rand(value.shape) * 9 + 2)
    return module


def prefixed(state, prefix: str):
    return {prefix + name: value for name, value in state.items()}


def said(caplog) -> str:
    (record,) = caplog.records
    caplog.clear()
    return record.getMessage()


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class OwnModule(nn.Module):
    """Has a submodule with the name that DataParallel gives to what it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    "entry",
    [
        "model", "state_dict", "model_state_dict", "ema", "model_ema", "state_dict_ema", "net", "network", "weights", "params",
        "params_ema", "module", "ema/module", "state_dict/model", "checkpoint/weights", "checkpoint/models/ema", "a/b/c", "generator", "0",
    ],
)  # fmt: skip
def test_nested_under_the_names_of_training_scripts(entry):
    state = trained().state_dict()
    content: object = state
    for key in reversed(entry.split("/")):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "rng": torch.get_rng_state()}
    content = [state, 3] if entry == "0" else content
    assert hash_weights(loaded(content).state_dict()) == hash_weights(state)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "module._orig_mod.", "a.b.c."]
)
def test_prefixes_are_removed_where_all_keys_have_them_and_added_where_the_network_has_them(prefix):
    state = trained().state_dict()
    assert hash_weights(loaded(prefixed(state, prefix)).state_dict()) == hash_weights(state)
    wrapped = loaded(prefixed(state, prefix), Wrapper(Wrapper(TinyGAP())))
    assert hash_weights(wrapped.net.net.state_dict()) == hash_weights(state)
    assert hash_weights(loaded(state, wrapped).net.net.state_dict()) == hash_weights(state)
    partly = {(prefix if name.startswith("features") else "") + name: value for name, value in state.items()}
    if "module" not in prefix and "_orig_mod" not in prefix:
        with pytest.raises(UserError, match=rf"it lacks 6 keys \(features.*it has 7 keys \({prefix}features.*the network has not"):
            loaded(partly)


def test_a_submodule_called_as_a_wrapper_calls_its_own_keeps_its_name():
    for module in (OwnModule(), Wrapper(OwnModule()), nn.Sequential(OrderedDict(model=OwnModule()))):
        state = trained(module).state_dict()
        for content in (state, prefixed(state, "module."), prefixed(state, "module._orig_mod.")):
            other = loaded(content, {OwnModule: OwnModule}.get(type(module), lambda m=module: trained(m))())
            assert hash_weights(other.state_dict()) == hash_weights(state if isinstance(module, OwnModule) else module.state_dict())


def test_parts_wrapped_by_dataparallel_or_compiled():
    state = trained().state_dict()
    inner = {name.replace("features.", "features.module.").replace("fc.", "fc._orig_mod."): value for name, value in state.items()}
    assert hash_weights(loaded(inner).state_dict()) == hash_weights(state)
    compiled = TinyGAP()
    compiled.features = torch.compile(compiled.features)
    assert "features._orig_mod.0.weight" in compiled.state_dict()
    assert all(map(torch.equal, loaded(state, compiled).state_dict().values(), state.values()))


def test_the_averaged_model_of_torch(caplog):
    module = trained()
    averaged = torch.optim.swa_utils.AveragedModel(module)
    averaged.update_parameters(module)
    assert "n_averaged" in averaged.state_dict()
    with caplog.at_level(logging.INFO):
        assert hash_weights(loaded(averaged.state_dict()).state_dict()) == hash_weights(module.state_dict())
    assert said(caplog) == "weights of w.pth: prefix module. removed, left out n_averaged"


def test_of_several_that_fit_the_trained_one_is_taken_and_named(caplog):
    first, second = trained().state_dict(), trained().state_dict()
    with caplog.at_level(logging.WARNING):
        assert hash_weights(loaded({"model_ema": second, "model": first}).state_dict()) == hash_weights(first)
    assert said(caplog) == "weights of w.pth: read from model, though model_ema would fit too"
    assert hash_weights(loaded({"model_ema": second, "model": TinyFC().state_dict()}).state_dict()) == hash_weights(second)
    assert not caplog.records
    with pytest.raises(UserError, match=r"several state dicts that fit \(student, teacher\): save the one you mean alone"):
        loaded({"student": first, "teacher": second})


def test_old_checkpoints_without_counts_of_batches_and_one_name_of_a_shared_tensor():
    state = trained().state_dict()
    del state["features.1.num_batches_tracked"]
    assert torch.equal(loaded(state).fc.weight, state["fc.weight"])

    def tied() -> nn.Module:
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    state = trained(tied()).state_dict()
    del state["0.weight"]
    assert torch.equal(loaded(state, tied())[0].weight, state["1.weight"])


def test_names_that_the_networks_own_hooks_know():
    class Renames(TinyGAP):
        def _load_from_state_dict(self, state_dict, prefix, *more):
            for name in [name for name in state_dict if name.startswith("head.")]:
                state_dict["fc." + name.removeprefix("head.")] = state_dict.pop(name)
            super()._load_from_state_dict(state_dict, prefix, *more)

    state = trained().state_dict()
    old = {name.replace("fc.", "head."): value for name, value in state.items()}
    assert hash_weights(loaded(old, Renames()).state_dict()) == hash_weights(state)


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda s: without(s, "fc.bias"), r"does not fit builders\.TinyGAP: it lacks 1 key \(fc\.bias\)$"),
        (lambda s: {**s, "aux.weight": torch.ones(1)}, r"it has 1 key \(aux\.weight\) that the network has not$"),
        (lambda s: {**s, "epoch": 3}, r"it has 1 key \(epoch\) that"),
        (
            lambda s: without(s, "fc.bias", "fc.weight") | {"head.weight": torch.ones(2), "features.1.bias": torch.ones(4)},
            r"it lacks 2 keys \(fc\.weight, fc\.bias\), it has 1 key \(head\.weight\) that the network has not, 1 key of another shape "
            r"or type \(features\.1\.bias: 4 instead of 8\)$",
        ),
        (
            lambda s: {"state_dict": prefixed(without(s, "fc.bias"), "module.")},
            r"w\.pth, entry state_dict, does not fit builders.TinyGAP without the prefix module\.: it lacks 1 key \(fc\.bias\)$",
        ),
        (
            lambda s: prefixed(without(s, "fc.bias"), "net.") | {"net.head.bias": s["fc.bias"], "loss.weight": torch.ones(5)},
            r"without the prefix net\.: it lacks 1 key \(fc\.bias\), it has 1 key \(head\.bias\) that the network has not$",
        ),
        (
            lambda s: nn.Linear(2, 2).state_dict(),
            r"none of its keys \(weight, bias\) is one of the network's \(features\.0\.weight, .* 5 more\)",
        ),
        (lambda s: {**s, "fc.bias": [0.0] * 5}, r"fc\.bias: list instead of 5"),
        (lambda s: {}, "holds an empty state dict"),
        (lambda s: 3, "holds no state dict, but a int"),
        (lambda s: {"epoch": 3, "optimizer": {}}, "holds no state dict, .* but epoch: int, optimizer: dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(content, says):
    with pytest.raises(UserError, match=says) as refused:
        loaded(content(trained().state_dict()))
    assert "\n" not in str(refused.value)


def test_the_state_dict_of_a_part_or_of_a_whole_around_the_network_is_said():
    class Normalises(Wrapper):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.register_buffer("mean", torch.zeros(3))

    with pytest.raises(UserError, match=r"it fits the network's part 'net': load it there in the factory, with model\.weights=null"):
        loaded(prefixed(trained().state_dict(), "module."), Normalises(TinyGAP()))
    with pytest.raises(UserError, match=r"none of its keys \(mean, .*; its keys that begin with 'net\.' fit: .* does not need mean$"):
        loaded(Normalises(TinyGAP()).state_dict())
    with_head = prefixed(trained().state_dict(), "model.") | {"head.weight": torch.ones(5, 5), "loss.weight": torch.ones(5)}
    with pytest.raises(UserError, match=r"none of its keys \(model\.feat.*begin with 'model\.' fit: .* does not need head\.weight$"):
        loaded({"state_dict": with_head})


@pytest.mark.parametrize("outer", ["", "module.", "_orig_mod."])
def test_losses_and_metrics_beside_the_network_are_left_out_and_named(caplog, outer):
    state = trained().state_dict()
    beside = {"criterion.weight": torch.ones(5), "val_acc.total": torch.tensor(3), "val_acc.seen": torch.tensor(3)}
    beside["val.confusion"] = torch.ones(5, 5, dtype=torch.long)
    content = {"state_dict": prefixed(prefixed(state, "net.") | beside, outer), "optimizer_states": [{"state": {}}], "hyper_parameters": {}}
    assert hash_weights(loaded(content).state_dict()) == hash_weights(state)
    prefix = f"{outer} and net." if outer else "net."
    left = "criterion.weight, val_acc.* (2 keys), val.confusion"
    assert said(caplog) == f"weights of w.pth: read from state_dict, prefix {prefix} removed, left out {left}"
    for name in ("criterion.weight", "weight"):  # a kernel, and a buffer of the outer module itself
        with pytest.raises(UserError, match=rf"begin with 'net\.' fit: .* does not need {name}$"):
            loaded(prefixed(prefixed(state, "net.") | {name: torch.ones(5, 5) if "." in name else torch.ones(3)}, outer))


def test_of_several_networks_in_one_state_dict_the_trained_one_is_taken_if_a_name_says_which(caplog):
    first, second = trained().state_dict(), trained().state_dict()
    assert hash_weights(loaded(prefixed(second, "ema_model.") | prefixed(first, "net.")).state_dict()) == hash_weights(first)
    assert "though ema_model would fit too, prefix net. removed, left out ema_model.* (9 keys)" in said(caplog)
    for names in (("student", "teacher"), ("net", "model")):
        with pytest.raises(UserError, match=rf"several state dicts that fit \({', '.join(names)}\): save the one you mean alone"):
            loaded(prefixed(first, f"{names[0]}.") | prefixed(second, f"{names[1]}."))


def test_what_was_found_and_changed_is_said_in_one_line(caplog):
    caplog.set_level(logging.INFO)
    state = trained().state_dict()
    loaded(state)
    assert not caplog.records
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        content = {name: value.to(dtype) if value.is_floating_point() else value for name, value in prefixed(state, "module.").items()}
        module = loaded({"epoch": 3, "model": content})
        assert torch.equal(module.fc.weight, content["module.fc.weight"].float())
        assert said(caplog) == f"weights of w.pth: read from model, prefix module. removed, cast from {str(dtype)[6:]} to float32"
    loaded(state, Wrapper(TinyGAP()))
    assert said(caplog) == "weights of w.pth: prefix net. added"
    assert torch.equal(loaded(state, TinyGAP().half()).fc.weight, state["fc.weight"].half())
    assert said(caplog) == "weights of w.pth: cast from float32 to float16"
    loaded({name.replace("features.", "features.module."): value for name, value in state.items()})
    assert said(caplog) == "weights of w.pth: prefix module. removed"


def test_tensors_of_an_optimizer_are_no_weights():
    module = trained()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.rand(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    with pytest.raises(UserError, match="holds no state dict"):
        loaded({"run": {"optimizer": optimizer.state_dict()}})


@pytest.mark.parametrize(("factory", "argument"), [("builders.TinyGAP", "classes"), ("torchvision.models.squeezenet1_1", "num_classes")])
def test_another_number_of_classes_is_said(factory, argument):
    build = zoo.find(factory, "model.factory")
    with pytest.raises(UserError, match=rf"these weights have 7 outputs: set \+model\.args\.{argument}=7$"):
        fit(build(), prefixed(build(**{argument: 7}).state_dict(), "module."), settings("w.pth", factory))
    named = settings("w.pth", "builders.TinyGAP", "+model.args.classes=3")
    with pytest.raises(UserError, match=r"7 outputs: set model\.args\.classes=7$"):
        fit(TinyGAP(3), TinyGAP(7).state_dict(), named)


def test_a_load_that_fails_in_the_networks_own_code():
    class Strict(TinyGAP):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            raise ValueError(f"version {state['version']} is too old\nand so on")

    with pytest.raises(UserError, match=r"does not fit builders\.TinyGAP: ValueError: version 1 is too old$"):
        loaded(Strict().state_dict(), Strict())


def test_quantised_networks_load_their_own_state():
    def quantised() -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(trained(TinyFC()), {nn.Linear}, dtype=torch.qint8)

    first, second = quantised(), quantised()
    x = torch.rand(2, 3, 16, 16)
    assert hash_weights(first.state_dict()) != hash_weights(second.state_dict())
    fit(second, {"model": first.state_dict()}, settings())
    assert hash_weights(first.state_dict()) == hash_weights(second.state_dict())
    assert torch.equal(first.eval()(x), second.eval()(x))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is quantised: save"),
        (lambda w: w.to_sparse(), "is sparse: save features.0.weight.to_dense()"),
        (lambda w: w.to(torch.complex64), "is complex and the network's is real"),
    ],
)
def test_tensors_of_another_kind(kind, words):
    state = trained().state_dict()
    with pytest.raises(UserError, match=words):
        loaded(state | {"features.0.weight": kind(state["features.0.weight"])})
