"""From what a network returns to scores (images, classes): logits picked out of it, a function of it, two classes of one number."""

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from evalkit.errors import UserError, did_you_mean
from evalkit.imports import failure

Score = Callable[[Any], Tensor]
"""A function from what a network returns for N images, or from what `select` picks out of it, to scores (N,C)."""


@dataclass
class Readout:
    """What is applied behind a network; it has no weights.

    `torch.fx` traces it with the network, so that a closed form of the drops stays one. Without arguments it passes a tensor on, and
    takes `logits` of anything else that has them.
    """

    select: str | int | None = None
    """The key, attribute or index (-1 is the last) of the logits, or of what `score` reads, or a path of such (`heads.cls`)."""
    score: Score | None = None
    """A function from what the network returns, or what `select` picks, to scores (N,C); (N,) counts as one column."""
    output: Literal["binary", "raw"] | None = None
    """What one number z stands for: "binary", two classes with the scores -z and z; "raw", a quantity, explained as z or as -z."""
    classes: int | None = None
    """How many classes are expected; only messages depend on it."""
    shape: Literal["(N,C)", "(N,1)", "(N,)"] = field(default="(N,C)", init=False)
    """The shape of the network's scores, found by `checked`, since symbolic tracing cannot know it."""

    def __post_init__(self) -> None:
        if isinstance(self.score, nn.Module):
            raise UserError(
                f"model.score is a torch.nn.Module ({type(self.score).__name__}), whose weights would be neither moved to the device nor "
                "recorded: let model.factory return a network that holds it, and give a function"
            )
        if isinstance(self.score, type):
            raise UserError(f"model.score is the class {self.score.__name__}: give a function, or an object of the class")

    def __call__(self, value: Any) -> Any:
        """Return scores (N,C) where `value` is what a network returns; anything else where it does not fit, which `checked` refuses."""
        value = self.picked(value)
        return self._in_columns(value if self.score is None else self.score(value))

    def checked(self, value: Any, images: int, name: str) -> Tensor:
        """Return scores (N,C) of N images, and note the shape that they came in. Raises UserError unless they are scores."""
        scores = picked = self.picked(value)
        if self.score is not None:
            try:
                with warnings.catch_warnings(record=True) as warned:
                    scores = self.score(picked)
            except UserError:
                raise
            except Exception as reason:  # a user's function may raise anything
                raise UserError(
                    f"model.score={_name(self.score)} failed on what {name} returns, {described(picked)}: {failure(reason)}"
                ) from reason
            for one in warned:  # after an error, the error alone
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        number = isinstance(scores, Tensor) and scores.shape in ((images,), (images, 1))
        if not _one_row_each(scores, images, scores.dim() if number else 2):
            raise self._refusal(value, scores, images, name)
        if self.output == "binary" and not number:
            raise UserError(
                f"{name} has {scores.shape[1]} outputs, and model.output=binary needs one: use model.output=softmax for classes of which "
                "one is right, or model.output=sigmoid for several labels"
            )
        self.shape = "(N,C)" if not number else "(N,)" if scores.dim() == 1 else "(N,1)"
        columns: Tensor = self._in_columns(scores)
        return columns

    def named(self, name: str) -> str:
        """Return a network's name with the function that makes scores of what it returns: either may be the cause of an error."""
        return name if self.score is None else f"{name} with model.score={_name(self.score)}"

    @property
    def noun(self) -> str:
        """What messages call the outputs; of "raw", nothing says that they are logits."""
        return "scores" if self.output == "raw" else "logits"

    def picked(self, value: Any) -> Any:
        """Return the part of what a network returns that `score` reads or that are the logits."""
        return value if self.select is None and self.score is not None else self._selected(value)

    def _in_columns(self, scores: Any) -> Any:
        if not isinstance(scores, Tensor | fx.Proxy):
            return scores
        if self.shape == "(N,)" or self.output == "binary":
            scores = scores.reshape(-1, 1)
        if self.output == "binary":
            return torch.cat([-scores, scores], 1)
        return torch.cat([scores, -scores], 1) if self.output == "raw" and self.shape != "(N,C)" else scores

    def _selected(self, value: Any) -> Any:
        if isinstance(value, fx.Proxy):
            return value if self.select is None else operator.getitem(value, self.select)
        if self.select is None:
            found = _parts(value).get("logits")
            return found if isinstance(found, Tensor | fx.Proxy) else value
        try:
            return _part(value, self.select)
        except KeyError:
            pass
        if not _parts(value):
            raise UserError(
                f"model.select={self.select}: the network returns {described(value)}, which has no parts: set model.select=null"
            )
        known = [str(key) for key in _named(value)]
        if "." in str(self.select):
            known += [f"{key}.{inner}" for key in known for inner in _named(_part(value, key))]
        hint = did_you_mean(str(self.select), known)
        raise UserError(f"model.select={self.select}: what the network returns, {described(value)}, has no such part{hint}")

    def _refusal(self, value: Any, before: Any, images: int, name: str) -> UserError:
        """Return the error for what a network returns, `value`, or what was made of it, `before`: why it is no scores, and what to set."""
        if self.score is not None:
            return UserError(
                f"model.score={_name(self.score)} must return scores (images, classes) in floating point, one row an "
                f"image, not {described(before)} for {images} image{'s' * (images > 1)}"
            )
        if self.select is not None:
            return UserError(
                f"model.select={self.select} picks {described(before)} out of what {name} returns, not logits (images, classes): name "
                "another part, or set model.score to a function that makes scores of it"
            )
        fitting = {key: _parts(value)[key] for key in _named(value) if _one_row_each(_parts(value)[key], images, 2)}
        exact = [key for key, part in fitting.items() if part.shape[1] == self.classes]
        if len(exact or fitting) == 1:
            how = f"set model.select={next(iter(exact or fitting))}"
        elif fitting:
            how = (
                f"set model.select to the one that holds them of {', '.join(f'{key} {tuple(part.shape)}' for key, part in fitting.items())}"
            )
        elif isinstance(value, Tensor) and value.dim() == 2 and len(value) == images:
            how = "return them in floating point"
        else:
            how = "set model.score to a function that makes scores of it"
        return UserError(
            f"{name} must return logits (images, classes) as one tensor, not {described(value)}: {how}; docs/outputs.md has examples"
        )


