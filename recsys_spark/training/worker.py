"""What each rank runs: `python -m recsys_spark.training.worker ROOT JOB`, alone, under horovodrun, or on an executor.

The job is a JSON file that the stage wrote; results are files in the run's folder, written by rank 0.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective, connect, is_lost_peer
from recsys_spark.training.cores import bind
from recsys_spark.training.failure import note_failure, say_failure
from recsys_spark.training.jobs import ranker, retrieval
from recsys_spark.training.logs import open_logs
from recsys_spark.training.loop import Log

TASKS: dict[str, Callable[[dict[str, Any], Storage, Collective, Log], None]] = {
    "retrieval": retrieval.run,
    "ranker": ranker.run,
}


def main(root: str, job_file: str) -> int:
    """Train this rank's part of a job.

    Parameters
    ----------
    root : str
        Root URI.
    job_file : str
        Job, relative to the root.

    Returns
    -------
    int
        The world's size, which the launcher compares with what it asked for.

    Raises
    ------
    Exception
        Whatever went wrong, after it was noted for the launcher (see ``training.failure``).
    """
    storage = Storage(root)
    job = storage.read_json(job_file)
    collective: Collective | None = None
    try:
        if job["launcher"] != "local":
            bind(job["threads"])
        collective = connect(job["launcher"])
        _train(job, storage, collective)
    except Exception as error:
        told = note_failure(storage, job_file, collective.rank if collective else 0, error)
        say_failure(told)
        raise
    return collective.size


def _train(job: dict[str, Any], storage: Storage, collective: Collective) -> None:
    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    if collective.size != job["ranks"]:
        raise RecsysError(f"{collective.size} ranks started", "launcher", f"The settings ask for {job['ranks']}.")
    if collective.rank == 0:
        say(f"{job['kind']}: {collective.size} rank(s), launcher {job['launcher']}, {job['threads']} thread(s) each")
    started = time.monotonic()
    with open_logs(job, storage, collective.rank) as log:
        TASKS[job["kind"]](job, storage, collective, log)
    if collective.rank == 0 and "seconds" in job:
        storage.write_json(job["seconds"], {"seconds": round(time.monotonic() - started, 2)})
    collective.barrier()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception as error:
        if not isinstance(error, RecsysError) and not is_lost_peer(error):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # at once: a thread that is stuck, or Horovod's own farewell, would keep all other ranks waiting
