"""Tables 1 and 2 from any set of runs: terminal, markdown, CSV, LaTeX."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evalkit.runs import CONTROLS, Point, Run, at_point
from evalkit.store import writable_folder
from evalkit.summary import PAPER_METRICS, better, compare, lower_is_better, summarise, win_matrix

LABELS = {
    "average_drop": "Average drop %",
    "increase": "Increase %",
    "win": "Win %",
    "best_of_all": "Best of all %",
    "median_drop": "Median drop %",
    "drop_of_sums": "Drop of sums %",
}
PAPER = "Published: the paper's own value, on ImageNet val with VGG16 (Table 1) or Inception-v3 (Table 2)."
PAIRED = "Paired tests (average drop: bootstrap; increase: McNemar; win: sign test)"
LINES = [
    *((metric, score) for metric in PAPER_METRICS for score in ("confidence", "activation")),
    ("best_of_all", "confidence"),
    ("drop_of_sums", "activation"),
    ("median_drop", "activation"),
]


def title(run: Run) -> str:
    """What the table shows, random weights in capitals."""
    number = {"table1": "Table 1: ", "table2": "Table 2: "}.get(str(run.provenance["paper_table"]), "")
    identity = run.provenance["identity"]
    random = " with RANDOM WEIGHTS" if run.provenance["weights"].startswith("random") else ""
    tag = f" ({run.tag})" if run.tag else ""
    return f"{number}{run.name}{random} at {identity['model']['layer']} on {identity['data']['name']}{tag}"


def describe_point(point: Point) -> str:
    """A protocol point in words."""
    select, top, fill = point
    kept = {"keep_top": f"top {top:g} % kept", "remove_top": f"top {top:g} % removed", "soft": "soft mask"}[select]
    return f"{kept}, {fill} fill"


def caption(run: Run) -> list[str]:
    """What a reader needs to judge the numbers: who was counted, who was not, and why."""
    counts, identity = run.counts(), run.provenance["identity"]
    lines = [
        f"{counts['scored']} of {counts['images']} images scored at {counts['images_per_second']:.1f} images/s; "
        f"target: {identity['target']}. Values with 95 % bootstrap intervals over images."
    ]
    if identity["sample"] or identity["limit"]:
        lines.append(
            f"A seeded stratified sample of {run.provenance['images']} images (sample={identity['sample']})."
            if identity["sample"]
            else f"Only the first {run.provenance['images']} images (limit={identity['limit']})."
        )
    if identity["images"] == "correct":
        lines.append(f"Only correctly classified images; {counts['left_out']} others left out.")
    if run.provenance["missing_shards"]:
        lines.append(f"INCOMPLETE: {run.provenance['missing_shards']} shards are missing.")
    lines.append(f"Excluded: {counts['unreadable']} unreadable, {counts['nonfinite']} with non-finite maps or scores.")
    degenerate = ", ".join(
        f"{method} {number} ({100 * number / max(counts['read'], 1):.1f} %)" for method, number in counts["degenerate"].items() if number
    )
    lines.append(f"Constant maps, ranked by pixel index and included: {degenerate or 'none'}.")
    lines.append(
        f"Left out of the drop in activation because Y <= 0: {counts['logit_not_positive']}. "
        f"Confidence above 0.9999 on {counts['nearly_certain_percent']:.1f} % of images."
    )
    if counts["top1_percent"] is not None and identity["images"] == "all":
        expected = run.provenance["expected_top1"]
        source = f" (expected {expected:g}, {run.provenance['expected_top1_source']})" if expected is not None else ""
        of = f" of {counts['labelled']} labelled images" if counts["labelled"] < counts["images"] else ""
        lines.append(f"Top-1 {counts['top1_percent']:.2f} %{of}{source}; weights: {run.provenance['weights']}.")
    if counts["code_versions"] > 1:
        lines.append(f"Shards were computed by {counts['code_versions']} versions of the code.")
    lines.append(f"Data fingerprint {identity['data']['fingerprint'][:12]}, weights {identity['model']['weights_hash']}.")
    if whom_win_beats(run):
        lines.append(f"{whom_win_beats(run)}.")
    if run.provenance["paper_table"] and ("keep_top", 20.0, "black") in run.points:
        lines.append(PAPER)
    return lines


def whom_win_beats(run: Run) -> str:
    """Whom each method's `win` is counted against (`summary.rival`), in words; empty for a single method."""
    if len(run.methods) < 2:
        return ""
    first, second = run.methods[:2]
    return f"Win: {first} and {second} against each other" + (f", every other method against {first}" if len(run.methods) > 2 else "")


