"""Every shard belongs to exactly one worker."""

import functools
import operator

from evalkit.shards import World, mine, shard_count, world


def test_environment():
    assert world({}) == World(0, 1, 0)
    assert world({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(3, 8, 1)
    assert world({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}) == World(2, 4, 2)
    assert world({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "6"}) == World()
    assert world({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == World(0, 1, 0)  # a batch script, not a step of srun


def test_shares_cover_and_do_not_overlap():
    missing = [0, 2, 3, 7, 8, 11]
    for size in (1, 2, 3, 5):
        shares = [mine(missing, World(rank, size)) for rank in range(size)]
        assert sorted(functools.reduce(operator.iadd, shares, [])) == missing


def test_shard_count():
    assert [shard_count(n, 512) for n in (0, 1, 512, 513, 50_000)] == [0, 1, 1, 2, 98]
