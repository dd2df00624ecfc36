"""Shards and workers. No process group: a worker's rank says where in the list it begins, its claims what is its own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.errors import UserError

# torchrun's names, then srun's: of the step, so that a batch script which runs without srun is one worker. The tasks of a job
# array need no rank: those that are given the same command share its run through their claims.
_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class WorkerRank:
    """This worker's rank among `size` workers, and its rank on this machine (which GPU is its own)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def start(self) -> float:
        """Where in the list of missing shards, from 0 to 1, this worker begins."""
        return self.rank / self.size


def worker_rank(environment: Mapping[str, str] = os.environ) -> WorkerRank:
    """Rank and world size from torchrun's or SLURM's variables; one worker where there are none."""
    for rank, size, local in _NAMES:
        if rank in environment and size in environment:
            given = {name: environment.get(name, "0") for name in (rank, size, local)}
            wrong = next((f"{name}={value}" for name, value in given.items() if not value.isdecimal()), None)
            if wrong is not None:
                raise UserError(f"the environment says {wrong}, which is no whole number; unset it, or start this with torchrun or srun")
            if int(given[size]) > 1:
                return WorkerRank(int(given[rank]) % int(given[size]), int(given[size]), int(given[local]))
    return WorkerRank()
