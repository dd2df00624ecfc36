"""What a run says at the start about lists of labels and boxes that fit only a part of its images."""

import logging
from collections.abc import Sequence

from evalkit.data.boxes import MatchedBoxes
from evalkit.data.labels import Classes
from evalkit.data.sources import Source

log = logging.getLogger(__name__)


def warn_of_lists(source: Source, positions: Sequence[int], classes: Classes) -> None:
    """Warn of listed files that are missing, of images without boxes, and of boxes whose classes the model does not have."""
    missing: Sequence[str] = getattr(source, "missing", ())
    if missing:
        log.warning("%s of %s listed files are missing, and become error rows: %s%s", f"{len(missing):,}", f"{len(source):,}", missing[0],
                    " and others" * (len(missing) > 1))  # fmt: skip
    matched: MatchedBoxes | None = getattr(source, "matched_boxes", None)
    if matched is None or matched.file is None:
        return
    covered = sum(matched.images[position] in matched.of_image for position in positions)
    if covered < len(positions):
        share = f"{covered:,} of {len(positions):,}" if covered else f"none of the {len(positions):,}"
        log.warning("%s has boxes for %s images%s", matched.file, share, _without_image(matched.unmatched))
    keys = {box.key for position in positions for box in source.boxes(position) if box.key is not None}
    if keys and not any(classes.outputs_among(key) for key in keys):
        first = min(map(str, keys))
        log.warning(
            "%s: the model has no class of its boxes (such as '%s'), so they are not measured; name them alike", matched.file, first
        )


def _without_image(names: Sequence[str]) -> str:
    return f"; the first name in the list without an image is {names[0]}" if names else ""
