"""Overrides that Hydra's grammar takes otherwise than they were meant, or not at all."""

import pytest

from evalkit.config.overrides import parse_one, swept
from evalkit.errors import UserError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("out", "'out' is not an override of the form key=value"),
        ("=x", "'=x' is not an override of the form key=value"),
        (
            "model.mean=[0.5",
            """has [ and ] that do not match; quotes keep them from the shell, and a name with one is "model.mean='[0.5'\"""",
        ),
        ("model.args={a:1", "has { and } that do not match"),
        ("model.mean=[0.5,,1]", "is no list or mapping that can be read"),
        ('out="', "has quotes that do not match"),
        ("out='a", "has quotes that do not match"),
        ("out=${", "opens a ${ that is not closed"),
        ("data=", "data= is not valid: data takes one name, as in data=NAME; evalkit list data shows them"),
    ],
)
def test_what_is_no_override(text, says):
    with pytest.raises(UserError) as error:
        parse_one(text)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["a=b", "a b", "/data/[old]", "[old]/data", "größe", "(1)", "a(b)"])
def test_names_that_need_no_quotes(value):
    assert parse_one(f"out={value}").value() == value


@pytest.mark.parametrize("text", ["model=glob(*)", "limit=interval(1,3)", "limit=range(1,4,0)"])
def test_sweeps_that_cannot_be_counted(text):
    with pytest.raises(UserError, match="names no values that can be counted; list them"):
        swept(parse_one(text))


def test_functions_get_numbers():
    assert swept(parse_one("limit=range(1,4)")) == ["1", "2", "3"] and parse_one("limit=int(3.0)").value() == 3
