"""Exported scores are those of the shards, and means of their columns those of the tables."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builders import FULL, HOSTILE, MASKED, ROOT, fresh, launched, make_run, save_pictures, tiny_overrides
from commands import here, through_main

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.output import export_files
from evalkit.output.export import DERIVED, FACTS, MAP_MEASURES, SCORES, exported
from evalkit.output.tables import caption
from evalkit.runs.folder import RunFolder

RAW_SCORES = ["prob_full", "prob_masked", "logit_full", "logit_masked"]
MAPS_EACH = 11 * 2 * 2 + 2  # images, classes, methods; the one that cannot be read has no class
ROWS_EACH = 2 * MAPS_EACH  # two thresholds
PAGE = (ROOT / "docs" / "exporting.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs that make one table, in three shards each; one picture of twelve cannot be read, another has no finite map in the second."""
    folder = tmp_path_factory.mktemp("export")
    pictures = save_pictures(folder / "pictures")
    (pictures / "b" / "2.png").write_bytes(b"no picture")
    overrides = tiny_overrides(pictures, folder / "mine")
    launched([*overrides, "method=[ablation_cam,centre]", "maps=store", "target=[0,1]"])
    odd = "theirs_export.odd_cam"
    (folder / "theirs_export.py").write_text(ODD)
    sys.path.insert(0, str(folder))
    launched([*overrides, "method=[grad_cam]", f"+method.odd._target_={odd}", "target=[0,1]", f"out={folder / 'mine-2'}"])
    sys.path.remove(str(folder))
    return folder


ODD = """import torch

def odd_cam(probe):
    maps = probe.activations.mean(1)
    return torch.where((torch.as_tensor(probe.indices) == 5)[:, None, None], torch.nan, maps)
"""


def export(*arguments):
    done = through_main("export", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stderr


def mistake(*arguments) -> str:
    error = here("export", *map(str, arguments)).exception
    assert isinstance(error, UserError) and "\n" not in str(error), error
    return str(error)


def scores(rows: pd.DataFrame, name: str, order=("index", "target", "method", "top_percent")) -> np.ndarray:
    return rows.sort_values(list(order))[name].to_numpy()


def test_scores_are_those_of_the_shards(made, tmp_path):
    said = export(made / "mine", "--out", tmp_path / "e.parquet")
    assert f"written: {tmp_path / 'e.parquet'}: {ROWS_EACH} rows, 0.0 MB" in said and f"e-maps.parquet: {MAPS_EACH} rows" in said
    table, maps = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("e", "e-maps"))
    assert table.schema.equals(SCORES) and maps.schema.equals(MAP_MEASURES)
    stored = list(RunFolder(made / "mine").finished())
    for written, of, columns in ((table, "rows", ROWS.names), (maps, "maps", [name for name in MAPS.names if name != "map"])):
        theirs = pa.concat_tables([getattr(shard, of).select(columns) for shard in stored])
        assert written.select(columns).replace_schema_metadata().equals(theirs)
    identity = RunFolder(made / "mine").provenance["identity"]
    (facts,) = table.select(list(FACTS)).to_pandas().drop_duplicates().to_dict("records")
    assert facts == {
        "run": "mine", "identity": RunFolder(made / "mine").provenance["identity_hash"], "model": "builders.TinyFC", "layer": "features",
        "weights_hash": identity["model"]["weights_hash"], "data": "image_folder", "data_fingerprint": identity["data"]["fingerprint"],
        "code": stored[0].description["code"],
    } | {"model": identity["model"]["name"]}  # fmt: skip
    about = json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"evalkit"])
    assert about["runs"]["mine"]["identity"] == identity and about["evalkit"]
    assert pq.read_metadata(tmp_path / "e.parquet").row_group(0).column(0).compression == "ZSTD"


