"""evalkit verify."""

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import lines, note, show
from evalkit.cli.options import expanded
from evalkit.cli.progress import meter

DIFFERENT = 1
"""Exit code where something differs."""


def verify(
    run: Annotated[str, typer.Argument(help="A run folder; also s3://bucket/folder.")],
    places: Annotated[
        list[str] | None,
        typer.Argument(help="Where things are on this machine, such as data.root=/data/imagenet model.weights=mine.pth device=cpu."),
    ] = None,
    sample: Annotated[str | None, typer.Option(help="How many images are recomputed: a percentage or a number; default 1%.")] = None,
    shards: Annotated[str | None, typer.Option(help="Recompute these shards instead, such as 0,3-5.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random images; default a fresh one, so that nobody knows them beforehand.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Modules of the run's own code that may be imported and called, with commas between them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=expanded, help="File for the outcome as JSON, such as verified.json.")] = None,
) -> None:
    """Check a finished run: its record, the structure of all of its tables, and a random part of its images, recomputed here.

    Exit code 0 means verified, 1 that something differs, 2 that the check could not be made.

    evalkit verify results/table1 data.root=/data/imagenet --sample 1%
    """
    import json
    from importlib import metadata

    from evalkit.errors import UserError
    from evalkit.files import publish, writable_file
    from evalkit.runs.folder import RunFolder
    from evalkit.verify.reopen import reopened
    from evalkit.verify.sample import DEFAULT, count_of, drawn, named, shards_of

    if shards is not None and (sample is not None or seed is not None):
        raise UserError("--shards names what is recomputed, so --sample and --seed draw nothing: give either")
    folder = RunFolder(run)
    images, size = folder.images, folder.shard_size
    if shards is not None:
        chosen = named(shards_of(shards, len(folder.shards)), images, size)
    else:
        chosen = drawn(images, count_of(sample or DEFAULT, images), seed)
    writable_file(out, "--out")
    modules = [name.strip() for given in allow or [] for name in given.split(",") if name.strip()]
    config = reopened(folder, places or [], modules)
    from evalkit.verify.verify import open_run
    from evalkit.verify.verify import verify as compare
    from evalkit.verify.words import details, headline, to_json

    opened = open_run(config)
    with meter(config.model.name, lines(stderr=True)) as display:
        display.announce(len(chosen.chosen), 0)
        outcome = compare(folder, opened, chosen, display.advance)
    show(headline(outcome))
    for line in details(outcome):
        show(line)
    if out is not None:
        publish(out, json.dumps(to_json(outcome, opened.known, metadata.version("evalkit")), indent=2).encode())
        note(f"written: {out}")
    if not outcome.verified:
        raise typer.Exit(DIFFERENT)
