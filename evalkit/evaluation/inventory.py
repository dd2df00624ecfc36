"""What a run says about its data before the first image: how much there is, and what of it does not take part."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from evalkit.config.schema import RunConfig
from evalkit.data.labels import Classes
from evalkit.data.listing import Listing, is_array, suffix
from evalkit.data.sources import ClassKey, FileList, ListedClass, Source, shows_nothing
from evalkit.data.text import normalised
from evalkit.errors import UserError

log = logging.getLogger(__name__)
MOST_NAMED = 5
"""Number of names in a message."""

FIRST = 16
"""Number of images of streamed data whose labels are checked at the start."""


def check_labels(config: RunConfig, source: Source, positions: Sequence[int], classes: Classes, tell: bool = True) -> None:
    """Check the labels of a run's images; log what the data set holds, and what of it has no part in the run, unless `tell` is False.

    Of streamed data, only the first images are checked. Raises UserError where target or images needs labels that are missing.
    """
    if classes.quantity:
        for key, value in (("target", config.target), ("images", config.images)):
            if value in ("label", "correct"):
                raise UserError(
                    f"{key}={value} needs classes, and {config.model.name} puts out one quantity (model.output=raw): leave {key} out"
                )
        if tell and not getattr(source, "streamed", False):
            _tell(config, source, positions, classes)
        return
    streamed = bool(getattr(source, "streamed", False))
    if streamed:  # a copy, since a stream that was begun cannot be sent to other processes
        source, positions = copy(source), [position for position in positions[:FIRST] if position < positions[0] + FIRST]
    _check_indicators(source, positions, classes)
    keys = [source.class_keys(position) for position in positions]
    outputs = [  # of all images, since a wrong label raises
        [classes.outputs_of(key, source.image_id(position)) for key in of_image] for position, of_image in zip(positions, keys, strict=True)
    ]
    if not streamed:
        _check_boxes(source, positions, classes)
    if tell:
        (_tell_streamed if streamed else _tell)(config, source, positions, classes)
    if not any(map(any, outputs)):
        first = f"the first is {_called(keys[0][0], classes)}" if keys[0] else "the first has none"
        which = f"{'first ' * streamed}{len(positions)} images"
        why = _hint(config, source, keys, classes)
        note = f"none of the {which} has a label among the classes of {config.model.name} ({first}){why}"
        certain = not streamed or not getattr(getattr(source, "columns", None), "label", None)
        if certain and (config.target == "label" or config.images == "correct"):
            alike = "name them alike (model.classes=FILE, one wnid or name a line), or " if any(keys) else ""
            raise UserError(f"{note}; {alike}use target=predicted")
        if config.model.output != "raw":  # which has no top-1
            log.warning("%s: top-1 %s", note, "cannot be computed" if certain else "needs labels that the model knows")
    if config.target == "label" and not streamed:
        _check_unlabelled(source, positions, classes, keys, outputs)


def _check_unlabelled(
    source: Source,
    positions: Sequence[int],
    classes: Classes,
    keys: Sequence[Sequence[ClassKey]],
    outputs: Sequence[Sequence[Sequence[int]]],
) -> None:
    """Warn of labels without an output. Raises UserError where an image has no label among the model's classes and no class map says so."""
    unlabelled = [i for i, choices in enumerate(outputs) if not any(choices) and not shows_nothing(source, positions[i])]
    if unlabelled and not classes.map:
        first = source.image_id(positions[unlabelled[0]]) + "".join(f", {_called(key, classes)}" for key in keys[unlabelled[0]][:1])
        raise UserError(
            f"target=label, but {len(unlabelled)} of {len(positions)} images have no label among the model's classes (the first is "
            f"{first}); name them alike, give model.class_map, or leave them out of data.labels"
        )
    unknown = {key for pair in zip(keys, outputs, strict=True) for key, choices in zip(*pair, strict=True) if not choices}
    if unknown:
        log.warning("%d labels have no output in the model and are not explained: %s", len(unknown), _names(unknown, classes))


