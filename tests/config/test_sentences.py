"""Values that do not fit: accepted, or one sentence of our own."""

from copy import deepcopy
from typing import get_args

import pytest
import yaml

from evalkit.config.compose import compose_jobs, validated
from evalkit.config.schema import LocalLauncher, ProtocolConfig, RayLauncher, RunConfig, SlurmLauncher
from evalkit.errors import UserError
from evalkit.models.settings import ModelConfig
from evalkit.point import Point

HOSTILE = [None, "", "x", -1, 0, True, [], {}, [[1]], [None], ["x", 1], {"a": 1}, float("inf"), float("nan"), "x" * 500, [{}], "é\n"]
THEIRS = (
    "Input should be", "type=", "validation error", "For further information", "full_key", "object_type", "Unable to", "Config",
    "mismatched input", "no viable alternative", "valid string", "constrained", "struct", "Traceback", "NoneType", " dict", "\n",
)  # fmt: skip


def plain(error: UserError) -> bool:
    return not [phrase for phrase in THEIRS if phrase in str(error)] and len(str(error)) < 400


def fields() -> list[tuple[str, ...]]:
    launchers = {"local": LocalLauncher, "ray": RayLauncher, "slurm": SlurmLauncher}
    return [
        *((name,) for name in RunConfig.model_fields),
        *(("model", name) for name in ModelConfig.model_fields),
        *(("protocol", name) for name in ProtocolConfig.model_fields),
        *(("launcher", name, kind) for kind, launcher in launchers.items() for name in launcher.model_fields),
    ]


@pytest.fixture(scope="module")
def configurations() -> dict[str, dict]:
    return {kind: yaml.safe_load(compose_jobs([f"launcher={kind}"])[0].yaml) for kind in ("local", "ray", "slurm")}


@pytest.mark.parametrize("path", fields(), ids=".".join)
def test_every_field_takes_a_value_or_says_what_it_takes(configurations, path):
    group, name, kind = (*path, None, None)[:3] if len(path) < 3 else path
    refused = 0
    for value in HOSTILE:
        content = deepcopy(configurations[kind or "local"])
        if name is None:
            content[group] = value
        else:
            content[group][name] = value
        try:
            validated(content)
        except UserError as error:
            refused += 1
            assert plain(error), str(error)
            assert group in str(error), str(error)
    assert refused, "nothing is refused"


@pytest.mark.parametrize("name", ["select", "top_percent", "fill", "more"])
def test_every_field_of_a_point(configurations, name):
    for value in HOSTILE:
        content = deepcopy(configurations["local"])
        content["protocol"] = {
            "select": [],
            "top_percent": [],
            "fill": [],
            "points": [{"select": "keep_top", "top_percent": 2, "fill": "black"}],
        }
        validated(content)
        content["protocol"]["points"][0][name] = value
        if (name, value) in (("top_percent", 0), ("top_percent", True)):
            continue
        with pytest.raises(UserError, match=r"protocol\.points\.0") as error:
            validated(content)
        assert plain(error.value), str(error.value)


@pytest.mark.parametrize("literal", get_args(Point.__annotations__["select"]))
def test_a_choice_that_is_nearly_right_is_named(literal):
    with pytest.raises(UserError, match=f"did you mean '{literal}'"):
        compose_jobs([f"protocol.select={literal}x"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.mean=[0.5]", r"model\.channels=3 needs three numbers in model\.mean, not 1: .* as in model\.mean=\[0\.5,0\.5,0\.5\]$"),
        (
            "model.mean=grey",
            r"model\.mean=grey is not valid: give a list of numbers, one per channel, as in model\.mean=\[0\.5,0\.5,0\.5\]",
        ),
        ("model.resize=[5]", r"model\.resize=\[5\] is not valid: give the shorter side in pixels, \[height,width\] in pixels, or null"),
        ("protocol.top_percent=[]", "protocol.top_percent is empty"),
        ("protocol.top_percent=[20,200]", r"protocol\.top_percent=\[20,200\] is not valid: give a number from 0 to 100, or a list of such"),
        (
            "protocol.points=[{select: soft, fill: black, fil: 1}]",
            r"no key 'protocol\.points\.0\.fil'.* did you mean 'protocol\.points\.0\.fill'",
        ),
        ("model.mean=[123.675,116.28,103.53]", r"divide by 255: model\.mean=\[0\.485,0\.456,0\.406\]"),
        ("model.std=[0,1,1]", r"model\.std=\[0,1,1\]: .*give values above 0"),
        ("protocol.fill=[black,wite]", "give black, mean, blur or road, or a list of such"),
        ("protocol.fill=[black,blurr]", "did you mean 'blur'"),
        ("protocol.points=[{select: soft}]", "protocol.points.0 has no fill"),
        ("protocol.points=[{select: soft, fill: road}]", "road needs a binary mask"),
        ("limit='5'", "limit='5' is not valid: give a whole number of 1 or more, or null"),
        ("out=${oc.env:EVALKIT_UNSET}", "the environment variable EVALKIT_UNSET, which the configuration refers to, is not set"),
        ("out=${nope:3}", r"\$\{nope:...\} is no reference that evalkit knows"),
        ("out=${out}", "a key of the configuration refers to itself"),
        ("limit=1e3", "limit=1e3 is not valid: give a whole number of 1 or more, or null"),
        ("model.expected_top1=1e400", "model.expected_top1=1e400 is not valid"),
        ("method.random=5", "method.random is not a method"),
    ],
)
def test_what_is_said(override, says):
    with pytest.raises(UserError, match=says) as error:
        compose_jobs([override])
    assert plain(error.value)


@pytest.mark.parametrize(
    "overrides",
    [["protocol.select=[keep_top,soft]", "protocol.fill=[black,road]"],
     ["protocol=published", "protocol.points=[{select: keep_top, top_percent: 20, fill: road}, {select: soft, fill: road}]"]],
)  # fmt: skip
def test_a_soft_mask_cannot_be_imputed(overrides):
    with pytest.raises(
        UserError, match=r"^(protocol\.points\.1: )?road needs a binary mask, and soft has none: use fill=road with"
    ) as error:
        compose_jobs(overrides)
    assert plain(error.value)


def test_a_name_that_another_key_gives_is_not_the_one_that_is_named():
    with pytest.raises(UserError, match=r"^model\.factory is null: give the dotted path of a function"):
        compose_jobs(["model=custom", "model.layer=a", "model.factory=null", "data=digits"])
    with pytest.raises(UserError, match=r"^model\.name is null"):
        compose_jobs(["model=digits_gap", "model.name=null", "data=digits"])
