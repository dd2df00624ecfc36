"""Runs and pictures on an S3-compatible server, which the tests start."""

import boto3
import pandas as pd
import pytest
from builders import alone, launched, tiny_overrides
from commands import ForkedWorkers
from moto.server import ThreadedMotoServer

from evalkit.analysis.load import load_runs
from evalkit.errors import UserError
from evalkit.launch import local
from evalkit.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("reachable")


@pytest.fixture(scope="module")
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    server.stop()


@pytest.fixture
def uploaded(bucket, folder):
    """The pictures of `folder` as objects, one of them broken here and there."""
    (folder / "b" / "0.png").write_bytes(b"no picture")
    for file in folder.rglob("*.png"):
        bucket.upload_file(str(file), "bucket", f"pictures/{file.relative_to(folder).as_posix()}")
    return "s3://bucket/pictures"


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_and_rows_on_s3(uploaded, folder, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(local, "mp", ForkedWorkers)
    here = alone(tiny_overrides(folder, tmp_path / "run"), tmp_path / "alone")
    overrides = [*tiny_overrides(folder, tmp_path / "run"), f"out=s3://bucket/run-{workers}", f"data.root={uploaded}"]
    overrides += [f"workers={workers}", "devices=2" if workers == 0 else "devices=1"]
    shared, announced = launched(overrides)
    assert announced == [(12, 0)] and not (tmp_path / "run").exists()
    pd.testing.assert_frame_equal(shared.rows(), here, check_exact=True)
    assert not list((shared.path / "claims").glob("*"))
    (run,) = load_runs([f"s3://bucket/run-{workers}"])
    assert run.counts()["unreadable"] == 1 and run.counts()["images"] == 12
    assert launched(overrides)[1] == [(12, 12)]


def test_the_same_pictures_have_the_same_fingerprint_here_and_there(uploaded, folder, tmp_path):
    """So that a run which was begun from a disk goes on from a bucket."""
    base = tiny_overrides(folder, tmp_path / "run")
    launched(base)
    assert launched([*base, f"data.root={uploaded}"])[1] == [(12, 12)]


def test_a_damaged_object_is_computed_again(uploaded, folder, tmp_path, bucket):
    overrides = [*tiny_overrides(folder, tmp_path / "run"), "out=s3://bucket/damaged"]
    before = launched(overrides)[0].rows()
    bucket.put_object(Bucket="bucket", Key="damaged/rows/shard-00001.parquet", Body=b"PAR1")
    assert RunFolder("s3://bucket/damaged").missing() == [1]
    pd.testing.assert_frame_equal(launched(overrides)[0].rows(), before, check_exact=True)


def test_places_that_are_not_there(bucket, folder, tmp_path):
    base = tiny_overrides(folder, tmp_path / "run")
    with pytest.raises(UserError, match=r"cannot write to s3://absent/run \(.*bucket.*\); choose another folder with out="):
        launched([*base, "out=s3://absent/run"])
    with pytest.raises(UserError, match=r"no folder s3://bucket/nowhere: set data\.root"):
        launched([*base, "data.root=s3://bucket/nowhere"])
    with pytest.raises(UserError, match="s3://bucket/nothing is not a run folder"):
        load_runs(["s3://bucket/nothing"])


def test_a_list_of_labels_cannot_lead_out_of_its_bucket(uploaded, folder, tmp_path, bucket):
    for path in ("../secret.png", "/etc/passwd.png"):
        bucket.put_object(Bucket="bucket", Key="pictures/labels.csv", Body=f"file,class\n{path},a\n".encode())
        with pytest.raises(UserError, match="which lies outside"):
            launched([*tiny_overrides(folder, tmp_path / "run"), f"data.root={uploaded}"])
    bucket.delete_object(Bucket="bucket", Key="pictures/labels.csv")