def test_derived_columns_by_a_loop_over_rows(tmp_path):
    rng = fresh()
    full = np.array([4.0, 0.0, -2.0, *rng.uniform(0.1, 9, 20)])
    masked = {name: full * rng.uniform(0.2, 1.5, len(full)) for name in ("a", "b")}
    masked["b"][7] = full[7]  # neither drops nor increases
    for raw in (False, True):
        run = make_run(tmp_path / f"{raw}", full, masked, status={(5, "b"): "nonfinite", (6, "a"): "error", (8, "a"): "degenerate"})
        run.provenance["identity"]["model"]["output"] = "raw" if raw else "softmax"
        (part,) = exported([run]).parts()
        for row in part.scores.to_pylist():
            counted = row["index"] not in (5, 6)
            assert row["counted"] is counted
            for name, kind in (("confidence", "prob"), ("activation", "logit")):
                y, o = row[f"{kind}_full"], row[f"{kind}_masked"]
                size = abs(y) if raw else y
                drop = 100 * max(0, y - o) / size if counted and size > 0 else None
                assert row[f"drop_{name}"] == (None if drop is None else pytest.approx(drop, rel=1e-14))
                assert row[f"increase_{name}"] is ((y < o) if counted else None)


def test_means_are_those_of_the_tables_of_merged_runs(made, tmp_path):
    paths = [made / "mine", made / "mine-2"]
    export(*paths, "--out", tmp_path / "e.parquet")
    rows, maps = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("e", "e-maps"))
    (run,) = load_runs(paths)
    assert len(rows) == 2 * ROWS_EACH and list(rows.run.unique()) == ["mine", "mine-2"]
    lost = rows[~rows.counted]
    assert set(lost.status) == {"error", "nonfinite", "ok"} and lost["index"].nunique() == 2  # one is lost to the methods of both runs
    assert set(maps[~maps.counted]["index"]) == set(lost["index"]) and lost.drop_activation.isna().all()
    means = rows.groupby(["method", "top_percent"]).mean(numeric_only=True)
    summary = evaluate_run(run).summary.set_index(["method", "top_percent", "score", "metric"]).value
    assert len(means) == 8
    for (method, top), mean in means.iterrows():
        for score in ("confidence", "activation"):
            assert mean[f"drop_{score}"] == pytest.approx(summary[method, top, score, "average_drop"], rel=1e-12)
            increase = rows[(rows.method == method) & (rows.top_percent == top)][f"increase_{score}"].dropna().astype(float).mean()
            assert 100 * increase == pytest.approx(summary[method, top, score, "increase"], rel=1e-12)
    alone = exported(load_runs([made / "mine"]))
    assert sum(part.scores["counted"].to_pandas().sum() for part in alone.parts()) == 11 * 2 * 2 * 2  # by itself only one is lost


def test_items_that_not_every_merged_run_has(made, tmp_path):
    shutil.copytree(made / "mine-2", tmp_path / "mine-2")
    (tmp_path / "mine-2" / "rows" / "shard-00000.parquet").unlink()
    paths = [made / "mine", tmp_path / "mine-2"]
    assert "is not finished: 1 shard missing" in mistake(*paths, "--out", tmp_path / "e.csv")
    export(*paths, "--out", tmp_path / "e.parquet", "--allow-incomplete")
    rows = pd.read_parquet(tmp_path / "e.parquet")
    (run,) = load_runs(paths, allow_incomplete=True)
    counted = rows[rows.counted].sort_values(["method", "index", "target", "top_percent"])[["method", "index", "target"]]
    theirs = run.scored.sort_values(["method", "index", "target", "top_percent"])[["method", "index", "target"]]
    assert counted.to_numpy().tolist() == theirs.to_numpy().tolist() and len(counted) < len(rows)


