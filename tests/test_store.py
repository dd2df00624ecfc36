"""The run folder: atomic, refused when foreign, complete or not."""

import json

import pyarrow as pa
import pytest

from evalkit.errors import UserError
from evalkit.store import MAPS, ROWS, Identity, RunFolder, write_parquet

FACTS = {"model": {"name": "vgg16", "layer": "features.29"}, "limit": None}


def created(path, images=10, shard_size=4) -> RunFolder:
    folder = RunFolder(path)
    folder.create_or_resume(Identity(FACTS), {"weights": "x"}, "a: 1\n", images, shard_size)
    return folder


def test_missing_shards_and_done_markers(tmp_path):
    folder = created(tmp_path / "run")
    assert folder.missing() == [0, 1, 2]
    folder.write_shard(1, ROWS.empty_table(), MAPS.empty_table(), {"code": "c", "maps_stored": False})
    assert folder.missing() == [0, 2]
    assert folder.missing(maps=True) == [0, 1, 2]
    assert folder.shard_metadata() == [{"code": "c", "maps_stored": False}]
    assert list(folder.rows().columns) == ROWS.names
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    folder = created(tmp_path / "run")
    folder.write_shard(0, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    other = Identity({**FACTS, "model": {"name": "vgg16", "layer": "features.30"}})
    with pytest.raises(UserError, match=r"model.layer: features.29 -> features.30"):
        RunFolder(tmp_path / "run").create_or_resume(other, {}, "", 10, 4)
    created(tmp_path / "run")  # its own is welcome


def test_a_folder_without_a_finished_shard_is_taken_over_and_its_former_run_stops(tmp_path):
    former = created(tmp_path / "run")
    RunFolder(tmp_path / "run").create_or_resume(Identity({**FACTS, "limit": 5}), {}, "", 5, 4)
    assert former.provenance["images"] == 5
    with pytest.raises(UserError, match="another run has taken"):
        former.write_shard(0, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.table({"a": [1]}))
    before = path.read_bytes()

    class Broken:
        schema = pa.schema([])

    with pytest.raises(Exception):  # noqa: B017 - whatever pyarrow says of it
        write_parquet(path, Broken())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_identity_ignores_order_and_survives_json():
    identity = Identity(json.loads(json.dumps(FACTS)))
    assert identity.hash == Identity(dict(reversed(FACTS.items()))).hash
    assert identity.difference(Identity(FACTS)) == []


def test_not_a_run_folder(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(tmp_path).missing()
    for foreign in ("{}", "[1]", '{"commit": "abc"}'):
        (tmp_path / "provenance.json").write_text(foreign)
        with pytest.raises(UserError, match="was not written by evalkit"):
            RunFolder(tmp_path).missing()
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        RunFolder(tmp_path).missing()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        created(tmp_path / "file" / "run")
