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

LEFT_OUT: "dict[Design, str]" = {
    "better": "of these classes, explained as another class than the label; a run with target=label keeps them, as the paper did",
    "trust": "of these classes, which not both networks classify correctly",
    "which": "without exactly two labelled categories",
}
"""By design: which images are left out."""

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
    runs: Annotated[
        list[str],
        typer.Argument(help="Finished runs made with maps=store: of two models for trust, else of one.", metavar="RUN..."),
    ],
    out: Annotated[Path, typer.Option(callback=expanded, help="A new folder for the page and the key.")] = Path("study"),
    images: Annotated[int | None, typer.Option(min=1, help="Number of images of each class (which: of all); default all.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes, those of the highest F1; default the paper's 5.")] = None,
    classes_from: Annotated[
        str | None, typer.Option(help="The run whose F1 chooses the classes; default all that are shown (of two, the lower F1 counts).")
    ] = None,
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
        cast("Design", design),
        runs,
        out,
        images=images,
        classes=classes,
        classes_from=classes_from,
        methods=chosen,
        seed=seed,
        data_root=data_root,
    )
    distinct = len({item.index for item in key.items.values()})
    show(f"{out / records.PAGE}: {len(key.items)} items of {distinct} images; give this one file to every rater")
    show(f"{out / records.KEY}: what its ids stand for; do not share it before all answers are in")
    if key.design != "which":
        show(f"classes: {', '.join(sorted({item.target_name for item in key.items.values()}))}")
    if left_out:
        note(f"left out: {left_out} other image{'s' * (left_out != 1)} {LEFT_OUT[key.design]}")


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
