"""evalkit bench ablation | spatial | floor | peers."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from evalkit.cli.options import Overrides, expanded

bench_app = typer.Typer(no_args_is_help=True, help="Time evalkit and other libraries, interleaved in one process.")

JsonFile = Annotated[Path | None, typer.Option("--json", callback=expanded, help="Write the figures to this file, as flat keys.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of threads, the same for everything that is timed.")]


@bench_app.command()
def ablation(
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "vgg16",
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 9,
    threads: Threads = None,
    peer: Annotated[bool, typer.Option(help="Time pytorch-grad-cam too (optional package grad-cam).")] = True,
    overrides: Overrides = None,
) -> None:
    """Time exact Ablation-CAM, from images to maps, against a plain forward pass and against pytorch-grad-cam.

    evalkit bench ablation --model vgg16 --json ablation.json
    """
    from evalkit.bench.ablation import bench_ablation

    figures = bench_ablation(
        model, overrides or [], batch_size=batch_size, repeats=repeats, threads=threads, peer=peer, json_file=json_file
    )
    _print_figures(figures)


@bench_app.command()
def spatial(
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "densenet169",
    window: Annotated[int, typer.Option(min=1, help="Side of the ablated square, in cells of the activation map.")] = 1,
    stride: Annotated[int, typer.Option(min=1, help="Step of the ablated square, in cells.")] = 1,
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 5,
    sampled: Annotated[int, typer.Option(min=1, help="Number of whole passes that are timed and extrapolated to all.")] = 16,
    threads: Threads = None,
    overrides: Overrides = None,
) -> None:
    """Time the ablation of positions (FastAblationCAM) against that of channels, each naive and exact, and a plain forward pass.

    evalkit bench spatial --model densenet169
    """
    from evalkit.bench.spatial import bench_spatial

    figures = bench_spatial(
        model,
        overrides or [],
        window=window,
        stride=stride,
        batch_size=batch_size,
        repeats=repeats,
        sampled=sampled,
        threads=threads,
        json_file=json_file,
    )
    _print_figures(figures)


@bench_app.command()
def floor(
    images: Annotated[Path, typer.Option(callback=expanded, help="A folder of images.")],
    model: Annotated[str, typer.Option(help="A name from `evalkit list models`.")] = "resnet50",
    json_file: JsonFile = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images, the first ones; default all.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved repeats; medians are reported.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of threads of the forward passes.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of decoding processes.")] = 2,
    overrides: Overrides = None,
) -> None:
    """Time a whole evaluation, from decoding to parquet, against only the forward passes that it requires.

    evalkit bench floor --model resnet50 --images photos --batch-size 16
    """
    from evalkit.bench.floor import bench_floor

    figures = bench_floor(
        model,
        images,
        overrides or [],
        batch_size=batch_size,
        limit=limit,
        repeats=repeats,
        threads=threads,
        workers=workers,
        json_file=json_file,
    )
    _print_figures(figures)


@bench_app.command()
def peers(
    model: Annotated[list[str] | None, typer.Option(help="Names from `evalkit list models`; may be given several times.")] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", callback=expanded, help="Write the table to this file, and a figure beside it.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    repeats: Annotated[int, typer.Option(min=2, help="Interleaved repeats; medians are reported.")] = 3,
    threads: Threads = None,
    overrides: Overrides = None,
) -> None:
    """Time an evaluation, and each method alone, against pytorch-grad-cam, torch-cam and captum.

    evalkit bench peers --model vgg16 --csv peers.csv
    """
    from evalkit.bench.peers import bench_peers

    times = bench_peers(model or ["resnet50"], overrides or [], batch_size=batch_size, repeats=repeats, threads=threads, csv_file=csv_file)
    columns = ["model", "task", "library", "images", "repeats", "seconds_per_image", "times_ours"]
    _print_lines([columns, *([_text(cell, ".3g") for cell in row] for row in times[columns].itertuples(index=False))])


def _print_figures(figures: dict[str, Any]) -> None:
    _print_lines([["figure", "value"], *([key, _text(value, ".4g")] for key, value in figures.items())])


def _print_lines(lines: list[list[str]]) -> None:
    from evalkit.output.fitted import fitted

    console = Console(emoji=False)
    console.print(fitted(console, lines, left=len(lines[0])))


def _text(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, float) else str(value)
