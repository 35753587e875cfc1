from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.trouble import explain, explaining

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as found:
        return found


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
    ],
)
def test_errors_of_the_system(number: int, found: str) -> None:
    told = explain(OSError(number, os.strerror(number), "/tables/x"), "file:/tables")
    assert told is not None
    assert found in told.found
    assert "/tables/x" in told.found
    assert told.where == "file:/tables"


def test_the_cause_is_found_in_javas_trace_by_its_line() -> None:
    trace = "Job aborted.\n\tat org.apache.X\nCaused by: java.io.IOException: No space left on device\n\tat y"
    told = explain(raised(ValueError("failed"), RuntimeError(trace)), "here")
    assert told is not None
    assert "(Caused by: java.io.IOException: No space left on device)" in told.found
    assert "org.apache" not in str(told)


def test_the_error_of_a_worker_is_told_as_it_was() -> None:
    first = RecsysError("3 rows, then 4", "table 'x': part", "Do this. Then that: again.")
    trace = f"Job aborted.\nTraceback:\nrecsys_spark.errors.RecsysError: {first}\n\n\tat org.apache.X"
    told = explain(raised(ValueError("failed"), RuntimeError(trace)), "here")
    assert str(told) == str(first)


def test_a_gpu_that_is_full() -> None:
    told = explain(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "here")
    assert told is not None
    assert told.found == "the GPU has no memory left (CUDA out of memory. Tried to allocate 2 GiB)"


def test_an_error_of_tidying_up_does_not_hide_the_first_one() -> None:
    first = RecsysError("the first", "there", "Mend it.")

    def work() -> None:
        try:
            raise first
        finally:
            raise KeyError("of tidying up")

    with pytest.raises(RecsysError) as error, explaining("here"):
        work()
    assert error.value is first


def test_a_fault_of_the_code_keeps_its_trace() -> None:
    assert explain(KeyError("x"), "here") is None
    assert explain(ConnectionRefusedError("of some server"), "here") is None
    with pytest.raises(KeyError), explaining("here"):
        raise KeyError("x")


def test_a_message_that_cannot_be_had() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ConnectionRefusedError

    assert explain(Mute(), "here") is None


def test_a_python_worker_that_was_killed(spark: SparkSession) -> None:
    def die(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield from batches

    with pytest.raises(RecsysError, match=r"here: a Python worker of Spark was lost"), explaining("here"):
        spark.range(2).mapInArrow(die, "id bigint").collect()
