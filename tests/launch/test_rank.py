"""A worker's place in the world, from its environment."""

import pytest

from evalkit.errors import UserError
from evalkit.launch.rank import WorkerRank, worker_rank
from evalkit.runs.folder import shard_count


def test_environment():
    assert worker_rank({}) == WorkerRank(0, 1, 0)
    assert worker_rank({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == WorkerRank(3, 8, 1)
    assert worker_rank({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}) == WorkerRank(2, 4, 2)
    assert [WorkerRank(rank, 4).start for rank in range(4)] == [0, 0.25, 0.5, 0.75]
    assert worker_rank({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "6"}) == WorkerRank()
    assert worker_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == WorkerRank(0, 1, 0)  # a batch script, not a step of srun


def test_shard_count():
    assert [shard_count(n, 512) for n in (0, 1, 512, 513, 50_000)] == [0, 1, 1, 2, 98]


@pytest.mark.parametrize("wrong", [{"RANK": "abc"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": ""}])
def test_an_environment_of_nonsense(wrong):
    with pytest.raises(UserError, match="which is not a whole number"):
        worker_rank({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **wrong})
