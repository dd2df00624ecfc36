"""Missing shards as tasks of a Ray cluster, which balances them, retries failed ones and continues after the loss of a node."""

import logging
import os
import socket
from pathlib import Path

from evalkit.config.schema import Job, RayLauncher
from evalkit.errors import UserError, first_line
from evalkit.evaluation.loop import Progress, compute
from evalkit.evaluation.pace import Pace
from evalkit.evaluation.session import Session, open_session
from evalkit.launch.run import Announce, prepare
from evalkit.runs.folder import RunFolder
from evalkit.runs.provenance import shard_metadata

try:
    import ray
except ImportError as reason:
    raise UserError("launcher=ray needs Ray: in evalkit's folder, pip install '.[ray]'") from reason

CANCELLED = 60.0
"""Seconds that tasks which are cancelled have to end."""


def run(job: Job, launcher: RayLauncher, progress: Progress, announce: Announce) -> RunFolder:
    """Compute the missing shards on the cluster, including nodes that join later, and return the run's folder.

    Raises UserError: no cluster at the address, bad configuration, or a shard that failed on every try.
    """
    prepared = prepare(job, device="cpu")
    announce(*prepared.counts)
    if not prepared.missing:
        return prepared.folder
    connecting = not ray.is_initialized()
    if connecting:
        _connect(launcher.address)
    try:
        gpus = launcher.num_gpus
        if gpus == "auto":
            gpus = 1 if job.config.device != "cpu" and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(
            num_cpus=launcher.num_cpus, num_gpus=gpus, max_retries=launcher.max_retries, max_calls=0, scheduling_strategy="SPREAD"
        )(_task)
        waiting = {task.remote(job, shard, str(Path.cwd()), gpus > 0): shard for shard in prepared.missing}
        while waiting:
            for done in ray.wait(list(waiting), num_returns=1)[0]:
                shard = waiting.pop(done)
                _result(done, shard)
                progress(prepared.missing[shard])
                if prepared.watch is not None and prepared.watch.over():
                    for task_left in waiting:
                        ray.cancel(task_left)
                    if waiting:
                        ray.wait(list(waiting), num_returns=len(waiting), timeout=CANCELLED)
                        prepared.folder.remove_behind()  # a task that was cancelled between its two files leaves one
                    waiting.clear()
                    break
    finally:
        if connecting:
            ray.shutdown()
    return prepared.folder


def _connect(address: str | None) -> None:
    # All GPUs stay visible to every task, which selects its own: Ray may assign another GPU to a process that keeps its loaded model.
    environment = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    try:
        host, colon, port = (address or "").rpartition(":")
        if colon and "/" not in host:  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as reason:
        raise UserError(f"launcher.address={address}: no Ray cluster there ({first_line(reason)}); ray start --head makes one") from reason


def _result(done: "ray.ObjectRef[None]", shard: int) -> None:
    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as reason:
        cause = reason.cause
        raise UserError(str(cause) if isinstance(cause, UserError) else f"shard {shard} failed: {cause!r}") from reason
    except ray.exceptions.RayError as reason:
        raise UserError(f"shard {shard} failed on every try ({first_line(reason)}); run the same command again") from reason


def _task(job: Job, shard: int, folder: str, on_gpu: bool) -> None:
    """Compute one shard, in a process that keeps the loaded session for the next shard."""
    if Path(folder).is_dir():
        os.chdir(folder)  # relative paths refer to the driver's folder
    session, pace = _session(job, f"cuda:{ray.get_gpu_ids()[0]}" if on_gpu else "cpu")
    run_folder = RunFolder(job.config.out)
    if not run_folder.is_done(shard, maps=job.config.maps == "store"):  # a retry, although the first try had published the shard
        compute(session, run_folder, [shard], shard_metadata(session), pace=pace)


_sessions: dict[tuple[str, str], tuple[Session, Pace]] = {}


def _session(job: Job, device: str) -> tuple[Session, Pace]:
    """Return the session of this process, opened on first use, and its measured pace."""
    key = job.yaml, device
    if key not in _sessions:
        _sessions.clear()
        _sessions[key] = open_session(job.config.model_copy(update={"device": device})), Pace(job.config.batch_size)
    return _sessions[key]
