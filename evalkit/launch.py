"""Who computes the shards of a run: this process, several on this machine, a Ray cluster, or a SLURM job array."""

import logging
import multiprocessing as mp
import multiprocessing.connection
import os
import signal
import sys
from multiprocessing.queues import SimpleQueue

import torch

from evalkit import runner
from evalkit.config import Job, RayLauncher, SlurmLauncher
from evalkit.errors import UserError
from evalkit.runner import Announce, Progress
from evalkit.store import RunFolder

log = logging.getLogger(__name__)


def run(job: Job, progress: Progress, announce: Announce) -> RunFolder:
    """Run a job by its configured launcher; returns its folder, complete unless other workers are still at it.

    Raises UserError: bad configuration, an optional package is missing, or workers died and left shards undone.
    """
    settings = job.config.launcher
    if isinstance(settings, RayLauncher):
        from evalkit import on_ray  # noqa: PLC0415 - optional

        return on_ray.run(job, settings, progress, announce)
    if isinstance(settings, SlurmLauncher):
        from evalkit import on_slurm  # noqa: PLC0415 - optional

        return on_slurm.run(job, settings, announce)
    workers = worker_count(job)
    return runner.run(job, progress, announce) if workers == 1 else _processes(job, workers, progress, announce)


def worker_count(job: Job) -> int:
    """How many processes `devices` asks for: under torchrun and srun, and for one certain device, the one that is running."""
    config = job.config
    if config.devices != "auto":
        return config.devices
    alone = "RANK" not in os.environ and "SLURM_PROCID" not in os.environ
    return max(1, torch.cuda.device_count()) if alone and config.device in ("auto", "cuda") else 1


def _processes(job: Job, workers: int, progress: Progress, announce: Announce) -> RunFolder:
    context = mp.get_context("spawn")
    messages: SimpleQueue[tuple[str, object]] = context.SimpleQueue()
    processes = [context.Process(target=_work, args=(job, rank, workers, messages)) for rank in range(workers)]
    for process in processes:
        process.start()
    try:
        mistakes = _listen(processes, messages, progress, announce)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    if mistakes:
        raise UserError(mistakes[0])
    folder = RunFolder(job.config.out)
    died = [_fate(process.exitcode) for process in processes if process.exitcode]
    if died:
        left = len(folder.missing()) if folder.exists else 0
        what = f"{len(died)} of {workers} workers died ({', '.join(died)})"
        if left or not folder.exists:
            raise UserError(f"{what}, and {left} shards are missing; run the same command again: what is finished is kept")
        log.warning("%s; the others did their shards", what)
    return folder


def _listen(
    processes: "list[mp.context.SpawnProcess]", messages: "SimpleQueue[tuple[str, object]]", progress: Progress, announce: Announce
) -> list[str]:
    """Pass on what the workers say until all have ended; returns the mistakes that they found."""
    mistakes, announced = [], False
    while any(process.is_alive() for process in processes) or not messages.empty():
        if messages.empty():
            mp.connection.wait([process.sentinel for process in processes if process.is_alive()], timeout=0.1)
            continue
        kind, content = messages.get()
        if kind == "progress":
            progress(int(str(content)))
        elif kind == "mistake":
            mistakes.append(str(content))
        elif not announced and isinstance(content, tuple):
            announced = True
            announce(*content)
    return mistakes


def _fate(exitcode: int | None) -> str:
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _work(job: Job, rank: int, workers: int, messages: "SimpleQueue[tuple[str, object]]") -> None:
    """One worker process: what torchrun would have started."""
    logging.basicConfig(level=logging.WARNING if rank == 0 else logging.ERROR, format="%(levelname)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    parent = os.getppid()

    def told(images: int) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt  # killed outright, and nobody is left who could stop this one
        messages.put(("progress", images))

    try:
        runner.run(job, told, lambda total, before: messages.put(("announce", (total, before))))
    except UserError as mistake:
        messages.put(("mistake", str(mistake)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
