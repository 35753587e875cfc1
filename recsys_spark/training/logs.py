"""Where the curves go, on the first rank: TensorBoard, a file of lines for programs, MLflow where it is asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from recsys_spark.tables.storage import Storage
from recsys_spark.tracking import TrainingRun
from recsys_spark.training.loop import Log

CURVE_FILE = "curve.jsonl"  # below the job's log folder: a JSON object an epoch, with "tag", "step" and the figures


@contextmanager
def open_logs(job: dict[str, Any], storage: Storage, rank: int) -> Iterator[Log]:
    """Log of a training job for the time of the block.

    Parameters
    ----------
    job : dict
        ``log_folder`` is a local folder, or empty: TensorBoard's writer knows no other.
    storage : Storage
        Where the job's results are, at the end of the block.
    rank : int
        Ranks after the first log nothing.
    """
    if rank != 0:
        yield lambda tag, step, **values: None
        return
    folder = Path(job["log_folder"] or tempfile.mkdtemp(prefix="recsys_spark-logs-"))
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        logs = [stack.enter_context(_tensorboard(folder)), stack.enter_context(_lines(folder))]
        if job.get("tracking"):
            logs.append(stack.enter_context(_mlflow(job, storage)))

        def log(tag: str, step: int, **values: float) -> None:
            for each in logs:
                each(tag, step, **values)

        yield log


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def log(tag: str, step: int, **values: float) -> None:
            for name, value in values.items():
                writer.add_scalar(f"{tag}/{name}", value, step)
            writer.flush()

        yield log


@contextmanager
def _lines(folder: Path) -> Iterator[Log]:
    with (folder / CURVE_FILE).open("a", encoding="utf-8") as lines:

        def log(tag: str, step: int, **values: float) -> None:
            lines.write(json.dumps({"tag": tag, "step": step, **values}) + "\n")
            lines.flush()

        yield log


@contextmanager
def _mlflow(job: dict[str, Any], storage: Storage) -> Iterator[Log]:
    """Ends with the best figures of each curve, which the job has written by then."""
    with TrainingRun(job["tracking"]) as run:
        yield run.epoch
        found = storage.read_json(f"{job['output']}/curves.json")
        run.finals(found["metric"], found["curves"])
