"""Measure the size of a run's report, and the time until a browser shows its gallery.

    evalkit run data.split=train +data.count=5000 maps=store out=results/many
    python experiments/cost/report_opens.py results/many --json results/report_opens.json

The file is opened from disk by a headless Chromium, each time in a new profile; seconds are from the call to the first card.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import sync_playwright

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.cli.script import run_script
from evalkit.photos.gallery import report_runs


def main(
    run: Path,
    gallery: Annotated[list[int] | None, typer.Option(help="Images for every reason; several reports where given several times.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    chromium: Annotated[str, typer.Option(help="The browser.")] = "/usr/bin/chromium",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure both for each number of images and print the figures."""
    evaluated, figures = [evaluate_run(loaded) for loaded in load_runs([str(run)])], {}
    for each in gallery or [24, 2000]:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "report.html"
            report_runs(evaluated, file, each=each)
            seconds, cards = opened(file, chromium, repeats)
            figures |= {
                f"gallery_{each}_images_of_the_run": evaluated[0].run.counts()["images"],
                f"gallery_{each}_images_in_it": cards,
                f"gallery_{each}_mib": round(file.stat().st_size / 2**20, 2),
                f"gallery_{each}_seconds": round(statistics.median(seconds), 2),
                f"gallery_{each}_seconds_most": round(max(seconds), 2),
            }
    print(json.dumps(figures, indent=1))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


def opened(file: Path, chromium: str, repeats: int) -> tuple[list[float], int]:
    """Return the seconds to the first card, for each repeat, and the number of images of the gallery."""
    seconds, images = [], 0
    with sync_playwright() as play:
        for _ in range(repeats):
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(file.as_uri())
            page.wait_for_selector(".card")
            seconds.append(time.perf_counter() - started)
            images = int(page.locator(".count").first.inner_text().split()[0])
            browser.close()
    return seconds, images


if __name__ == "__main__":
    run_script(main)
