"""The second network of a figure: which of its outputs means the same class."""

from evalkit.data.labels import Classes
from evalkit.errors import UserError, printable


def same_class(first: Classes, second: Classes, output: int, model: str) -> int:
    """Return the output of the second network for an output of the first: that of the same name, or number where one has no names.

    Raises UserError, which calls the second network `model`, where it has no such class.
    """
    name = first.name(output)
    if output < second.outputs and second.name(output) == name:  # names need not be unique: ImageNet has two cranes
        return output
    listed = first.keys or first.names
    if listed is not None and second.keys is not None:
        outputs = second.outputs_among(listed[output]) or second.outputs_among(name)
        if outputs:
            return outputs[0]
    elif first.outputs == second.outputs:
        return output
    raise UserError(f"the second network, {model}, has no class '{printable(name)}': choose a class that both have, or another network")