def test_csv_reads_back_to_the_last_bit(tmp_path):
    rng = fresh()
    full = 10.0 ** rng.uniform(-300, 300, 30) * rng.choice([-1, 1], 30)
    masked = {"a": full * rng.random(30), "b,\n\"c\"": full * rng.random(30)}  # fmt: skip
    masked["a"][3] = np.nan
    make_run(tmp_path / "run", full, masked, status={(3, "a"): "nonfinite"})
    said = export(tmp_path / "run", "--to", "csv")
    assert f"written: {tmp_path / 'run' / 'export.csv'}: 60 rows" in said
    with (tmp_path / "run" / "export.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    (shard,) = RunFolder(tmp_path / "run").finished()
    assert list(read[0]) == SCORES.names
    for ours, theirs in zip(read, shard.rows.to_pylist(), strict=True):
        for name in RAW_SCORES:
            assert np.array(float(ours[name])).tobytes() == np.array(theirs[name]).tobytes() or np.isnan(theirs[name])
        assert ours["method"] == theirs["method"] and ours["error"] == "" and int(ours["index"]) == theirs["index"]
        assert (ours["drop_activation"] == "") == (theirs["index"] == 3 or theirs["logit_full"] <= 0)
    assert (tmp_path / "run" / "export-maps.csv").read_text().startswith('"run","identity"')


def test_several_runs_of_one_name(tmp_path):
    for place in ("a", "b"):
        make_run(tmp_path / place / "run", FULL, MASKED, model=place)
    make_run(tmp_path / "other", FULL, MASKED, fingerprint="g")
    export(tmp_path / "a", tmp_path / "b" / "run", tmp_path / "other", "--out", tmp_path / "e.parquet")
    names = pd.read_parquet(tmp_path / "e.parquet").groupby("run").model.first()
    assert names.to_dict() == {str(tmp_path / "a" / "run"): "a", str(tmp_path / "b" / "run"): "b", "other": "vgg16"}


def test_files_appear_complete_or_not_at_all(made, tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "ROW_GROUP", 1)
    written = []

    def dies(self, run, folder, record, items, shard, original=export_files.Exported._part):
        written.append(sorted(path.name for path in tmp_path.rglob("*") if path.is_file()))
        if shard.number == 2:
            raise KeyboardInterrupt
        return original(self, run, folder, record, items, shard)

    monkeypatch.setattr(export_files.Exported, "_part", dies)
    for arguments in (
        ["--out", tmp_path / "e.parquet"],
        ["--to", "csv", "--out", tmp_path / "e.csv"],
        ["--to", "hf", "--out", tmp_path / "hf"],
    ):
        through_main("export", str(made / "mine"), *map(str, arguments))
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(len(names) == 2 and all(name.endswith(".tmp") for name in names) for names in written)


def test_a_shard_that_is_gone_meanwhile(made, tmp_path):
    shutil.copytree(made / "mine", tmp_path / "run")
    loaded = exported(load_runs([tmp_path / "run"]))
    (tmp_path / "run" / "rows" / "shard-00001.parquet").unlink()
    with pytest.raises(UserError, match="has lost 1 of its shards meanwhile"):
        export_files.export_file(loaded, tmp_path / "e.parquet", "parquet")
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob(".*"))


