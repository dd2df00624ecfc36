"""A Ray cluster of two local nodes, one of which is lost in the middle."""

import numpy as np
import pandas as pd
import pytest
import ray
from builders import alone, fresh, launched, tiny_overrides
from PIL import Image
from ray.cluster_utils import Cluster

from evalkit.errors import UserError
from evalkit.runs.folder import RunFolder


@pytest.fixture
def cluster(reachable):
    """Two nodes that hold one task each, besides the driver's, which holds none."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.nodes = [made.add_node(num_cpus=1, num_gpus=0), made.add_node(num_cpus=1, num_gpus=0)]
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_lost_node_changes_nothing(folder, tmp_path, cluster):
    base = [*tiny_overrides(folder, tmp_path / "run"), "shard_size=1", "batch_size=1", "device=cpu"]
    overrides = [*base, "launcher=ray", f"launcher.address={cluster.address}"]
    images = []

    def lose_one(done: int) -> None:
        images.append(done)
        if len(images) == 3:
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    shared, announced = launched(overrides, lose_one)
    assert announced == [(12, 0)] and sum(images) == 12
    pd.testing.assert_frame_equal(shared.rows(), alone(base, tmp_path / "alone"), check_exact=True)
    assert launched(overrides)[1] == [(12, 12)]
    with pytest.raises(UserError, match="method mine failed with ZeroDivisionError"):
        launched([*overrides, f"out={tmp_path / 'b'}", "+method.mine._target_=theirs.divides_by_zero"])
    assert len(RunFolder(tmp_path / "b").missing()) == 12


def test_a_settled_difference_ends_the_tasks(tmp_path, cluster):
    """The centre control loses everything on these pictures, the constant one, which keeps the first rows, nothing."""
    pictures, rng = tmp_path / "bright", fresh()
    for i in range(20):
        (pictures / "a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(200, 256, (16, 16, 3), dtype=np.uint8)).save(pictures / "a" / f"{i}.png")
    base = [*tiny_overrides(pictures, tmp_path / "run", "theirs.TopRows"), "until=centre-constant", "shard_size=1", "batch_size=1"]
    base = [*base, "method=[centre,constant]", "device=cpu"]
    overrides = [*base, "launcher=ray", f"launcher.address={cluster.address}"]
    shared, announced = launched(overrides)
    alone_rows = alone(base, tmp_path / "alone")
    end = shared.provenance["end"]
    assert end == RunFolder(tmp_path / "alone").provenance["end"] and end["settled"] and end["shards"] < 20
    pd.testing.assert_frame_equal(shared.rows(), alone_rows, check_exact=True)
    assert announced == [(20, 0)] and not shared.missing()
    settled = [sorted(file.name for file in (tmp_path / "run" / kind).glob("*")) for kind in ("rows", "maps")]
    assert settled == [[f"shard-{shard:05d}.parquet" for shard in range(end["shards"])]] * 2  # no task published behind the end
    assert launched(overrides)[1] == [(end["shards"], end["shards"])]


def test_no_cluster_there(folder, tmp_path):
    with pytest.raises(UserError, match=r"launcher.address=127.0.0.1:1: no Ray cluster there"):
        launched([*tiny_overrides(folder, tmp_path / "run"), "launcher=ray", "launcher.address=127.0.0.1:1"])
