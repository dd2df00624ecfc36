"""Ranks of workers. There is no process group: the rank sets where in the list of shards a worker begins; claims divide the work."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.errors import UserError

# Variables of torchrun, then of srun: those of the step, so that a batch script that runs without srun is one worker. The
# tasks of a job array need no rank: those that run the same command share its run through their claims.
_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class WorkerRank:
    """The rank of this worker among `size` workers, and its rank on this machine, which selects its GPU."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def start(self) -> float:
        """Relative position in the list of missing shards, in [0,1), at which this worker begins."""
        return self.rank / self.size


def worker_rank(environment: Mapping[str, str] = os.environ) -> WorkerRank:
    """Return rank and world size from the variables of torchrun or SLURM; one worker where there are none.

    Raises UserError: a variable is not a whole number.
    """
    for rank, size, local in _NAMES:
        if rank in environment and size in environment:
            values = {name: environment.get(name, "0") for name in (rank, size, local)}
            wrong = next((f"{name}={value}" for name, value in values.items() if not value.isdecimal()), None)
            if wrong is not None:
                raise UserError(f"the environment says {wrong}, which is not a whole number; unset it, or start this with torchrun or srun")
            if int(values[size]) > 1:
                return WorkerRank(int(values[rank]) % int(values[size]), int(values[size]), int(values[local]))
    return WorkerRank()
