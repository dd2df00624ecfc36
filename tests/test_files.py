"""Files whole or not at all; any changed bit is noticed."""

import errno
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import fresh, fresh_random
from upath import UPath

from evalkit import files
from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.runs import shards


def rows(n: int) -> pa.Table:
    rng = fresh()
    columns = {}
    for field in ROWS:
        if pa.types.is_floating(field.type):
            values = rng.normal(size=n)
            values[rng.random(n) < 0.2] = np.nan
        else:
            values = rng.integers(0, 1000, n)
        column = values.astype(str) if pa.types.is_string(field.type) else values
        columns[field.name] = pa.array(column, mask=rng.random(n) < 0.2, type=field.type, from_pandas=False)
    return pa.table(columns, schema=ROWS)


def maps(n: int) -> pa.Table:
    values = [None if i % 3 == 2 else fresh().normal(size=i % 5).astype(np.float32) for i in range(n)]
    return pa.table({f.name: pa.array(values if f.name == "map" else [None] * n, type=f.type) for f in MAPS}, schema=MAPS)


@pytest.mark.parametrize("n", [0, 1, 37])
def test_what_was_written_is_read(tmp_path, n):
    for table, schema in ((rows(n), ROWS), (maps(n), MAPS)):
        files.publish(tmp_path / "x", shards.parquet_bytes(table, {"said": "é \udce9"}))
        found = shards.read_parquet(tmp_path / "x", schema)
        assert found is not None and found[0].schema.equals(schema)
        assert shards.checksum(found[0], b"") == shards.checksum(table, b"")
        assert found[1] == {"said": "é \udce9"} == shards.described(tmp_path / "x")


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    file = tmp_path / "x"
    content = shards.parquet_bytes(rows(20), {"a": 1})
    reference = shards.checksum(rows_of(file, content), b"")
    rng = fresh_random()
    for _ in range(400):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        found = shards.read_parquet(file, ROWS)  # some bits, such as those of statistics, carry nothing
        assert found is None or (shards.checksum(found[0], b"") == reference and found[1] == {"a": 1})
    for _ in range(50):
        file.write_bytes(content[: rng.randrange(len(content))])
        assert shards.read_parquet(file, ROWS) is None
    assert shards.read_parquet(tmp_path / "absent", ROWS) is None


def rows_of(file: Path, content: bytes) -> pa.Table:
    file.write_bytes(content)
    found = shards.read_parquet(file, ROWS)
    assert found is not None
    return found[0]


def test_a_changed_value_is_noticed_even_with_a_valid_file(tmp_path):
    table = rows(5)
    changed = table.set_column(0, ROWS.field(0), pa.array([9] * 5, ROWS.field(0).type))
    before, after = (shards.checksum(t, b"") for t in (table, changed))
    assert before != after
    assert shards.checksum(table, b"") == shards.checksum(pa.concat_tables([table.slice(0, 2), table.slice(2)]), b"")


def test_a_failed_write_leaves_the_old_file_and_says_why(tmp_path, monkeypatch):
    file = tmp_path / "x"
    files.publish(file, b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*x \(No space left on device\); .* what is finished is kept"):
        files.publish(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_only_one_creates_a_file(tmp_path):
    for folder in (tmp_path, UPath("memory://claims")):
        assert files.create(folder / "a" / "x", b"1") and not files.create(folder / "a" / "x", b"2")
        assert (folder / "a" / "x").read_bytes() == b"1"


def test_places():
    assert files.place("results/x") == Path("results/x")
    assert str(files.place("memory://z/run") / "rows").startswith("memory://")
    with pytest.raises(UserError, match="foo://x cannot be opened"):
        files.place("foo://x")


def test_a_home_folder_where_there_is_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/mine")
    assert files.local("~/x") == Path("/home/mine/x") and files.place("~/x") == files.local("~/x")

    def unknown(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")  # as in a container whose user has no entry

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UserError, match=r"~/x: '~' stands for a home folder, and this user has none, and HOME is not set"):
        files.place("~/x")
