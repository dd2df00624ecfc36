"""Start of a run by its configured launcher: in this process, in several, on a Ray cluster, or as a SLURM job array."""

from evalkit.config.schema import Job, RayLauncher, SlurmLauncher
from evalkit.evaluation.loop import Progress
from evalkit.launch import local
from evalkit.launch.run import Announce, run_job
from evalkit.runs.folder import RunFolder


def start_job(job: Job, progress: Progress, announce: Announce) -> RunFolder:
    """Run a job by its configured launcher, and return its folder, complete unless other workers are still running.

    Raises UserError: bad configuration, an optional package is missing, or workers died and left shards undone.
    """
    settings = job.config.launcher
    if isinstance(settings, RayLauncher):
        from evalkit.launch import ray  # noqa: PLC0415 - optional

        return ray.run(job, settings, progress, announce)
    if isinstance(settings, SlurmLauncher):
        from evalkit.launch import slurm  # noqa: PLC0415 - optional

        return slurm.run(job, settings, announce)
    workers = local.worker_count(job)
    return run_job(job, progress, announce) if workers == 1 else local.run(job, workers, progress, announce)