def _check_indicators(source: Source, positions: Sequence[int], classes: Classes) -> None:
    """Raises UserError where all labels are lists of as many zeros and ones as there are classes: read as indices, all would be 0 and 1."""
    if not hasattr(source, "indicators"):
        return
    lengths = {source.indicators(position) for position in positions}
    length = lengths.pop()
    if lengths or length is None or (length != classes.outputs and classes.outputs == 2):
        return
    raise UserError(
        f"each label, as that of {source.image_id(positions[0])}, is a list of {length} zeros and ones, as in a one-hot encoding, and "
        "lists are read as indices of classes: save the positions of the ones instead, or a column of type ClassLabel"
    )


def _check_boxes(source: Source, positions: Sequence[int], classes: Classes) -> None:
    """Raises UserError where the class of a box is an index that is no output."""
    for position in positions:
        for box in source.boxes(position):
            if isinstance(box.key, int):
                classes.outputs_of(box.key, f"a box of {source.image_id(position)}")


def _tell_streamed(_config: RunConfig, source: Source, positions: Sequence[int], _classes: Classes) -> None:
    """Log one line about streamed data, whose labels are not known beforehand, and a warning where other columns might be meant."""
    facts, warnings = _of_columns(source)
    log.info(
        "%s", "; ".join(["streamed data", *facts, f"checked at the start are the first {len(positions)}, further labels as they come"])
    )
    for warning in warnings:
        log.warning("%s", warning)


def _of_columns(source: Source) -> tuple[list[str], list[str]]:
    """Return which columns of a table of images are read, and what speaks for others."""
    columns = getattr(source, "columns", None)
    return ([columns.facts], [columns.doubt] if columns.doubt else []) if columns else ([], [])


def _distinct(keys: Iterable[ClassKey]) -> int:
    """Return the number of classes; two Unicode forms of one name are one class."""
    return len({normalised(str(key)) for key in keys})


def _same_classes(images: Mapping[ClassKey, int], outputs: Mapping[ClassKey, tuple[int, ...]], classes: Classes) -> list[str]:
    """Return a warning for each class to which several folders belong, as by two Unicode forms of its name, or its wnid and its name."""
    if classes.map:  # which may join classes
        return []
    folders: dict[object, list[ClassKey]] = {}
    for key in images:
        folders.setdefault(outputs[key] or normalised(str(key)), []).append(key)
    return [
        f"{len(same)} folders are one class: {', '.join(f'{key!s} ({_images(images[key])})' for key in same)}{_forms(same)}; "
        "if they hold the same pictures, remove all but one, since each picture counts"
        for same in folders.values()
        if len(same) > 1
    ]


def _forms(names: Sequence[ClassKey]) -> str:
    return ", whose names differ only in their Unicode form" if _distinct(names) == 1 else ""


def _contradictions(source: FileList, keys: Sequence[tuple[ClassKey, ...]], classes: Classes) -> list[str]:
    """Return a warning where a list's indices are outputs of the model, but other ones than those of the names beside them."""
    listed = [(position, key) for position, of_image in enumerate(keys) for key in of_image if isinstance(key, ListedClass)]
    if any(key.index is not None and not 0 <= key.index < classes.outputs for _, key in listed):
        return []  # indices of another model, such as ImageNet's
    differing = [(position, key, output) for position, key in listed if (output := classes.contradicts(key)) is not None]
    if not differing:
        return []
    position, key, output = differing[0]
    return [
        f"{_share(len(differing), len(listed), 'labels')} name one class and give the index of another, and the name counts (such as "
        f"{source.image_id(position)}: '{key}' is output {output}, and index {key.index} is '{classes.name(key.index or 0)}'); "
        "correct or remove the column index of the list"
    ]


def _links(listing: Listing, classes: Classes, absent: Collection[int]) -> tuple[list[str], list[str]]:
    """Return facts and warnings about links that are not followed; `absent` are the outputs without images."""
    facts: list[str] = []
    warnings: list[str] = []
    if listing.broken:
        warnings.append(f"links that lead nowhere: {_some(sorted(listing.broken))}; restore what they name, or remove them")
    meant = [link for link in sorted(listing.repeated) if "/" not in link and set(classes.outputs_among(link)) & set(absent)]
    if meant and not classes.map:
        warnings.append(
            f"links called as classes lead to folders that are listed already, by other names: {_some(meant)}; move these folders "
            "out of data.root, so that the links' names count"
        )
    elif listing.repeated:
        facts.append(f"links to folders that are listed already: {_some(sorted(listing.repeated))}")
    return facts, warnings


