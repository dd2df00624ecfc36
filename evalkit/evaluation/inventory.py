"""What a run says about its data before the first image: how much there is, and what of it does not take part."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from evalkit.config.schema import RunConfig
from evalkit.data.labels import Classes
from evalkit.data.listing import Listing, suffix
from evalkit.data.sources import ClassKey, ListedClass, Source
from evalkit.errors import UserError

log = logging.getLogger(__name__)
MOST_NAMED = 5
"""Number of names in a message."""


def check_labels(config: RunConfig, source: Source, positions: Sequence[int], classes: Classes, tell: bool = True) -> None:
    """Check the labels of a run's images; log what the data set holds, and what of it has no part in the run, unless `tell` is False.

    Raises UserError where target or images needs labels that are missing.
    """
    if getattr(source, "streamed", False):
        return
    keys = [source.class_keys(position) for position in positions]
    outputs = [[classes.outputs_of(key) for key in of_image] for of_image in keys]  # of all images, since a wrong label raises
    if tell:
        _tell(config, source, positions, classes)
    if not any(map(any, outputs)):
        first = f"the first is {_called(keys[0][0], classes)}" if keys[0] else "the first has none"
        note = f"none of the {len(positions)} images has a label among the classes of {config.model.name} ({first}){_as_index(keys)}"
        if config.target == "label" or config.images == "correct":
            raise UserError(f"{note}; name them alike (model.classes=FILE, one wnid or name a line), or use target=predicted")
        log.warning("%s: top-1 cannot be computed", note)
    if config.target == "label":
        unlabelled = [i for i, choices in enumerate(outputs) if not any(choices)]
        if unlabelled and not classes.map:
            first = source.image_id(positions[unlabelled[0]]) + "".join(f", {_called(key, classes)}" for key in keys[unlabelled[0]][:1])
            raise UserError(
                f"target=label, but {len(unlabelled)} of {len(positions)} images have no label among the model's classes (the first is "
                f"{first}); name them alike, give model.class_map, or leave them out of data.labels"
            )
        unknown = {key for pair in zip(keys, outputs, strict=True) for key, choices in zip(*pair, strict=True) if not choices}
        if unknown:
            log.warning("%d labels have no output in the model and are not explained: %s", len(unknown), _names(unknown, classes))


def _tell(config: RunConfig, source: Source, positions: Sequence[int], classes: Classes) -> None:
    """Log one line about the data as information, and a warning for each part of it that has no part in the run."""
    keys = [source.class_keys(position) for position in range(len(source))]
    images = Counter(key for of_image in keys for key in of_image)
    chosen = {key for position in positions for key in keys[position]}
    outputs = {key: classes.outputs_among(key) for key in images}
    listing: Listing = getattr(source, "listing", None) or Listing()
    facts, warnings = [_size(len(positions), len(keys), len(chosen), len(images))], []

    if listing.unread:
        warnings.append(_unread(listing.unread))
    unlabelled = [position for position, of_image in enumerate(keys) if not of_image]
    if images and unlabelled:
        warnings.append(f"{_share(len(unlabelled), len(keys), 'images')} have no label (such as {source.image_id(unlabelled[0])})")
    unknown = [key for key, choices in outputs.items() if not choices]
    if unknown and len(unknown) < len(outputs):
        share, names = _share(len(unknown), len(outputs), "classes of the data"), _names(unknown, classes)
        if classes.map:
            facts.append(f"{share} have no output in model.class_map: {names}")
        elif config.target != "label":  # which refuses them
            number = sum(images[key] for key in unknown)
            warnings.append(f"{share} have other names than the model's, so their images ({number:,}) count as unlabelled: {names}")
    absent = sorted(set(range(classes.outputs)).difference(*outputs.values()))
    if absent and not classes.map and len(unknown) < len(outputs):
        names = _some([classes.name(output) for output in absent])
        note = f"{_share(len(absent), classes.outputs, 'classes of the model')} have no images: {names}"
        usual = 2 * len(absent) >= classes.outputs  # a data set of a few of the model's classes
        (facts if usual else warnings).append(note)
    if config.limit is not None and 2 * len(chosen) < len(images):
        covered = f"{len(chosen):,} of {len(images):,} classes"
        first = f"limit={config.limit} takes the first {len(positions)} images: {covered}"
        warnings.append(f"{first}; use sample={config.limit} for a random part")
    if listing.hidden:
        facts.append(f"left out as hidden or trash: {_some(sorted(listing.hidden))}")
    if listing.repeated:
        facts.append(f"links to folders that are listed already: {_some(sorted(listing.repeated))}")
    log.info("%s", "; ".join(facts))
    for warning in warnings:
        log.warning("%s", warning)


def _size(images: int, of_images: int, classes: int, of_classes: int) -> str:
    part = f"{images:,} of {of_images:,} images" if images < of_images else f"{images:,} image{'s' * (images != 1)}"
    if not of_classes:
        return f"{part} without labels"
    return (
        f"{part} of {classes:,} of {of_classes:,} classes"
        if classes < of_classes
        else f"{part} of {classes:,} class{'es' * (classes != 1)}"
    )


def _share(number: int, total: int, of_what: str) -> str:
    return f"{number:,} of {total:,} {of_what}"


def _unread(files: Sequence[str]) -> str:
    """Return which files are no images, by their suffix."""
    by_suffix: dict[str, list[str]] = {}
    for file in sorted(files):
        by_suffix.setdefault(suffix(file), []).append(file)
    kinds = sorted(by_suffix.items(), key=lambda item: -len(item[1]))
    listed = [f"{len(named)} {ending or 'without suffix'} (such as {named[0]})" for ending, named in kinds]
    files_are = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
    return f"{files_are} not read, since no format of images has such a suffix: {_some(listed)}; convert pictures to PNG or JPEG"


def _some(names: Sequence[object], text: Callable[[Any], str] = str) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(text, names[:MOST_NAMED])) + more


def _names(keys: Iterable[ClassKey], classes: Classes) -> str:
    def named(key: ClassKey) -> str:
        meant = _meant(key, classes)
        return f"'{key}' ({meant})" if meant else f"'{key}'"

    return _some(sorted(keys, key=str), named)


def _called(key: ClassKey, classes: Classes) -> str:
    meant = _meant(key, classes)
    return f"called '{key}'; {meant}" if meant else f"called '{key}'"


def _meant(key: ClassKey, classes: Classes) -> str:
    """Return a question with the class that is likely meant by one that the model does not have."""
    meant = None if isinstance(key, int) else classes.meant(str(key))
    return f"did you mean '{meant}'?" if meant else ""


def _as_index(keys: Sequence[tuple[ClassKey, ...]]) -> str:
    """Return what to do about labels that are numbers, where all are."""
    labels = [key for of_image in keys for key in of_image]
    if not labels or not all(not isinstance(key, int) and str(key).strip().isdecimal() for key in labels):
        return ""
    if all(isinstance(key, ListedClass) for key in labels):
        return "; if these numbers are outputs of the model, call their column 'index' in the list of labels"
    return "; if these numbers are outputs of the model, list the files in a labels.csv with the columns file and index"
