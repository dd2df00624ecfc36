"""From rows to numbers: every metric of a run with its interval, and every paired comparison."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit import metrics, stats
from evalkit.errors import UserError
from evalkit.store import Identity, RunFolder

CONTROLS = ("random", "constant", "centre")
SCORES = {"confidence": "prob", "activation": "logit"}
PAPER_METRICS = ("average_drop", "increase", "win")
"""Each for confidence and activation: the six of the paper's tables."""
DROPS = ("average_drop", "median_drop", "drop_of_sums")
NEARLY_CERTAIN = 0.9999
POINT = ["select", "top_percent", "fill"]
Point = tuple[str, float, str]
"""select, top_percent (nan for "soft"), fill."""


@dataclass(frozen=True)
class Run:
    """The rows of one run folder with what is known of them."""

    path: Path
    provenance: dict[str, Any]
    rows: pd.DataFrame
    shards: list[dict[str, Any]]
    tag: str = ""
    """The folder's name, where several runs shown together would bear the same title."""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance["identity"]["model"]["name"])

    @property
    def methods(self) -> list[str]:
        """In the order of the configuration, controls last."""
        chosen = list(self.provenance["identity"]["method"])
        return sorted(chosen, key=lambda method: (method in CONTROLS, chosen.index(method)))

    @cached_property
    def scored(self) -> pd.DataFrame:
        """Rows of the images that every method could be scored on, at every protocol point."""
        good = self.rows[~self.rows["index"].isin(self.rows.loc[self.rows.status.isin(["error", "nonfinite"]), "index"])]
        whole = good.groupby("index").size() == len(self.methods) * len(self.points)  # an unfinished run may lack a method
        return good[good["index"].isin(whole.index[whole])]

    @property
    def points(self) -> list[Point]:
        """The protocol points (select, top_percent, fill) in the order of the rows."""
        return [tuple(p) for p in self.rows[POINT].drop_duplicates().itertuples(index=False)]

    def counts(self) -> dict[str, Any]:
        """Images by fate, accuracy, and what else the caption states."""
        images = self.rows.drop_duplicates("index")
        read = images[images.status != "error"]
        labelled = read[read.label.notna()]
        maps = self.rows.drop_duplicates(["index", "method"])
        seconds = sum(float(shard["seconds"]) for shard in self.shards)
        return {
            "images": len(images),
            "read": len(read),
            "labelled": len(labelled),
            "scored": int(self.scored["index"].nunique()),
            "unreadable": int((images.status == "error").sum()),
            "nonfinite": int(self.rows.loc[self.rows.status == "nonfinite", "index"].nunique()),
            "skipped_not_correct": sum(int(shard["skipped_not_correct"]) for shard in self.shards),
            "degenerate": {m: int(((maps.method == m) & (maps.status == "degenerate")).sum()) for m in self.methods},
            "logit_not_positive": int((self.scored.drop_duplicates("index").logit_full <= 0).sum()),
            "nearly_certain_percent": float((read.prob_full > NEARLY_CERTAIN).mean() * 100) if len(read) else float("nan"),
            "top1_percent": float((labelled.label == labelled.predicted).mean() * 100) if len(labelled) else None,
            "images_per_second": len(images) / seconds if seconds else float("nan"),
            "code_versions": len({shard["code"] for shard in self.shards}),
        }


def load_runs(paths: Iterable[Path], *, allow_incomplete: bool = False) -> list[Run]:
    """Run folders, or folders of run folders (multirun); those of one protocol with different methods are merged.

    Raises UserError for what is no run folder, or not finished.
    """
    found: list[Path] = []
    for path in paths:
        below = sorted(p.parent for p in path.glob("*/provenance.json"))
        found += [path] if RunFolder(path).exists or not below else below
    runs = []
    for path in {path.resolve(): path for path in found}.values():
        folder = RunFolder(path)
        provenance, missing = folder.provenance, folder.missing()
        if missing and not allow_incomplete:
            raise UserError(
                f"{path} is not finished: {len(missing)} shards are missing; "
                "run the same command again, or render it as it is with --allow-incomplete"
            )
        provenance["missing_shards"] = len(missing)
        runs.append(Run(path, provenance, folder.rows(), folder.shard_metadata()))
    return _tagged(_merged(runs))


def _tagged(runs: Sequence[Run]) -> list[Run]:
    def kind(run: Run) -> tuple[str, ...]:
        identity = run.provenance["identity"]
        return run.name, identity["model"]["layer"], identity["data"]["name"], run.provenance["weights"]

    counted = Counter(map(kind, runs))
    return [replace(run, tag=run.path.name) if counted[kind(run)] > 1 else run for run in runs]