def cells(summary: pd.DataFrame, run: Run, point: Point) -> list[list[str]]:
    """One table as text: a header, then a line for each metric; published values in columns of their own."""
    here = at_point(summary[summary.run == str(run.path)], point)
    methods = run.methods
    cited = [m for m in methods if here[here.method == m].reference.notna().any()]
    table = [["", *methods, *(f"{method} (published)" for method in cited)]]
    for metric, score in LINES:
        rows = here[(here.metric == metric) & (here.score == score)].set_index("method")
        if rows.empty:
            continue
        label = f"{LABELS[metric]}, {score} ({better(metric, point[0])} is better)"
        values = [interval(rows.loc[m, "value"], rows.loc[m, "low"], rows.loc[m, "high"]) for m in methods]
        published = [f"{rows.loc[m, 'reference']:.2f}" if pd.notna(rows.loc[m, "reference"]) else "" for m in cited]
        table.append([label, *values, *published])
    return table


def interval(value: float, low: float, high: float) -> str:
    """`41.52 [40.90, 42.11]`."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) else f"{value:.2f} [no interval: too few images]"


def comparison_table(comparisons: pd.DataFrame, run: Run, point: Point) -> list[list[str]]:
    """The paired tests of the first two methods, and of the first against the centre control; empty for one method."""
    if comparisons.empty:
        return []
    here = at_point(comparisons[comparisons.run == str(run.path)], point)
    first = run.methods[0]
    rivals = [m for m in run.methods[1:] if m not in CONTROLS][:1]
    if first not in CONTROLS and "centre" in run.methods:
        rivals.append("centre")
    lines = [["difference", "metric", "value", "p"]]
    for other in rivals:
        for row in here[(here["first"] == first) & (here["second"] == other)].itertuples():
            p = "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
            difference = f"{row.difference:+.2f} " + (f"[{row.low:+.2f}, {row.high:+.2f}]" if math.isfinite(row.low) else "[no interval]")
            lines.append([f"{first} - {other}", f"{LABELS[row.metric].removesuffix(' %')}, {row.score}", difference, p])
    return lines if len(lines) > 1 else []


def main_points(run: Run) -> list[Point]:
    """The points whose tables people see at once: those nearest to the paper's 20 %, and the soft ones."""
    nearest = min((abs(p[1] - 20) for p in run.points if not pd.isna(p[1])), default=0)
    return [p for p in run.points if pd.isna(p[1]) or abs(p[1] - 20) == nearest]