def _part(value: Any, name: str | int) -> Any:
    """Return what lies in a value under a key, attribute or index, or a path of such, as in `heads.cls`. Raises KeyError."""
    if isinstance(value, fx.Proxy):
        return operator.getitem(value, name)
    parts = {str(key): part for key, part in _parts(value).items()}
    if str(name) in parts:
        return parts[str(name)]
    first, _, rest = str(name).partition(".")
    if not rest:
        raise KeyError(name)
    return _part(parts[first], rest)


def _parts(value: Any) -> dict[Any, Any]:
    """Return what a value holds by key, name or index, from the end too; empty for a tensor."""
    if isinstance(value, Mapping):
        return dict(value.items()) | (dict(enumerate(value.values())) if is_dataclass(value) else {})
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: getattr(value, entry.name) for entry in fields(value)}
    if isinstance(value, tuple | list):
        return dict(zip(getattr(value, "_fields", ()), value, strict=False)) | dict(enumerate(value)) | dict(enumerate(value, -len(value)))
    return {} if isinstance(value, Tensor) else dict(getattr(value, "__dict__", {}))


def _one_row_each(value: Any, images: int, dimensions: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == dimensions and len(value) == images and value.is_floating_point()


def _name(function: Any) -> str:
    named = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', type(function).__module__)}.{named}"


def described(value: Any) -> str:
    """Return what a value is, in words: `a dict of out, aux`, `a tensor of shape (2, 8, 4, 4)`."""
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
        return f"a tensor of shape {tuple(value.shape)}{kind}"
    named = _named(value)
    of = (
        f" of {len(named)}"
        if named and all(isinstance(key, int) for key in named)
        else f" of {', '.join(map(str, named))}"
        if named
        else ""
    )
    return f"a {type(value).__name__}{of}"


def _named(value: Any) -> list[Any]:
    """Return the keys of a value's parts, each part once."""
    if isinstance(value, Mapping):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [entry.name for entry in fields(value)]
    return list(getattr(value, "_fields", range(len(value)))) if isinstance(value, tuple | list) else list(_parts(value))
