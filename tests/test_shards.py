"""A worker's place in the world, from its environment."""

import pytest

from evalkit.errors import UserError
from evalkit.shards import World, shard_count, world


def test_environment():
    assert world({}) == World(0, 1, 0)
    assert world({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(3, 8, 1)
    assert world({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}) == World(2, 4, 2)
    assert [World(rank, 4).start for rank in range(4)] == [0, 0.25, 0.5, 0.75]
    assert world({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "6"}) == World()
    assert world({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == World(0, 1, 0)  # a batch script, not a step of srun


def test_shard_count():
    assert [shard_count(n, 512) for n in (0, 1, 512, 513, 50_000)] == [0, 1, 1, 2, 98]


@pytest.mark.parametrize("wrong", [{"RANK": "abc"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": ""}])
def test_an_environment_of_nonsense(wrong):
    with pytest.raises(UserError, match="which is no whole number"):
        world({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **wrong})
