"""Networks with random weights, and the similarity of the maps that explain them to those of the trained network.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: a map that stays the same does not explain what was learnt.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from evalkit.config.schema import RunConfig
from evalkit.evaluation.apply import Method
from evalkit.evaluation.at_layers import at_layers
from evalkit.evaluation.control_versions import load_controls, with_controls
from evalkit.evaluation.sanity import cascade
from evalkit.models import zoo
from evalkit.models.split import SplitModel

OUTPUT, ALL = "randomised_output", "randomised_all"
"""The columns: of a network whose output layer alone is random, and of one that is random throughout."""


@dataclass(frozen=True)
class RandomNetwork:
    """One draw of random weights."""

    column: str
    net: SplitModel
    """Cut as the trained network is."""
    methods: Mapping[str, Method]
    """The run's methods for its probes."""


def random_networks(config: RunConfig, model: zoo.LoadedModel, methods: Mapping[str, Method], example: Tensor) -> list[RandomNetwork]:
    """Return the output layer's and all layers' random networks of each draw; `methods` are the configured ones.

    `example` (1,channels,H,W) in [0,1] shows in which order the layers run. Raises UserError where no layer can be randomised (`cascade`).
    """
    normalised = (example.to(model.net.device, model.net.dtype) - model.net.mean) / model.net.std
    networks = []
    for draw in range(config.randomisation.draws):
        modules = [module for _, module in cascade(model.net.module, normalised, every=sys.maxsize, seed=draw)]
        for column, module in ((OUTPUT, modules[0]), (ALL, modules[-1])):  # of a network with one layer, they are the same
            nets = [zoo.cut(module, config.model, layer) for layer in config.model.layers]
            for net in nets:
                net.autocast = model.net.autocast
            named = at_layers(methods, config.model.layers, nets, config.model.fuse)
            named = with_controls(named, load_controls(config.control), config.control_of)
            networks.append(RandomNetwork(column, nets[-1], named))
    return networks