def _merged(runs: Iterable[Run]) -> list[Run]:
    """Runs that differ in nothing but their methods become one, so that its comparisons are paired image by image."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        facts = {key: fact for key, fact in run.provenance["identity"].items() if key != "method"}
        facts["code"] = {name: digest for name, digest in facts.get("code", {}).items() if not name.startswith("method.")}
        groups.setdefault(Identity(facts).hash, []).append(run)
    return [run for group in groups.values() for run in _join(group)]


def _join(group: list[Run]) -> list[Run]:
    """One run with the methods of all; the group as it is where a method occurs twice."""
    methods = [method for run in group for method in run.provenance["identity"]["method"]]
    if len(group) == 1 or len(set(methods)) < len(methods):
        return group
    first = group[0]
    chosen = {name: settings for run in group for name, settings in run.provenance["identity"]["method"].items()}
    provenance = {
        **first.provenance,
        "identity": {**first.provenance["identity"], "method": chosen},
        "missing_shards": sum(run.provenance["missing_shards"] for run in group),
    }
    others = [{**shard, "skipped_not_correct": 0} for run in group[1:] for shard in run.shards]  # the same images again
    return [Run(first.path, provenance, pd.concat([run.rows for run in group]), [*first.shards, *others])]


def at_point(table: pd.DataFrame, point: Point) -> pd.DataFrame:
    """What rows, summaries or comparisons hold of one protocol point."""
    select, top, fill = point
    at_top = table.top_percent.isna() if pd.isna(top) else table.top_percent == top
    return table[(table["select"] == select) & (table["fill"] == fill) & at_top]


def scores_of(run: Run, point: Point, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Y and O of all methods at one protocol point, (M,n) each, over the same images in the same order."""
    here = at_point(run.scored, point)
    column = SCORES[score]
    full = here.pivot(index="method", columns="index", values=f"{column}_full").reindex(run.methods)
    masked = here.pivot(index="method", columns="index", values=f"{column}_masked").reindex(run.methods)
    return full.to_numpy(np.float64), masked.to_numpy(np.float64)


def lower_is_better(metric: str, select: str) -> bool:
    """Keeping what matters should cost little; removing it (`remove_top`) should cost much: then all directions turn."""
    return (metric in DROPS) != (select == "remove_top" and metric in (*DROPS, "increase"))


def better(metric: str, select: str) -> str:
    """`lower_is_better` in a word."""
    return "lower" if lower_is_better(metric, select) else "higher"


