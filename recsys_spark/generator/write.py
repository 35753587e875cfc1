"""Writes a log by Spark: a task a file, each from the spec and its own number alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from recsys_spark.errors import RecsysError
from recsys_spark.generator.encode import to_table
from recsys_spark.generator.entities import CataloguePlan, attributes, plan_catalogue, truth
from recsys_spark.generator.plan import UNREADABLE, FilePlan, plan_files
from recsys_spark.generator.planted import file_rows
from recsys_spark.generator.render import write_lines, write_parquet, write_unreadable
from recsys_spark.generator.rows import CODE, LABELS, NO_DAY
from recsys_spark.generator.settings import settings_page
from recsys_spark.generator.spec import LogSpec
from recsys_spark.generator.truth import Count, count, write_truth
from recsys_spark.generator.world import world_of
from recsys_spark.tables.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class Summary:
    """What was written.

    Parameters
    ----------
    out : str
        Root of the log.
    rows : int
        In all files of events that can be read, those that come twice included.
    files : int
        Of events.
    bytes : int
        Of these files.
    seconds : float
        From the first task to the last file of truth; Spark's start is not in it.
    rules : dict of str to int
        Rows by label: kept, a kind of duplicate, or the rule that they break.
    """

    out: str
    rows: int
    files: int
    bytes: int
    seconds: float
    rules: dict[str, int]

    @property
    def rows_per_second(self) -> float:
        """Speed."""
        return self.rows / self.seconds


def generate(spark: SparkSession, spec: LogSpec, out: str) -> Summary:
    """Write events, items, users, truth and settings.yaml.

    Parameters
    ----------
    spark : SparkSession
    spec : LogSpec
    out : str
        A folder that is empty or absent: a path or URI.

    Raises
    ------
    RecsysError
        The folder holds something, or the spec cannot be met.
    """
    storage = Storage(out)
    if storage.names(""):
        raise RecsysError("the folder is not empty", out, "Give another one, or delete it.")
    root = storage.path() if storage.is_local else storage.uri
    plans: list[FilePlan | CataloguePlan] = [*plan_files(spec), *plan_catalogue(spec)]
    page = settings_page(spec, root)
    for folder in sorted({str(PurePosixPath(_path(plan)).parent) for plan in plans}):
        storage.make_folder(folder)
    started = time.monotonic()
    tasks = spark.sparkContext.parallelize(plans, len(plans))
    written = tasks.map(lambda plan: _write(spec, root, plan)).collect()
    counts = [each for _, found in written for each in found]
    write_truth(storage, spec, counts)
    storage.write_bytes("settings.yaml", page.encode())  # last: who sees it sees a whole log
    seconds = time.monotonic() - started
    by_rule = {name: sum(each.rows for each in counts if each.rule == name) for name in LABELS}
    rules = {name: rows for name, rows in by_rule.items() if rows}
    sizes = [size for size, _ in written if size is not None]
    return Summary(root, sum(rules.values()), len(sizes), sum(sizes), seconds, rules)


def _path(plan: FilePlan | CataloguePlan) -> str:
    return f"events/{plan.path}" if isinstance(plan, FilePlan) else f"{plan.side}/{plan.name}"


def _write(spec: LogSpec, root: str, plan: FilePlan | CataloguePlan) -> tuple[int | None, list[Count]]:
    """Write one file; give back its size, where it is one of events, and what is true of it."""
    storage, world = Storage(root), world_of(spec)
    path = storage.path(_path(plan))
    if isinstance(plan, CataloguePlan):
        write_parquet(storage.fs, path, attributes(world, plan))
        storage.make_folder(f"truth/{plan.side}")
        write_parquet(storage.fs, storage.path(f"truth/{plan.side}/{plan.name}"), truth(world, plan))
        return None, []
    if plan.kind == UNREADABLE:
        write_unreadable(storage.fs, path, plan.number)
        found = [Count(plan.path, plan.day, NO_DAY, "unreadable_file", 0)]
    else:
        rows = file_rows(world, plan)
        table = to_table(world, plan, rows)
        if spec.log_format == "parquet":
            write_parquet(storage.fs, path, table)
        else:
            write_lines(storage.fs, path, spec.log_format, table, (rows.rule == CODE["malformed"]).nonzero()[0])
        found = count(plan.path, plan.day, rows, LABELS)
    return storage.fs.get_file_info(path).size, found
