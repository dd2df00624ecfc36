"""The run folder: atomic, refused when foreign, complete or not."""

import json
import shutil

import pyarrow as pa
import pytest

from evalkit.errors import UserError
from evalkit.evaluation.columns import MAPS, ROWS
from evalkit.runs import folder as folder_module
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity

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
    described = {"code": "c", "maps_stored": False, "identity": Identity(FACTS).hash, "shard": 1, "shard_size": 4}
    assert folder.load().shards == [described]
    assert list(folder.rows().columns) == ROWS.names
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_images_are_counted_by_fate(tmp_path):
    folder = created(tmp_path / "run")
    fates = ["ok", "ok", "error", "ok", "nonfinite", "ok", "ok"]  # two methods an image; the third image could not be read
    rows = [{"index": i, "method": m, "status": fate} for i, m, fate in zip([4, 4, 5, 6, 6, 7, 7], "abaabab", fates, strict=True)]
    folder.write_shard(1, pa.Table.from_pylist(rows, schema=ROWS), MAPS.empty_table(), {"maps_stored": False})
    fates = folder.image_counts()
    assert (fates.missing, fates.images) == ([0, 2], {"ok": 3, "error": 1, "nonfinite": 1})
    assert fates.nonfinite == {"b": 1}


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
    with pytest.raises(UserError, match="another run has taken over"):
        former.write_shard(0, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    assert not list((tmp_path / "run").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": {"cam": {"power": 1}, "new": {"a": 1}}}, "(method: cam, b -> cam, new); compute the new methods into another folder "),
        (
            {"method": {"cam": {"power": 1}, "new": {"a": 1}}, "code": {"method.cam": "c", "method.new": "x"}},
            "('method=[new]' out={0}-2) and give evalkit",
        ),
        ({"method": {"new": {"a": 1}}}, "evalkit tables both: evalkit tables {0} {0}-2"),
        ({"method": {"cam": {"power": 1}}}, "(method: cam, b -> cam); evalkit tables {0} shows what it holds"),
        ({"method": {"cam": {"power": 2}, "b": {"a": 1}}}, "a folder holds one version of method.cam.power: undo the change, or choose"),
        ({"code": {"method.cam": "edited"}}, "a folder holds one version of code.method.cam: undo the change, or choose"),
        (
            {"code": {"method.cam": "c", "model.factory": "edited"}},
            "a folder holds one version of code.model.factory: undo the change, or choose",
        ),
        ({"protocol": {"top_percent": [5]}}, "or remove that one; maps_from={0} spares computing its maps again"),
        ({"model": {"name": "net", "weights_hash": "v"}}, "the weights are others than before: give the former ones, or choose"),
        ({"model": {"name": "new", "weights_hash": "v"}}, "weights_hash: w -> v); choose another folder with out="),
        ({"data": {"fingerprint": "g"}}, "the images or their labels are others than before: restore them, or choose"),
        ({"limit": 5}, "(limit: None -> 5); choose another folder with out=, or remove that one"),
        ({"limit": 5, "method": {"new": {"a": 1}}}, "limit: None -> 5); choose another folder with out=, or remove that one"),
    ],
)
def test_every_refusal_says_the_way_out(tmp_path, changes, says):
    facts = {
        "model": {"name": "net", "weights_hash": "w"}, "data": {"fingerprint": "f"}, "limit": None, "protocol": {"top_percent": [20]},
        "method": {"cam": {"power": 1}, "b": {"a": 1}}, "code": {"method.cam": "c"},
    }  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    folder.create_or_resume(Identity(facts), {}, "", 10, 4)
    folder.write_shard(0, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    with pytest.raises(UserError) as refused:
        RunFolder(tmp_path / "run").create_or_resume(Identity({**facts, **changes}), {}, "", 10, 4)
    assert says.format(tmp_path / "run") in str(refused.value)


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


def test_a_damaged_record_is_written_anew_for_the_same_run_only(tmp_path, caplog):
    folder = created(tmp_path / "run")
    folder.write_shard(1, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    before = folder.provenance
    record = tmp_path / "run" / "provenance.json"
    for damaged in (record.read_text()[:50], record.read_text().replace('"images": 10', '"images": 11'), None):
        record.unlink() if damaged is None else record.write_text(damaged)
        with pytest.raises(UserError, match="holds shards of another run"):
            RunFolder(tmp_path / "run").create_or_resume(Identity({"other": 1}), {}, "", 10, 4)
        again = created(tmp_path / "run", shard_size=5)  # which its shards know better
        assert again.provenance == before and again.missing() == [0, 2]
    assert "damaged" in caplog.text


@pytest.mark.parametrize("kinds", [("rows", "maps"), ("maps",)])
def test_shards_of_another_run_do_not_count(tmp_path, caplog, kinds):
    folder = created(tmp_path / "run")
    other = RunFolder(tmp_path / "other")
    other.create_or_resume(Identity({"other": 1}), {}, "", 10, 4)
    other.write_shard(1, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    folder.write_shard(1, ROWS.empty_table(), MAPS.empty_table(), {"maps_stored": False})
    assert folder.missing() == [0, 2] and not caplog.text
    for kind in kinds:
        shutil.copy(tmp_path / "other" / kind / "shard-00001.parquet", tmp_path / "run" / kind)
    assert folder.missing() == [0, 1, 2]
    assert f"{kinds[0]}/shard-00001.parquet is of another run, so its shard counts as missing" in caplog.text


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        created(tmp_path / "file" / "run")


def test_a_shard_at_the_place_of_another_does_not_count(tmp_path, caplog):
    folder = created(tmp_path / "run")
    for shard in range(3):
        rows = pa.Table.from_pylist([{"index": 4 * shard, "status": "ok"}], schema=ROWS)
        folder.write_shard(shard, rows, pa.Table.from_pylist([{"index": 4 * shard}], schema=MAPS), {"maps_stored": False})
    assert folder.missing() == []
    for kind in ("rows", "maps"):
        shutil.copy(tmp_path / "run" / kind / "shard-00001.parquet", tmp_path / "run" / kind / "shard-00002.parquet")
    assert folder.missing() == [2] and len(folder.rows()) == 2 and "holds images of another shard" in caplog.text


@pytest.mark.parametrize("wrong", [{"images": "many"}, {"shard_size": -1}, {"identity": []}])
def test_a_record_of_nonsense_with_a_right_checksum(tmp_path, wrong):
    created(tmp_path / "run")
    file = tmp_path / "run" / "provenance.json"
    record = {**json.loads(file.read_text()), **wrong}
    del record["checksum"]
    file.write_text(json.dumps({**record, "checksum": folder_module._checksum(record)}))
    with pytest.raises(UserError, match="is no record of a run"):
        _ = RunFolder(tmp_path / "run").provenance
