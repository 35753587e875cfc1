"""What each rank runs: `python -m recsys_spark.training.worker ROOT JOB`, alone, under horovodrun, or on an executor.

The job is a JSON file that the stage wrote; results are files in the run's folder, written by rank 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective, connect
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
    """
    storage = Storage(root)
    job = storage.read_json(job_file)
    torch.set_num_threads(job["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    collective = connect(job["launcher"])
    if collective.size != job["ranks"]:
        raise RecsysError(f"{collective.size} ranks started", "launcher", f"The settings ask for {job['ranks']}.")
    if collective.rank == 0:
        say(f"{job['kind']}: {collective.size} rank(s), launcher {job['launcher']}, {job['threads']} thread(s) each")
    with open_logs(job, storage, collective.rank) as log:
        TASKS[job["kind"]](job, storage, collective, log)
    collective.barrier()
    return collective.size


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except RecsysError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(f"recsys-spark: {error}")
