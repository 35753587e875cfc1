"""One training of a trial, in a process of its own that is watched by its curve and ended where it is pruned."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from recsys_spark.config import Launch
from recsys_spark.tables.storage import Storage
from recsys_spark.training.failure import failures
from recsys_spark.training.launch import environment, guarded
from recsys_spark.training.logs import CURVE_FILE

OUTPUT = "output.txt"  # what the ranks print, in the training's log folder
_LOOK_EVERY = 0.1  # seconds
_PATIENCE = 15.0  # seconds in which a process may end by itself

Judge = Callable[[int, dict[str, float]], bool]


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Parameters
    ----------
    curve : list of dict
        Its points, an epoch each.
    metric : str
        The training's own figure, larger is better, by which it keeps an epoch.
    """

    curve: list[dict[str, float]]
    metric: str


class TrainingError(Exception):
    """A training ended by itself, but not well."""


def train(storage: Storage, job_file: str, launch: Launch, logs: Path, judge: Judge) -> Trained | None:
    """Run a job to its end.

    Parameters
    ----------
    storage : Storage
    job_file : str
        The job, relative to the root.
    launch : Launch
        Launcher ``local`` or ``horovodrun``.
    logs : Path
        The job's log folder.
    judge : callable
        Epoch (from 1) and figures to whether the training is to be ended.

    Returns
    -------
    Trained or None
        None where it was ended.

    Raises
    ------
    TrainingError
        It failed; the message says why.
    """
    shutil.rmtree(logs, ignore_errors=True)  # of a study of the same name that was deleted
    logs.mkdir(parents=True)
    seen = 0
    with _process(guarded(launch, storage.uri, job_file), launch, logs / OUTPUT) as process:
        ended = False
        while not ended:
            ended = process.poll() is not None  # before the look, so that the last points are seen
            for epoch, figures in _points(logs / CURVE_FILE, seen):
                seen += 1
                if judge(epoch, figures):
                    return None
            if not ended:
                time.sleep(_LOOK_EVERY)
    if process.returncode != 0:
        last = (logs / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
        causes, noticed = failures(storage, job_file)
        raise TrainingError(f"{' / '.join(causes or noticed or last)} (its output: {logs / OUTPUT})")
    output = storage.read_json(job_file)["output"]
    found = storage.read_json(f"{output}/curves.json")
    (curve,) = found["curves"].values()
    return Trained(curve, found["metric"])


def _points(file: Path, seen: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Whole lines of a curve after the first ``seen``."""
    with suppress(FileNotFoundError):
        whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
        for line in whole.splitlines()[seen:]:
            point = json.loads(line)
            yield point.pop("step"), {key: value for key, value in point.items() if key != "tag"}


@contextmanager
def _process(command: list[str], launch: Launch, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command for the time of the block: whatever ends the block ends it, with all that it has started."""
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment(launch),
            stdin=subprocess.PIPE,  # held open: its end tells the guard that this process is gone
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which then ends its trial
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End exactly this process and its children: politely, then by force."""
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            _, alive = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=_PATIENCE)
            for each in alive:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
