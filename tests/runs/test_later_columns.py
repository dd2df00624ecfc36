"""Run folders of versions that knew fewer measures: they are finished, resumed, merged and read with nulls."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import tiny_overrides

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import load_runs
from evalkit.config.compose import compose_jobs
from evalkit.evaluation.columns import LATER, MAPS
from evalkit.files import publish
from evalkit.launch.run import run_job
from evalkit.runs.folder import RunFolder
from evalkit.runs.shards import parquet_bytes, read_parquet


def without(table: pa.Table, *names: str) -> pa.Table:
    return table.drop_columns(list(names))


def as_earlier(folder, *names) -> None:
    """Rewrite the maps of a run without columns."""
    for file in (folder / "maps").glob("*.parquet"):
        table, description = read_parquet(file, MAPS)
        publish(file, parquet_bytes(without(table, *names), description))


def test_a_folder_of_an_earlier_version_is_finished_and_read(folder, tmp_path):
    base = [*tiny_overrides(folder, tmp_path / "run"), "maps=store"]
    (job,) = compose_jobs(base)
    run_job(job)
    before = RunFolder(tmp_path / "run").load()
    as_earlier(tmp_path / "run", *LATER)
    files = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.parquet")}
    stored = RunFolder(tmp_path / "run")
    assert stored.missing(maps=True) == [] and stored.load().maps.equals(before.maps)
    assert list(stored.stored_maps(0)[0].schema.names) == MAPS.names
    run_job(job)  # nothing is computed again
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.parquet")} == files
    (more,) = compose_jobs([*base, "method=[hires_cam]", f"out={tmp_path / 'more'}"])
    run_job(more)
    (merged,) = load_runs([tmp_path / "run", tmp_path / "more"])
    assert "hires_cam" in merged.methods and merged.maps[list(LATER)].isna().all().all()
    assert not evaluate_run(merged).measures.metric.isin(LATER).any()
    (reusing,) = compose_jobs([*base, f"maps_from={tmp_path / 'run'}", "protocol.top_percent=[30]", f"out={tmp_path / 'other'}"])
    run_job(reusing)
    assert len(load_runs([tmp_path / "other"])[0].maps) == len(before.maps)


@pytest.mark.parametrize("names", [("complexity",), (*LATER, "map"), ("coherency", *LATER)])
def test_a_file_that_lacks_any_other_column_is_damaged(folder, tmp_path, names):
    run_job(compose_jobs(tiny_overrides(folder, tmp_path / "run"))[0])
    as_earlier(tmp_path / "run", *names)
    assert RunFolder(tmp_path / "run").missing() == [0, 1, 2]


def test_values_of_an_earlier_file_are_still_checked(folder, tmp_path):
    run_job(compose_jobs(tiny_overrides(folder, tmp_path / "run"))[0])
    file = tmp_path / "run" / "maps" / "shard-00000.parquet"
    table, _ = read_parquet(file, MAPS)
    earlier = without(table, *LATER)
    damaged = earlier.set_column(0, "index", pa.array([7] * len(table), pa.int64()))
    sealed = pq.read_table(pa.BufferReader(parquet_bytes(earlier, {"identity": "x"})))
    pq.write_table(damaged.replace_schema_metadata(sealed.schema.metadata), file)
    assert read_parquet(file, MAPS) is None
    pq.write_table(sealed, file)
    assert read_parquet(file, MAPS) is not None
