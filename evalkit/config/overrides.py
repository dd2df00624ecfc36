"""Overrides of a command line, parsed by Hydra."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from antlr4 import CommonTokenStream, InputStream  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraErrorListener
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from evalkit.config.choices import GROUPS
from evalkit.config.sentences import shown
from evalkit.config.spelling import mark
from evalkit.errors import UserError

_BRACKETS = {"[": "]", "{": "}"}
_NUMBERS: dict[int, Callable[[str], float]] = {
    OverrideLexer.INT: int,
    OverrideLexer.FLOAT: float,
    OverrideLexer.BOOL: lambda text: text.lower() == "true",
}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides. Raises UserError for the first that is none."""
    return [parse_one(text) for text in overrides]


def parse_one(text: str) -> Override:
    """Parse one override; values keep their spelling (see `spelling`). Raises UserError."""
    key, equals, value = text.partition("=")
    name = key.lstrip("+~")
    if key == "+control":  # the group is there, with nothing chosen
        return parse_one(f"control={value}")
    if not name or (not equals and not key.startswith("~")):
        raise UserError(f"'{text}' is not an override of the form key=value")
    parser = OverridesParser.create()
    try:
        override = parser.parse_override(_marked(text, all_text=name in GROUPS))
    except HydraException as reason:
        try:  # Hydra's grammar requires quotes around paths with brackets or non-ASCII letters
            override = parser.parse_override(key + "='" + value.replace("'", r"\'") + "'")
        except HydraException:
            raise UserError(f"'{text}' is not an override of the form key=value") from reason
        _refuse_half_a_value(text, key, value.strip(), reason)
    if name in GROUPS and override.is_delete() and name not in ("method", "control", "experiment"):
        raise UserError(f"{text} leaves no {name}: choose another one, as in {name}=NAME")
    if name in GROUPS and not override.is_delete() and not override.is_sweep_override():
        _check_choice(name, override.value())
    return override


def _refuse_half_a_value(text: str, key: str, value: str, reason: HydraException) -> None:
    """Raise UserError for a list, mapping, quotation or interpolation that is not closed."""
    first = value[:1]
    if first in _BRACKETS and value.count(first) != value.count(_BRACKETS[first]):
        raise UserError(
            f"'{text}' has {first} and {_BRACKETS[first]} that do not match; quotes keep them from the shell, "
            f"and a name with one is {_quoted(key, value)}"
        ) from reason
    if first in _BRACKETS and value.endswith(_BRACKETS[first]):
        raise UserError(f"'{text}' is no list or mapping that can be read; a name with brackets is {_quoted(key, value)}") from reason
    if first in ("'", '"'):
        raise UserError(f"'{text}' has quotes that do not match; leave them out, or write them as in 'out=\"my folder\"'") from reason
    if "${" in value and "}" not in value:
        raise UserError(f"'{text}' opens a ${{ that is not closed; a reference is written ${{model.name}}") from reason


def _quoted(key: str, value: str) -> str:
    """Return an override, quoted for the shell and for Hydra."""
    return f"\"{key}='{value}'\"" if not set("'\"") & set(value) else f"{key}=..., in quotes within quotes"


def _marked(line: str, *, all_text: bool) -> str:
    """Return an override in which numbers and booleans are marked or, with `all_text`, quoted. Raises HydraException."""
    lexer = OverrideLexer(InputStream(line))
    parser = OverrideParser(CommonTokenStream(lexer))
    for part in (lexer, parser):
        part.removeErrorListeners()
        part.addErrorListener(HydraErrorListener())
    for token in reversed(list(_single_tokens(parser.override()))):
        text = token.text
        held = text if all_text else mark(text, _NUMBERS[token.type](text))
        if isinstance(held, str):
            line = f"{line[: token.start]}'{held}'{line[token.stop + 1 :]}"
    return line


def _single_tokens(tree: Any) -> Iterator[Any]:
    """Yield the tokens that are a number or a boolean by themselves, except among the arguments of Hydra's functions."""
    if isinstance(tree, OverrideParser.PrimitiveContext):
        tokens = [child.symbol for child in tree.getChildren() if child.symbol.type != OverrideLexer.WS]
        if len(tokens) == 1 and tokens[0].type in _NUMBERS:
            yield tokens[0]
    elif not isinstance(tree, OverrideParser.FunctionContext) and hasattr(tree, "getChildren"):
        for child in tree.getChildren():
            yield from _single_tokens(child)


def _check_choice(group: str, value: object) -> None:
    """Raise UserError unless the value names one entry of a group, or several where the group takes several."""
    names = value if isinstance(value, list) and group in ("method", "control", "experiment") else [value]
    if not all(isinstance(name, str) and name for name in names):
        example = {"method": "method=[grad_cam,ablation_cam]", "control": "+control=[blurred,dilated]"}.get(group, f"{group}=NAME")
        listed = (
            f"; evalkit list {group if group == 'data' else group + 's'} shows them"
            if group in ("model", "method", "control", "data")
            else ""
        )
        what = "a list of names" if group in ("method", "control") else "one name"
        raise UserError(f"{group}={shown(value)} is not valid: {group} takes {what}, as in {example}{listed}")


def swept(override: Override) -> list[str]:
    """Return the values of a sweep, as they stand in overrides. Raises UserError where they cannot be counted."""
    try:
        return list(override.sweep_string_iterator())
    except (HydraException, ValueError) as reason:
        key, value = override.key_or_group, str(override.input_line).partition("=")[2]
        raise UserError(f"{key}={value} names no values that can be counted; list them, as in {key}=a,b") from reason
