"""Workers of a run as a SLURM job array, submitted through submitit."""

import logging

from evalkit.config.schema import Job, SlurmLauncher
from evalkit.errors import UserError, first_line
from evalkit.files import place
from evalkit.launch.run import Announce, prepare, run_job
from evalkit.runs.folder import RunFolder

try:
    import submitit
except ImportError as reason:
    raise UserError("launcher=slurm needs submitit: in evalkit's folder, pip install '.[slurm]'") from reason

log = logging.getLogger(__name__)


def run(job: Job, launcher: SlurmLauncher, announce: Announce) -> RunFolder:
    """Check the job here, submit its workers, wait for them where `launcher.wait` is set, and return the run's folder.

    Raises UserError: bad configuration, no SLURM here, or workers that failed.
    """
    prepared = prepare(job, device="cpu")  # a login node has no GPU
    announce(*prepared.counts)
    tasks = min(launcher.tasks, len(prepared.missing))
    if not tasks:
        return prepared.folder
    try:
        executor = submitit.AutoExecutor(folder=str(place(launcher.logs)), cluster=launcher.cluster)
        executor.update_parameters(name="evalkit", **launcher.parameters)
    except (RuntimeError, TypeError, NameError, ValueError) as reason:
        raise UserError(f"launcher=slurm: {first_line(reason)}; launcher.cluster=local tries it on this machine") from reason
    with executor.batch():
        jobs = [executor.submit(_worker, job) for _ in range(tasks)]
    log.info("%d workers submitted as %s; their logs are in %s", tasks, ", ".join(one.job_id for one in jobs), launcher.logs)
    if launcher.wait:
        failed = [fault for one in jobs if (fault := one.exception()) is not None]
        if failed and prepared.folder.missing():
            raise UserError(f"{len(failed)} of {tasks} workers failed ({str(failed[0]).strip().splitlines()[-1]}); see {launcher.logs}")
    return prepared.folder


def _worker(job: Job) -> None:
    """Run one task; claims divide the shards among the tasks. SLURM restarts it after a preemption, and it continues."""
    run_job(job)
