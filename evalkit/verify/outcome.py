"""The outcome of a verification."""

from dataclasses import dataclass, field

from evalkit.verify.compare import Comparison
from evalkit.verify.record import RecordDifference
from evalkit.verify.sample import Sample
from evalkit.verify.structure import Problem


@dataclass
class Outcome:
    """What was compared, and what differs."""

    sample: Sample
    comparison: Comparison
    record: list[RecordDifference] = field(default_factory=list)
    """Facts of the record that are others here."""
    circumstances: list[str] = field(default_factory=list)
    """What may differ, and does."""
    problems: list[Problem] = field(default_factory=list)
    """What no run writes, of all shards."""
    missing: list[int] = field(default_factory=list)
    """Shards that are not finished, damaged, or of another run."""
    foreign: list[str] = field(default_factory=list)
    """Files in rows/ and maps/ that are of none of the run's shards."""
    shards: int = 0
    """Shards of the run."""
    recomputed: int = 0
    """Images that were computed again."""
    unstructured: list[str] = field(default_factory=list)
    """What could not be checked without the network, in words."""
    identity_hash: str = ""
    rows_digest: str = ""
    """Digest over the checksums of all shards (`RunFolder.digest`)."""

    @property
    def verified(self) -> bool:
        """Whether nothing differs."""
        compared = self.comparison
        return not (
            self.record or self.problems or self.missing or self.foreign or compared.differing_rows or compared.leanings.one_sided()
        )

    @property
    def differs_in_code(self) -> bool:
        """Whether rows differ, and so does the version of evalkit's own code."""
        return bool(self.comparison.differing_rows) and any(text.startswith("evalkit's code") for text in self.circumstances)
