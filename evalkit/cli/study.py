"""evalkit study prepare | score."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console

from evalkit.cli.console import note, show
from evalkit.cli.options import expanded
from evalkit.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from evalkit.study.records import Design

study_app = typer.Typer(no_args_is_help=True, help="The paper's blinded human studies: a page for raters, its key, and their scores.")


@study_app.command()
def prepare(
    design: Annotated[
        str,
        typer.Argument(
            help="better (which of two methods, section 6.3), trust (which of two models, 6.4), which (which category, 6.5)",
            metavar="DESIGN",
        ),
    ],
    runs: Annotated[list[str], typer.Argument(help="Finished runs made with maps=store: two for trust, else one.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(callback=expanded, help="A new folder for the page and the key.")] = Path("study"),
    images: Annotated[int | None, typer.Option(min=1, help="Number of images of each class (which: of all); default all.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes, those of the highest F1; default the paper's 5.")] = None,
    methods: Annotated[str, typer.Option(help="The methods, as in grad_cam,ablation_cam; default those of the paper.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice of images.")] = 0,
    data_root: Annotated[str | None, typer.Option(help="Folder of the images, if they have moved since the run.")] = None,
) -> None:
    """Write a page for raters (study.html) and its key (key.json), which raters must not see.

    evalkit study prepare better results/mine --images 20 --out study
    """
    from evalkit.study import records

    designs = get_args(records.Design)
    if design not in designs:
        raise UserError(f"no study '{design}'{did_you_mean(design, designs)}")
    records.refuse_old(out)  # so that errors are reported before torch is imported
    from evalkit.study.prepare import prepare as prepare_study

    chosen = [name.strip() for name in methods.split(",") if name.strip()]
    key, left_out = prepare_study(
        cast("Design", design), runs, out, images=images, classes=classes, methods=chosen, seed=seed, data_root=data_root
    )
    distinct = len({item.index for item in key.items.values()})
    excluded = f" ({left_out} others did not fit the design)" if left_out else ""
    show(f"{out / records.PAGE}: {len(key.items)} items of {distinct} images{excluded}; give this one file to every rater")
    show(f"{out / records.KEY}: what its ids stand for; do not share it before all answers are in")


@study_app.command()
def score(
    key: Annotated[
        Path, typer.Argument(callback=expanded, help="The folder that prepare wrote, or its key.json.", metavar="FOLDER_OR_KEY")
    ],
    answers: Annotated[
        list[Path], typer.Argument(callback=expanded, help="The files that raters saved, complete or not.", metavar="ANSWERS...")
    ],
    out: Annotated[Path | None, typer.Option(callback=expanded, help="Folder for scores.csv and scores.md; default the key's.")] = None,
) -> None:
    """Score the raters' answers as the paper does, with intervals and the raters' agreement.

    evalkit study score study answers-*.json
    """
    from evalkit.study import report
    from evalkit.study.records import read_answers, read_key
    from evalkit.study.score import score as score_study

    study_key = read_key(key)
    scores = score_study(study_key, read_answers(study_key, answers))
    folder = out or (key if key.is_dir() else key.parent)
    report.write(scores, folder)
    report.print_scores(Console(emoji=False), scores)
    note(f"written: {folder}/{', '.join(report.FILES)}")
