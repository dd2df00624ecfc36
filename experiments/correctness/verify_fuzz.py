"""Alter copies of a finished run as a cheater would, and record whether `evalkit verify` finds it.

    python experiments/correctness/verify_fuzz.py --out results

Writes verify_fuzz.csv and verify_fuzz.md. Each of 1,000 copies is altered in one way, and a random part of its images is
recomputed, another one each time. Some ten minutes on one core.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from alterations import ALTERATIONS, BY_RECOMPUTING, Folder

from evalkit.cli.script import run_script
from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.launch.run import run_job
from evalkit.runs.folder import RunFolder
from evalkit.verify.outcome import Outcome
from evalkit.verify.reopen import reopened
from evalkit.verify.sample import drawn, missed
from evalkit.verify.verify import Opened, open_run, verify
from evalkit.verify.words import details, headline

RUN = [
    "model=digits_fc", "data=digits", "limit=48", "shard_size=24", "method=[ablation_cam,grad_cam,centre,constant]",
    "protocol.top_percent=[20,50]", "maps=store", "workers=0", "device=cpu", "batch_size=24",
]  # fmt: skip
SHARES = (4, 8, 16)
"""Images that are recomputed, of 48."""


def finished(out: Path) -> Opened:
    """Make the run that is altered, and open its model and data once."""
    (job,) = compose_jobs([*RUN, f"out={out}"])
    run_job(job)
    return open_run(reopened(RunFolder(out)))


def found_by(outcome: Outcome) -> str:
    """Return which part of the check finds a difference first; empty where none does."""
    structure, compared = outcome.problems or outcome.missing or outcome.foreign, outcome.comparison
    parts = {"record": outcome.record, "structure": structure, "recomputing": compared.differing_rows or compared.leanings.one_sided()}
    return next((name for name, found in parts.items() if found), "")


def tried(whole: Path, opened: Opened, name: int, rng: np.random.Generator, scratch: Path) -> dict[str, Any]:
    """Alter a copy in one way, verify it, and return what was found."""
    alteration, count = ALTERATIONS[name], int(rng.choice(SHARES))
    path = scratch / "altered"
    shutil.copytree(whole, path)
    try:
        folder = Folder(path, rng)
        alteration(folder)
        sample = drawn(48, count, int(rng.integers(2**32)))
        needs = alteration in BY_RECOMPUTING
        chosen = {opened.session.positions[number] for number in sample.chosen}
        row: dict[str, Any] = {
            "alteration": alteration.__name__, "recomputed": count, "altered": len(folder.images), "only_by_recomputing": needs,
            "in_sample": bool(chosen & folder.images), "missed_expected": missed(48, count, len(folder.images)) if needs else 0.0,
        }  # fmt: skip
        try:
            outcome = verify(RunFolder(path), opened, sample)
        except UserError as reason:
            return {**row, "found": "refused", "as_swap": False, "says_fraction": True, "says": str(reason).replace(str(path), "RUN")}
        said = " ".join([headline(outcome), *details(outcome)])
        fraction = f"{outcome.recomputed} of 48 images" in said and "would have been missed" in said
        swap = outcome.comparison.swapped > 0
        return {**row, "found": found_by(outcome), "as_swap": swap, "says_fraction": fraction, "says": headline(outcome)}
    finally:
        shutil.rmtree(path)


def page(table: pd.DataFrame) -> str:
    """Return the results as Markdown."""
    lines = [
        "| alteration | copies | refused | record | structure | recomputing | within rounding | not in the sample | missed |",
        "|---|" + "---:|" * 8,
    ]
    for alteration in ALTERATIONS:
        own = table[table["alteration"] == alteration.__name__]
        quiet = own[own["found"] == ""]
        outside = quiet[~quiet["in_sample"] & quiet["only_by_recomputing"]]
        rounding = quiet[quiet["as_swap"] & quiet["in_sample"]]
        counts = [(own["found"] == name).sum() for name in ("refused", "record", "structure", "recomputing")]
        rest = len(quiet) - len(outside) - len(rounding)
        cells = [(alteration.__doc__ or "").strip(), len(own), *counts, len(rounding), len(outside), rest]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def expectation(table: pd.DataFrame) -> str:
    """Return how many copies were missed because no altered image was in the sample, beside the number expected."""
    hidden = table[table["only_by_recomputing"] & (table["altered"] > 0)]
    share, outside = hidden["missed_expected"], int((~hidden["in_sample"]).sum())
    deviation = np.sqrt((share * (1 - share)).sum())
    return (
        f"Of {len(hidden):,} copies whose alteration contradicts nothing else in the folder, {outside} had no altered image in the "
        f"sample; the hypergeometric distribution expects {share.sum():.1f} (standard deviation {deviation:.1f})."
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder for verify_fuzz.csv and verify_fuzz.md.")] = Path("results"),
    copies: Annotated[int, typer.Option(min=1, help="Altered copies.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the alterations and samples.")] = 0,
) -> None:
    """Try every kind of alteration in turn, and write the tables."""
    rng, rows = np.random.default_rng(seed), list[dict[str, Any]]()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        opened = finished(scratch / "whole")
        for number in range(copies):
            rows.append(tried(scratch / "whole", opened, number % len(ALTERATIONS), rng, scratch))
            if len(rows) % 50 == 0 or len(rows) == copies:
                print(f"{len(rows)} of {copies} copies", flush=True)
                write(pd.DataFrame(rows), out, seed)


def write(table: pd.DataFrame, out: Path, seed: int) -> None:
    """Write both files."""
    table.to_csv(out / "verify_fuzz.csv", index=False, float_format="%.4g", lineterminator="\n")
    command = f"python experiments/correctness/verify_fuzz.py --copies {len(table)} --seed {seed}"
    (out / "verify_fuzz.md").write_text(f"# Altered runs\n\n`{command}`\n\n{page(table)}\n\n{expectation(table)}\n")


if __name__ == "__main__":
    run_script(main)
