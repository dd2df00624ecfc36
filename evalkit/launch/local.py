"""Worker processes on this machine."""

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
from evalkit.imports import exit_of_users_code
from evalkit.launch.run import Announce, run_job
from evalkit.runs.folder import RunFolder

log = logging.getLogger(__name__)

MOST_PER_CORE = 4
"""Largest number of worker processes per CPU core."""


def worker_count(job: Job) -> int:
    """Return the number of processes for `devices`; "auto" is one per GPU, or one under torchrun and srun and for a single device.

    Raises UserError: too many for this machine.
    """
    config = job.config
    if config.devices != "auto":
        cores = os.cpu_count() or 1
        if config.devices > MOST_PER_CORE * cores:
            raise UserError(f"devices={config.devices} is too much for this machine's {cores} cores; use devices=auto, or fewer")
        return config.devices
    no_launcher = "RANK" not in os.environ and "SLURM_PROCID" not in os.environ
    return max(1, torch.cuda.device_count()) if no_launcher and config.device in ("auto", "cuda") else 1


def run(job: Job, workers: int, progress: Progress, announce: Announce) -> RunFolder:
    """Run a job in `workers` processes, and return its folder.

    Raises UserError: bad configuration, or workers died and left shards undone.
    """
    context = mp.get_context("spawn")
    processes, receivers = [], []
    for rank in range(workers):
        receiver, sender = context.Pipe(duplex=False)  # one each: a worker that is killed while it writes must not block the others
        process = context.Process(target=_work, args=(job, rank, workers, sender))
        process.start()
        sender.close()
        processes.append(process)
        receivers.append(receiver)
    try:
        errors = _listen(receivers, progress, announce)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join()
    if errors:
        raise UserError(errors[0])
    folder = RunFolder(job.config.out)
    exits = [_exit_reason(process.exitcode) for process in processes if process.exitcode]
    if exits:
        left = len(folder.missing()) if folder.exists else 0
        what = f"{len(exits)} of {workers} workers died ({', '.join(exits)})"
        if left or not folder.exists:
            raise UserError(f"{what}, {shards_in_words(left)} missing; run the same command again: what is finished is kept")
        log.warning("%s; the other workers computed their shards", what)
    return folder


def _listen(receivers: Sequence[Connection], progress: Progress, announce: Announce) -> list[str]:
    """Pass on the messages of the workers until all have ended, and return their error messages."""
    errors, announced, open_receivers = [], False, list(receivers)
    while open_receivers:
        for receiver in wait(open_receivers):
            assert isinstance(receiver, Connection)
            try:
                kind, content = receiver.recv()
            except (EOFError, OSError):  # the worker has ended, or was killed in the middle of a message
                open_receivers.remove(receiver)
                continue
            if kind == "progress":
                progress(content)
            elif kind == "error":
                errors.append(content)
            elif not announced:
                announced = True
                announce(*content)
    return errors


def _exit_reason(exitcode: int | None) -> str:
    return signal.Signals(-exitcode).name if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"


def _stop_once(*_: object) -> None:
    """Stop this process in order; a second signal, as from the parent after Ctrl-C reached both, must not disturb it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _work(job: Job, rank: int, workers: int, sender: Connection) -> None:
    """Run one worker process, in an environment as set by torchrun."""
    log_to_stderr(logging.WARNING if rank == 0 else logging.ERROR)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_once)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    parent = os.getppid()

    def report(images: int) -> None:
        if os.getppid() != parent:
            raise KeyboardInterrupt  # the parent was killed, and can no longer stop this process
        sender.send(("progress", images))

    try:
        run_job(job, report, lambda total, before: sender.send(("announce", (total, before))))
    except UserError as error:
        sender.send(("error", str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        sender.send(("error", exit_of_users_code(stop) or f"a worker ended with exit code {stop.code}"))
        sys.exit(2)
    except Exception as reason:
        message = remote_failure(reason)
        if message is None:
            raise
        sender.send(("error", message))
        sys.exit(2)
