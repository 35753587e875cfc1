"""Ranks that are killed, or get bad data or none: the job ends with its cause, and goes on when that is mended."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import end_all
from training_job import ROWS, TrainingJob

from recsys_spark.errors import RecsysError
from recsys_spark.training.checkpoint import COMPLETE

pytestmark = pytest.mark.integration
SEED = 11
ENDS_WITHIN = 400.0  # seconds from the start, on a machine that has much else to do; a hang is for ever


def workers() -> dict[int, psutil.Process]:
    """Ranks of this process's training, by rank: the command itself, not what started it."""
    found = {}
    for each in psutil.Process().children(recursive=True):
        try:
            line, environment = each.cmdline(), each.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if line[1:3] == ["-m", "recsys_spark.training.worker"]:
            found[int(environment.get("HOROVOD_RANK", 0))] = each
    return found


def failure(start: Callable[[], None]) -> str:
    """What a training that must fail says; no rank may outlive it."""
    began = time.monotonic()
    with pytest.raises(RecsysError) as error:
        start()
    assert time.monotonic() - began < ENDS_WITHIN
    assert workers() == {}
    return str(error.value)


@contextmanager
def striking(job: TrainingJob, rank: int, place: int, blow: signal.Signals = signal.SIGKILL) -> Iterator[None]:
    """Send a signal to a rank as soon as there is a checkpoint of so many steps."""
    stop = threading.Event()

    def watch() -> bool:
        while not stop.wait(0.002):
            if max(job.steps(), default=0) >= place:
                workers()[rank].send_signal(blow)
                return True
        return False

    with ThreadPoolExecutor(1) as pool:
        struck = pool.submit(watch)
        try:
            yield
        finally:
            stop.set()
    assert struck.result()


@contextmanager
def planted(job: TrainingJob, number: int, harm: Callable[[Path], None]) -> Iterator[None]:
    """A file of examples that is damaged while the block runs."""
    path, kept = job.file(number), job.folder / "kept"
    shutil.copy(path, kept)
    harm(path)
    try:
        yield
    finally:
        os.replace(kept, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def spoil_a_weight(path: Path) -> None:
    table = pq.read_table(path)
    weights = table["weight"].to_numpy().copy()
    weights[7] = np.nan
    pq.write_table(table.set_column(table.schema.get_field_index("weight"), "weight", pa.array(weights)), path)


def test_a_training_that_meets_every_fault_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    """Two ranks, each with its own users. Two terms add up the same in any order: vectors are equal bit for bit."""
    draw = random.Random(SEED)
    whole = TrainingJob(tmp_path / "whole", {})
    whole.folder.mkdir()
    whole.write().start(2, checkpoint_minutes=10)
    steps = -(-max(ROWS[0] + ROWS[2], ROWS[1] + ROWS[3]) // 16)
    job = TrainingJob(tmp_path / "disturbed", {})
    job.folder.mkdir()
    job.write()

    with planted(job, 3, truncate):
        said = failure(lambda: job.start(2))
    assert job.file(3).name in said
    assert "rank 1, retrieval final epoch 1, step 1" in said
    assert "HorovodInternalError" not in said
    assert job.newest() is None

    rank, place = draw.randrange(2), draw.randrange(2, 2 * steps)
    with striking(job, rank, place):
        said = failure(lambda: job.start(2))
    assert f"rank {rank} ended with code" in said
    assert f"rank {1 - rank}, retrieval final epoch" in said
    before = job.newest()
    assert before is not None
    assert before.step >= place - 1

    with planted(job, 1, spoil_a_weight):
        said = failure(lambda: job.start(2))
    assert "loss or gradient is not finite on rank 1 (loss)" in said
    after = job.newest()
    assert after is not None
    assert after.step >= before.step
    assert f"retrieval final epoch {len(after.common()['curve']) + 1}, step {after.facts['batches'] + 1}:" in said
    tensors = [*after.common()["weights"].values(), *(t for key in after.parts for t in after.part(key).values())]
    assert all(bool(each.isfinite().all()) for each in tensors if hasattr(each, "isfinite"))

    job.start(2)
    assert job.curve() == whole.curve()
    for side, vectors in job.vectors().items():
        assert np.array_equal(vectors, whole.vectors()[side]), side


def test_a_rank_that_is_frozen_ends_the_job(tmp_path: Path) -> None:
    """It is alive, as far as the system can tell, but answers nobody."""
    job = TrainingJob(tmp_path, {}).write()
    with striking(job, 1, 2, signal.SIGSTOP):
        said = failure(lambda: job.start(2))
    assert "rank 0, retrieval final epoch" in said
    assert job.newest() is not None


def test_one_rank_goes_on_as_three(tmp_path: Path) -> None:
    """Killed within the second epoch, it goes on from the first one's end, as a run does that was killed just there."""
    job = TrainingJob(tmp_path / "inside", {"shard_users": False})
    job.folder.mkdir()
    job.write()
    steps = -(-sum(ROWS) // 16)
    with striking(job, 0, steps + 8):
        failure(lambda: job.start(1))
    inside = job.newest()
    assert inside is not None
    first = inside.common()["curve"][0]
    assert inside.facts["batches"] > 0
    assert inside.facts["whole"] == steps + 1
    between = TrainingJob(tmp_path / "between", job.settings)
    shutil.copytree(job.folder, between.folder)
    for path in between.folder.glob(f"checkpoints/*/*/{COMPLETE}"):
        if path.parent.name != f"step-{steps + 1:09d}":
            shutil.rmtree(path.parent)
    for each in (job, between):
        each.start(3)
    assert [point["epoch"] for point in job.curve()] == [1, 2, 3]
    assert job.curve() == between.curve()
    assert job.curve()[0]["loss"] == first["loss"]
    for side, vectors in job.vectors().items():
        assert np.array_equal(vectors, between.vectors()[side]), side


@pytest.fixture(autouse=True)
def no_rank_is_left() -> Iterator[None]:
    yield
    end_all(list(workers().values()))