def _tell(config: RunConfig, source: Source, positions: Sequence[int], classes: Classes) -> None:
    """Log one line about the data as information, and a warning for each part of it that has no part in the run."""
    keys = [source.class_keys(position) for position in range(len(source))]
    images = Counter(key for of_image in keys for key in of_image)
    chosen = {key for position in positions for key in keys[position]}
    outputs = {key: classes.outputs_among(key) for key in images}
    listing: Listing = getattr(source, "listing", None) or Listing()
    columns, warnings = _of_columns(source)
    facts = [_size(len(positions), len(keys), _distinct(chosen), _distinct(images)), *columns]
    warnings += _same_classes(images, outputs, classes) if listing.images else []
    if isinstance(source, FileList):
        warnings += _contradictions(source, keys, classes)
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
    packed = [file for file in sorted(listing.archives) if set(classes.outputs_among(_packed(file))) & set(absent)]
    if packed:
        warnings.append(f"archives called as classes are not read: {_some(packed)}; unpack them")
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
    linked, misled = _links(listing, classes, absent)
    facts += linked
    warnings += misled
    log.info("%s", "; ".join(facts))
    for warning in warnings:
        log.warning("%s", warning)


def _size(images: int, of_images: int, classes: int, of_classes: int) -> str:
    part = f"{images:,} of {of_images:,} images" if images < of_images else _images(images)
    if not of_classes:
        return f"{part} without labels"
    return (
        f"{part} of {classes:,} of {of_classes:,} classes"
        if classes < of_classes
        else f"{part} of {classes:,} class{'es' * (classes != 1)}"
    )


def _images(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"


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
    instead = "arrays are read with data=arrays" if any(map(is_array, files)) else "convert pictures to PNG or JPEG"
    return f"{files_are} not read, since no format of images has such a suffix: {_some(listed)}; {instead}"


def _packed(archive: str) -> str:
    return archive[: -len(suffix(archive))].removesuffix(".tar")


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


def _hint(config: RunConfig, source: Source, keys: Sequence[tuple[ClassKey, ...]], classes: Classes) -> str:
    """Return what may be the reason that no label is known to the model, or ""."""
    labels = [key for of_image in keys for key in of_image]
    if not labels:
        columns = getattr(source, "columns", None)
        return str(columns.no_labels) if columns else ""
    first = labels[0]
    longer = next((full for key in labels if not isinstance(key, int) and (full := classes.with_more(str(key)))), None)
    if longer is not None:
        return f"; the model has a class called '{longer}': write only names, or only wnids, in model.classes, one a line"
    deeper = _deeper(config, source, classes)
    if deeper:
        return f"; the folders below have the names of classes: set data.root={deeper}"
    if all(not isinstance(key, int) and str(key).strip().isdecimal() for key in labels):
        return _as_index(labels, source, config)
    known = classes.keys and not isinstance(first, int) and not classes.map and not classes.meant(str(first))
    return f"; the model's first class is called '{classes.name(0)}'" if known else ""


def _deeper(config: RunConfig, source: Source, classes: Classes) -> str:
    """Return the folder below the root whose folders are classes of the model, validation images first, or ""."""
    listing: Listing = getattr(source, "listing", None) or Listing()
    found = set()
    for path in listing.images:
        folders = path.split("/")[:-1]
        level = next((level for level in range(1, len(folders)) if classes.outputs_among(folders[level])), None)
        found |= {"/".join(folders[:level])} if level else set()
    best = min(found, key=lambda folder: (not folder.lower().split("/")[-1].startswith(("val", "test")), folder), default="")
    return f"{config.data.get('root')}/{best}" if best else ""


def _as_index(labels: Sequence[ClassKey], source: Source, config: RunConfig) -> str:
    """Return what to do about labels that are names and consist of digits."""
    meant = "; if these numbers are outputs of the model, "
    if all(isinstance(key, ListedClass) and key.index is not None for key in labels):
        given = config.model.classes is not None
        return "; if the model's outputs are in the data set's order of classes, set model.classes=null" if given else ""
    if all(isinstance(key, ListedClass) for key in labels):
        return f"{meant}call their column 'index' in the list of labels"
    if hasattr(source, "columns"):
        return f"{meant}save them as whole numbers instead of text"
    return f"{meant}list the files in a labels.csv with the columns file and index"
