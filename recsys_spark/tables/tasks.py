"""Files of a table, read and written by tasks without the JVM in between.

A task's file has a name that follows from the task alone, and the same bytes whoever writes it: a task that is done
twice, after a loss or by speculation, leaves what it left before.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import uuid
import zipimport
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.tables.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def run_tasks(
    spark: SparkSession, count: int, task: Callable[[int], list[dict[str, Any]]], what: str
) -> list[dict[str, Any]]:
    """Do ``task(0) … task(count - 1)`` on the executors, each in a Spark task of its own, and collect what they say.

    By an RDD: there is nothing to plan, which is half a second less in a session that has not worked yet.

    Parameters
    ----------
    spark : SparkSession
    count : int
    task : callable
        A function of a module, or a partial of one, so that it can travel. Returns rows of plain values, a few at most.
    what : str
        Shown in Spark's pages.
    """
    if not count:
        return []
    context = spark.sparkContext
    before = context.getLocalProperty("spark.job.description")
    context.setJobDescription(what)
    try:
        return context.parallelize(range(count), count).flatMap(partial(_run, task=task)).collect()
    finally:
        context.setLocalProperty("spark.job.description", before)  # type: ignore[arg-type]  # None is right


def _run(number: int, task: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    settle_worker()
    try:
        return task(number)
    finally:
        pa.default_memory_pool().release_unused()


def settle_worker() -> None:
    """Have this process of Spark's lose less time between tasks; to be called as a task begins.

    After each task Spark's daemon collects garbage: what there is when a task begins, modules above all, is left out of
    that. And see ``keep_archives``.
    """
    if "pyspark.worker" in sys.modules:  # elsewhere nobody has collected what is garbage by now
        gc.freeze()
    keep_archives()


def keep_archives() -> None:
    """Have this process read the contents of an archive on its path again only if the archive has changed.

    Spark lets every task forget where modules are. Python 3.11 then reads the table of contents of all archives anew,
    and Spark's own jar, with its thousands of entries, is on the path of its workers: 0.1 to 0.3 s a task.
    """
    if hasattr(zipimport.zipimporter, "is_kept"):
        return
    read_again = zipimport.zipimporter.invalidate_caches

    def invalidate_caches(self: Any) -> None:
        """Each package of an archive has an importer of its own: the stamp is the importer's, not the archive's."""
        stamp = None
        with suppress(OSError):
            found = os.stat(self.archive)
            stamp = (found.st_mtime_ns, found.st_size)
        if stamp is None or getattr(self, "stamp", None) != stamp:
            read_again(self)
            self.stamp = stamp if self._files else None  # of an archive that could not be read there is none

    zipimport.zipimporter.is_kept = True  # type: ignore[attr-defined]
    zipimport.zipimporter.invalidate_caches = invalidate_caches  # type: ignore[method-assign]


def write_file(storage: Storage, relative: str, tables: Iterator[pa.Table], schema: pa.Schema, **options: Any) -> None:
    """Write a Parquet file in one step, each table as a row group; ``options`` are those of Arrow's writer."""
    folder, slash, _ = relative.rpartition("/")
    storage.make_folder(folder)
    # an object store shows a file when it is complete; elsewhere a name says that it is not yet
    target = f"{folder}{slash}_{uuid.uuid4().hex}.partial" if storage.is_local else relative
    with (
        storage.fs.open_output_stream(storage.path(target)) as stream,
        pq.ParquetWriter(stream, schema, **options) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    if target != relative:
        storage.fs.move(storage.path(target), storage.path(relative))


def read_file(storage: Storage, relative: str, columns: list[str] | None = None) -> pa.Table:
    """Rows of one Parquet file."""
    with storage.fs.open_input_file(storage.path(relative)) as stream:
        return pq.ParquetFile(stream).read(columns=columns)


def files_by_partition(storage: Storage, folder: str) -> dict[int, str]:
    """Files that Spark wrote into a folder, by the number of the partition that each holds; empty ones have none."""
    found: dict[int, str] = {}
    for name, _ in storage.files(folder):
        match = re.match(r"part-(\d+)-", name)
        if match is None or int(match[1]) in found:
            raise ValueError(f"{storage.url(f'{folder}/{name}')}: one file a partition was expected")
        found[int(match[1])] = f"{folder}/{name}"
    return found
