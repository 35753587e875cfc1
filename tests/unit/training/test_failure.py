from __future__ import annotations

import errno
from pathlib import Path

import pytest

from recsys_spark.config import Launch
from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage
from recsys_spark.training.failure import failures, forget_failures, note_failure
from recsys_spark.training.launch import launch

JOB = "_jobs/x/job.json"


class HorovodInternalError(RuntimeError):
    """Named as Horovod names it."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def with_note(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


def test_the_cause_is_told_apart_from_what_others_noticed(storage: Storage) -> None:
    lost = with_note(HorovodInternalError("Horovod has been shut down"), "rank 0, x epoch 1, step 4")
    note_failure(storage, JOB, 0, lost)
    noticed = ["rank 0, x epoch 1, step 4: HorovodInternalError: Horovod has been shut down"]
    assert failures(storage, JOB) == ([], noticed)
    note_failure(storage, JOB, 1, with_note(MemoryError("no\nroom"), "rank 1, x epoch 1, step 4"))
    assert failures(storage, JOB) == (["rank 1, x epoch 1, step 4: MemoryError: no room"], noticed)
    forget_failures(storage, JOB)
    assert failures(storage, JOB) == ([], [])


def test_an_error_that_says_where_says_it_once(storage: Storage) -> None:
    where = "rank 2, x epoch 1, step 4"
    assert note_failure(storage, JOB, 2, with_note(RecsysError("the loss is nan", where, "Run."), where)) == (
        f"{where}: the loss is nan. Run."
    )
    assert note_failure(storage, JOB, 2, RecsysError("torn", "a file", "Run.")) == "rank 2: a file: torn. Run."


def test_a_full_disk_is_told_as_such(storage: Storage) -> None:
    told = note_failure(storage, JOB, 1, OSError(errno.ENOSPC, "No space left on device"))
    assert told.startswith(f"rank 1: {storage.uri}: the disk is full ([Errno 28] No space left on device)")


def test_a_cause_that_cannot_be_kept_is_shown_too(storage: Storage, tmp_path: Path) -> None:
    """Where its file would be there is a folder."""
    storage.write_json(JOB, {"launcher": "local", "ranks": 1, "threads": "two", "kind": "ranker"})
    (tmp_path / "_jobs/x/failed-0000.json").mkdir()
    with pytest.raises(RecsysError, match="rank 0: RuntimeError: set_num_threads expects an int") as error:
        launch(None, Launch(), storage.uri, JOB)  # type: ignore[arg-type]
    assert "said here alone" not in str(error.value)


def test_a_real_worker_that_fails_is_shown_by_the_launcher(storage: Storage) -> None:
    """The job is broken: a number that is none."""
    storage.write_json(JOB, {"launcher": "local", "ranks": 1, "threads": "two", "kind": "ranker"})
    storage.write_json("_jobs/x/failed-0003.json", {"rank": 3, "error": "of an earlier attempt", "cause": True})
    with pytest.raises(RecsysError) as error:
        launch(None, Launch(), storage.uri, JOB)  # type: ignore[arg-type]
    said = str(error.value)
    assert "rank 0: RuntimeError: set_num_threads expects an int" in said
    assert "training by 'local' with 1 rank(s)" in said
    assert "earlier attempt" not in said
