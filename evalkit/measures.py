"""What is measured of a map itself, whatever the protocol: complexity, coherency and, where boxes are known, localisation."""

from collections.abc import Sequence

from torch import Tensor

from evalkit import protocol
from evalkit.probe import Probe
from evalkit.session import Session
from evalkit.targets import Item


class Measures:
    """The measures of one batch: one probe, its items, and whatever they share between methods."""

    def __init__(self, session: Session, probe: Probe, items: Sequence[Item]) -> None:
        self.session, self.probe, self.items = session, probe, items

    def of(self, method: str, ranking: protocol.Ranking) -> dict[str, Tensor]:
        """Each measure (n,) of one method's maps."""
        return {}
