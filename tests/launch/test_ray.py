"""A Ray cluster of two local nodes, one of which is lost in the middle."""

import pandas as pd
import pytest
import ray
from builders import alone, launched, tiny_overrides
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


def test_no_cluster_there(folder, tmp_path):
    with pytest.raises(UserError, match=r"launcher.address=127.0.0.1:1: no Ray cluster there"):
        launched([*tiny_overrides(folder, tmp_path / "run"), "launcher=ray", "launcher.address=127.0.0.1:1"])