def print_tables(console: Console, runs: Sequence[Run], summary: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """The six metrics to the terminal, methods as rows, so that 80 columns suffice; all others are in the files."""
    for run in runs:
        for point in main_points(run):
            console.print(f"\n{title(run)}; {describe_point(point)}", style="bold", markup=False, highlight=False)
            for score in ("confidence", "activation"):
                console.print(_score_table(summary, run, point, score))
            console.print("\n".join(caption(run)), markup=False, highlight=False)
            tests = comparison_table(comparisons, run, point)
            if tests:
                table = Table(
                    *tests[0],
                    box=box.SIMPLE_HEAD,
                    padding=(0, 1),
                    pad_edge=False,
                    title=PAIRED,
                    title_justify="left",
                    title_style="italic",
                )
                for row in tests[1:]:
                    table.add_row(*map(escape, row))
                console.print(table)


def _score_table(summary: pd.DataFrame, run: Run, point: Point, score: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    table.add_column(score)
    for metric in PAPER_METRICS:
        arrow = "\N{DOWNWARDS ARROW}" if lower_is_better(metric, point[0]) else "\N{UPWARDS ARROW}"
        table.add_column(f"{LABELS[metric]} {arrow}", justify="right")
    here = at_point(summary[(summary.run == str(run.path)) & (summary.score == score)], point)
    for method in run.methods:
        mine = here[here.method == method].set_index("metric")
        row = []
        for metric in PAPER_METRICS:
            if metric not in mine.index:
                row.append("")
                continue
            found = mine.loc[metric]
            cited = f"\n(published {found.reference:.2f})" if pd.notna(found.reference) else ""
            row.append(interval(found.value, found.low, found.high) + cited)
        table.add_row(escape(method), *map(escape, row))
    return table


def markdown(runs: Sequence[Run], summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """All protocol points of all runs, with win matrices and paired tests."""
    parts = []
    for run in runs:
        parts.append(f"## {title(run)}\n\n" + "\n".join(f"- {line}" for line in caption(run)))
        for point in run.points:
            parts.append(f"### {describe_point(point)}\n\n" + _pipes(cells(summary, run, point)))
            tests = comparison_table(comparisons, run, point)
            if tests:
                parts.append(f"{PAIRED}:\n\n" + _pipes(tests))
            if len(run.methods) > 2:
                for score in ("confidence", "activation"):
                    shares = win_matrix(run, point, score)
                    lines = [["row beats column", *run.methods]]
                    lines += [[method, *("" if math.isnan(v) else f"{v:.2f}" for v in shares.loc[method])] for method in run.methods]
                    parts.append(f"Win % in {score}:\n\n" + _pipes(lines))
    return "\n\n".join(parts) + "\n"


def latex(runs: Sequence[Run], summary: pd.DataFrame) -> str:
    """One booktabs table for each run and main point."""
    parts = ["% needs \\usepackage{booktabs}"]
    for run in runs:
        for point in main_points(run):
            header, *lines = cells(summary, run, point)
            body = "\n".join(" & ".join(_tex(cell) for cell in line) + r" \\" for line in lines)
            parts.append(
                "\\begin{table}\n\\centering\n\\small\n"
                + f"\\caption{{{_tex(title(run))}; {_tex(describe_point(point))}. {_tex(' '.join(caption(run)))}}}\n"
                + f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}\n\\toprule\n"
                + " & ".join(_tex(cell) for cell in header)
                + f" \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}"
            )
    return "\n\n".join(parts) + "\n"


def write_all(
    runs: Sequence[Run], out: Path, plot: Callable[[Sequence[Run], pd.DataFrame, Path], None] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """tables.md, tables.tex, summary.csv, comparisons.csv and, by `plot`, the figures; returns summary and comparisons."""
    writable_folder(out, "--out")
    summary = pd.concat([summarise(run) for run in runs], ignore_index=True)
    comparisons = pd.concat([compare(run) for run in runs], ignore_index=True)
    summary.to_csv(out / "summary.csv", index=False, float_format="%.6g")
    comparisons.to_csv(out / "comparisons.csv", index=False, float_format="%.6g")
    (out / "tables.md").write_text(markdown(runs, summary, comparisons), encoding="utf-8")
    (out / "tables.tex").write_text(latex(runs, summary), encoding="utf-8")
    if plot is not None:
        plot(runs, summary, out / "figures")
    return summary, comparisons


def _pipes(lines: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---", *("---:" for _ in lines[0][1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [escaped[0], rule, *escaped[1:]])


def _tex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$",
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)