def test_mistakes(made, tmp_path):
    assert "--out=e.csv is called csv, and --to parquet writes parquet: change one of them" in mistake(made / "mine", "--out", "e.csv")
    assert "is a folder; name a file with --out" in mistake(made / "mine", "--out", tmp_path)
    assert "is not a run folder" in mistake("/nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    assert "is not empty, and might hold a card that was edited" in mistake(made / "mine", "--to", "hf", "--out", tmp_path / "full")
    assert "cannot write to" in mistake(made / "mine", "--out", "/proc/none/e.parquet")


def card_of(folder):
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_the_card(made, tmp_path, monkeypatch):
    monkeypatch.setattr(export_files, "ROW_GROUP", 16)
    monkeypatch.setattr(export_files, "FILE_ROWS", 40)
    said = export(made / "mine", made / "mine-2", "--to", "hf", "--out", tmp_path / "hf")
    assert "names no licence" in said and " and " in said.partition("\n")[0]
    header, text = card_of(tmp_path / "hf")
    types = {"double": "float64", "float": "float32"}
    for config, info, schema in zip(header["configs"], header["dataset_info"], (SCORES, MAP_MEASURES), strict=True):
        assert config["config_name"] == info["config_name"]
        (files,) = config["data_files"]
        parts = sorted((tmp_path / "hf").glob(files["path"]))
        assert len(parts) > 1 and sum(pq.read_metadata(part).num_rows for part in parts) == 2 * (
            ROWS_EACH if schema is SCORES else MAPS_EACH
        )
        assert all(pq.read_schema(part).equals(schema) and pq.read_metadata(part).num_rows <= 40 for part in parts)
        assert info["features"] == [{"name": f.name, "dtype": types.get(str(f.type), str(f.type))} for f in schema]
    assert [config["config_name"] for config in header["configs"] if config["default"]] == ["scores"] and "license" not in header
    assert header["size_categories"] == ["n<1K"] and set(header["tags"]) > {"evalkit"}
    (run,) = load_runs([made / "mine", made / "mine-2"])
    assert all(f"- {line}" in text for line in caption(run)) and "Methods: ablation_cam, grad_cam, odd, centre" in text
    assert f"evalkit export {made / 'mine'} {made / 'mine-2'} --to hf" in text and "desai2020ablation" in text
    shown = re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
    assert shown == [(field.name, str(field.type)) for schema in (SCORES, MAP_MEASURES) for field in schema]


def test_the_card_of_a_hostile_run(tmp_path):
    make_run(tmp_path / "run", FULL, {HOSTILE: MASKED["centre"], "b": MASKED["centre"]}, model=HOSTILE, data=HOSTILE)
    export(tmp_path / "run", "--to", "hf", "--out", tmp_path / "hf")
    header, text = card_of(tmp_path / "hf")
    assert "<script" not in text.replace(r"\<script", "") and "](" not in text.replace(r"]\(", "") and "\x1b" not in text and header
    table = pq.read_table(next((tmp_path / "hf" / "data").glob("scores-*")))
    assert set(table["method"].to_pylist()) == {HOSTILE, "b"} and set(table["model"].to_pylist()) == {HOSTILE}  # as they are


def test_datasets_opens_the_folder(made, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export(made / "mine", "--to", "hf", "--out", tmp_path / "hf")
    for name, schema, number in (("scores", SCORES, ROWS_EACH), ("maps", MAP_MEASURES, MAPS_EACH)):
        loaded = datasets.load_dataset(str(tmp_path / "hf"), name, split="train", cache_dir=str(tmp_path / "cache"))
        written = pq.read_table(next((tmp_path / "hf" / "data").glob(f"{name}-*")))
        assert len(loaded) == number and loaded.features.arrow_schema.names == schema.names
        assert loaded.with_format("arrow")[:].replace_schema_metadata().cast(written.schema).equals(written)
    assert datasets.load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))["train"].num_rows == ROWS_EACH  # the default


def test_columns_on_the_page():
    shown = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| (.+) \|$", PAGE, re.MULTILINE)
    assert shown == [(name, "string", about) for name, about in FACTS.items()] + [
        (name, str(kind), about) for name, (kind, about) in DERIVED.items()
    ]
    assert SCORES.names == [*FACTS, *ROWS.names, *DERIVED] and MAP_MEASURES.names == [*FACTS, *MAPS.names[:-1], "counted"]


@pytest.mark.parametrize(("heading", "schema"), [("## Rows", SCORES), ("## Maps", MAP_MEASURES)])
def test_descriptions_are_those_of_the_run_folder(heading, schema):
    section = (ROOT / "docs" / "run_folder.md").read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| [^|]+? \| (.+) \|$", section, re.MULTILINE))
    said = {name: schema.field(name).metadata[b"description"].decode() for name in shown if name != "map"}
    of_rows = {name: SCORES.field(name).metadata[b"description"].decode() for name in said if shown[name] == "as in the rows"}
    assert len(said) > 15 and said == {name: text for name, text in shown.items() if name != "map"} | of_rows


def test_queries_of_the_page(made, tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "mine-2", tmp_path / "results" / "exported")
    export("results/exported")
    queries = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(queries) == 2
    (run,) = load_runs(["results/exported"])
    summary = evaluate_run(run).summary
    table = summary[(summary.top_percent == 20) & (summary.score == "confidence")].set_index(["method", "metric"]).value
    for query in queries:
        found = {method: numbers for method, *numbers in duckdb.sql(query).fetchall()}
        assert set(found) == {"grad_cam", "odd"}
        for method, numbers in found.items():
            assert numbers == pytest.approx([table[method, "average_drop"], table[method, "increase"]], rel=1e-12)