def _losses(point: Point, full: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """What a good method makes small and `win` compares: the clipped drop, negated where the best method costs most."""
    drops = metrics.clipped_drop(full, masked)
    return drops if lower_is_better("average_drop", point[0]) else -drops


def rival(methods: Sequence[str], method: str) -> str | None:
    """Whom `win` is counted against: the first two methods against each other, everyone else against the first."""
    first = methods[0]
    if len(methods) < 2:
        return None
    return methods[1] if method == first else first


def summarise(run: Run) -> pd.DataFrame:
    """Every metric with its 95 % interval, one row for each method, protocol point, score and metric."""
    tables = [_summarise_point(run, point, score) for point, score in itertools.product(run.points, SCORES)]
    summary = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if summary.empty:
        counts = run.counts()
        raise UserError(
            f"{run.path}: no image could be scored by every method, of {counts['images']} images "
            f"({counts['unreadable']} unreadable, {counts['nonfinite']} with maps or scores that are not finite, "
            f"{counts['skipped_not_correct']} left out by images=correct, {run.provenance['missing_shards']} shards missing)"
        )
    summary["reference"] = [_reference(run, record) for record in summary.to_dict("records")]
    return summary


def _summarise_point(run: Run, point: Point, score: str) -> pd.DataFrame:
    full, masked = scores_of(run, point, score)
    if not full.shape[1]:
        return pd.DataFrame()
    methods = run.methods
    drops = metrics.clipped_drop(full, masked)
    losses = _losses(point, full, masked)
    relative = metrics.relative_drop(full, masked)
    against = [rival(methods, method) for method in methods]
    columns: dict[str, np.ndarray | tuple[np.ndarray, np.ndarray]] = {
        "average_drop": relative,
        "increase": metrics.increased(full, masked),
    }
    if len(methods) > 1:
        columns["win"] = metrics.wins(losses, losses[[methods.index(str(other)) for other in against]])
        columns["best_of_all"] = metrics.best_of_all(losses)
    positive = full[0] > 0
    if positive.any():
        columns["drop_of_sums"] = (100 * np.where(positive, drops, 0), np.where(positive, full, 0))
    found: dict[str, stats.Intervals] = dict(stats.bootstrap(columns))
    if positive.any():
        found["median_drop"] = stats.medians(relative[:, positive])
    return pd.DataFrame(
        {
            "run": str(run.path),
            "model": run.name,
            "method": method,
            **dict(zip(POINT, point, strict=True)),
            "score": score,
            "metric": metric,
            "against": against[i] if metric == "win" else None,
            "n": int(positive.sum()) if metric in DROPS else full.shape[1],
            "value": estimate.value[i],
            "low": estimate.low[i],
            "high": estimate.high[i],
        }
        for metric, estimate in found.items()
        for i, method in enumerate(methods)
    )


def compare(run: Run) -> pd.DataFrame:
    """Every pair of methods: difference of means (paired bootstrap), McNemar for increase, sign test for win."""
    if len(run.methods) < 2 or not run.points:
        return pd.DataFrame()
    return pd.concat([_compare_point(run, point, score) for point, score in itertools.product(run.points, SCORES)], ignore_index=True)


def _compare_point(run: Run, point: Point, score: str) -> pd.DataFrame:
    full, masked = scores_of(run, point, score)
    pairs = list(itertools.combinations(range(len(run.methods)), 2))
    first, second = np.array(pairs).T
    drops = metrics.relative_drop(full, masked)
    up = metrics.increased(full, masked)
    losses = _losses(point, full, masked)
    won, lost = metrics.wins(losses[first], losses[second]), metrics.wins(losses[second], losses[first])
    found = stats.bootstrap({"average_drop": drops[first] - drops[second], "increase": up[first] - up[second], "win": won - lost})
    tests: dict[str, tuple[str, Any]] = {
        "average_drop": ("paired bootstrap", stats.p_of_difference(found["average_drop"].resampled)),
        "increase": ("McNemar", [stats.mcnemar(up[i] > 0, up[j] > 0) for i, j in pairs]),
        "win": ("sign", [stats.sign_test(int((a > 0).sum()), int((b > 0).sum())) for a, b in zip(won, lost, strict=True)]),
    }
    return pd.DataFrame(
        {
            "run": str(run.path),
            "model": run.name,
            "first": run.methods[i],
            "second": run.methods[j],
            **dict(zip(POINT, point, strict=True)),
            "score": score,
            "metric": metric,
            "test": test,
            "p": p[pair],
            "difference": found[metric].value[pair],
            "low": found[metric].low[pair],
            "high": found[metric].high[pair],
        }
        for pair, (i, j) in enumerate(pairs)
        for metric, (test, p) in tests.items()
    )


def win_matrix(run: Run, point: Point, score: str) -> pd.DataFrame:
    """Share of images, in percent, where the row's method beats the column's: a strictly smaller clipped drop.

    Under `remove_top` a strictly larger one.
    """
    losses = _losses(point, *scores_of(run, point, score))
    shares = np.array([[metrics.wins(a, b).mean() for b in losses] for a in losses])
    np.fill_diagonal(shares, np.nan)
    return pd.DataFrame(shares, index=run.methods, columns=run.methods)


def published(name: str) -> pd.DataFrame:
    """Figures that others published: `paper` (the paper's Tables 1 and 2) or `published` (soft mask)."""
    with (resources.files("evalkit.results") / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def _reference(run: Run, record: dict[str, Any]) -> float:
    """The published value that this number stands beside; nan where there is none."""
    keep = (record["select"], record["top_percent"], record["fill"]) == ("keep_top", 20, "black")
    identity = run.provenance["identity"]
    pair = {"ablation_cam", "grad_cam"}
    comparable = record["metric"] != "win" or {record["method"], record["against"]} == pair
    if keep and comparable and run.provenance["paper_table"] and (identity["target"], identity["images"]) == ("predicted", "all"):
        paper = published("paper")
        found = paper[
            (paper.table == run.provenance["paper_table"])
            & (paper.metric == record["metric"])
            & (paper.score == record["score"])
            & (paper.method == record["method"])
        ]
        return float(found.percent.iloc[0]) if len(found) else float("nan")
    column = {"average_drop": "average_drop_percent", "increase": "increase_percent"}.get(record["metric"])
    if (record["select"], record["fill"], record["score"]) == ("soft", "mean", "confidence") and column:
        others = published("published")
        layer = identity["model"]["layer"]
        found = others[(others.model == run.name) & (others.layer == layer) & (others.method == record["method"])]
        found = found.sort_values("variant", key=lambda v: v != "logit target")  # this package explains logits
        return float(found[column].iloc[0]) if len(found) else float("nan")
    return float("nan")
