"""Several worker processes on this machine, and how many of them."""

import logging
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

import torch

from evalkit.config.schema import Job
from evalkit.errors import UserError, log_to_stderr, remote_failure, shards_in_words
from evalkit.evaluation.loop import Progress
from evalkit.launch.run import Announce, run_job
from evalkit.runs.folder import RunFolder

log = logging.getLogger(__name__)


MOST_PER_CORE = 4


def worker_count(job: Job) -> int:
    """How many processes `devices` asks for: under torchrun and srun, and for one certain device, the one that is running."""
    config = job.config
    if config.devices != "auto":
        cores = os.cpu_count() or 1
        if config.devices > MOST_PER_CORE * cores:
            raise UserError(f"devices={config.devices} is too much for this machine's {cores} cores; use devices=auto, or fewer")
        return config.devices
    alone = "RANK" not in os.environ and "SLURM_PROCID" not in os.environ
    return max(1, torch.cuda.device_count()) if alone and config.device in ("auto", "cuda") else 1


def run(job: Job, workers: int, progress: Progress, announce: Announce) -> RunFolder:
    """Run a job in so many processes; returns its folder. Raises UserError: bad configuration, or workers died and left shards undone."""
    context = mp.get_context("spawn")
    processes, ends = [], []
    for rank in range(workers):
        end, theirs = context.Pipe(duplex=False)  # one each: a worker that is killed while it writes must not block the others
        process = context.Process(target=_work, args=(job, rank, workers, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        ends.append(end)
    try:
        mistakes = _listen(ends, progress, announce)
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
            raise UserError(f"{what}, {shards_in_words(left)} missing; run the same command again: what is finished is kept")
        log.warning("%s; the others did their shards", what)
    return folder


def _listen(ends: Sequence[Connection], progress: Progress, announce: Announce) -> list[str]:
    """Pass on what the workers say until all have ended; returns the mistakes that they found."""
    mistakes, announced, open_ends = [], False, list(ends)
    while open_ends:
        for end in wait(open_ends):
            assert isinstance(end, Connection)
            try:
                kind, content = end.recv()
            except (EOFError, OSError):  # it has ended, or was killed in the middle of a word
                open_ends.remove(end)
                continue
            if kind == "progress":
                progress(content)
            elif kind == "mistake":
                mistakes.append(content)
            elif not announced:
                announced = True
                announce(*content)
    return mistakes


def _fate(exitcode: int | None) -> str:
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _work(job: Job, rank: int, workers: int, end: Connection) -> None:
    """One worker process: what torchrun would have started."""
    log_to_stderr(logging.WARNING if rank == 0 else logging.ERROR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    parent = os.getppid()

    def told(images: int) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt  # killed outright, and nobody is left who could stop this one
        end.send(("progress", images))

    try:
        run_job(job, told, lambda total, before: end.send(("announce", (total, before))))
    except UserError as mistake:
        end.send(("mistake", str(mistake)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as reason:
        said = remote_failure(reason)
        if said is None:
            raise
        end.send(("mistake", said))
        sys.exit(2)
