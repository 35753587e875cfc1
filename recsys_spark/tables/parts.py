"""Tables in parts, such as a part a day: a night writes the parts that changed and names the runs that hold the others.

<root>/<table>/dt=2026-01-31/run=<run id>/day=2026-01-31/part-*.parquet   written by this run
                                          day=2026-01-30/…                late rows came: written again, by this run
                                          _manifest.json                  names the files of all other days, in the
                                                                          folders of earlier runs

A run stays one complete table that never changes, and what did not change is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from recsys_spark.errors import RecsysError
from recsys_spark.tables.content import content_digest, row_hash, schema_text
from recsys_spark.tables.manifest import FileEntry, Manifest
from recsys_spark.tables.store import Stamp, TableStore, check_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PARTS = "parts"
_NONE = "none"


def write_parts(store: TableStore, frame: DataFrame, table: str, stamp: Stamp, part: str) -> dict[str, int]:
    """Write rows, each part into a folder of its own; ``seal_parts`` completes the run.

    Parameters
    ----------
    store : TableStore
    frame : DataFrame
        The table's columns, and ``part``.
    table : str
    stamp : Stamp
    part : str
        Column that names a row's part.

    Returns
    -------
    dict of str to int
        Rows of each part, by the files' footers.
    """
    check_schema(frame.drop(part), table)
    folder = store.folder(table, stamp)
    frame.write.mode("overwrite").partitionBy(part).parquet(store.storage.url(folder))
    if not store.storage.files(folder):  # without rows there are no parts; one file keeps the columns
        frame.drop(part).limit(0).coalesce(1).write.parquet(store.storage.url(f"{folder}/{part}={_NONE}"))
    rows: dict[str, int] = {}
    for name, size in store.storage.files(folder):
        place = _value(name)
        rows[place] = rows.get(place, 0) + store.with_rows(folder, FileEntry(name, size)).rows
    return rows


def seal_parts(
    store: TableStore,
    spark: SparkSession,
    table: str,
    stamp: Stamp,
    part: str,
    base: Manifest | None = None,
    opened: Iterable[str] = (),
    extra: dict[str, object] | None = None,
) -> Manifest:
    """Read back what was written and complete the run; parts that it did not open are those of ``base``.

    Parameters
    ----------
    store : TableStore
    spark : SparkSession
    table : str
    stamp : Stamp
    part : str
        Column that names a row's part.
    base : Manifest, optional
        Run whose other parts belong to this one too.
    opened : iterable of str
        Parts that were to be written again: where nothing is left of one, it is gone.
    extra : dict, optional
        Facts that the next stage needs, kept in the manifest.

    Raises
    ------
    RecsysError
        The rows that can be read are not those that the footers name.
    """
    folder = store.folder(table, stamp)
    own = [store.with_rows(folder, FileEntry(name, size)) for name, size in store.storage.files(folder)]
    schema, parts = _read_parts(spark, store.storage.url(folder), part) if own else ("", {})
    footers = sum(each.rows for each in own)
    if footers != sum(rows for rows, _ in parts.values()):
        raise RecsysError(
            f"the footers say {footers} rows, but {sum(rows for rows, _ in parts.values())} can be read",
            store.storage.url(folder),
            "Nothing was published; check the storage and run the stage again.",
        )
    files = own
    if base is not None:
        gone = {*opened, *parts}
        kept = [each for each in base.files if _value(each.name) not in gone]
        files = own + [FileEntry(each.name, each.bytes, each.rows, each.folder or base.folder) for each in kept]
        earlier = {name: (n, int(sums)) for name, (n, sums) in base.extra[PARTS].items() if name not in gone}
        parts = {**earlier, **parts}
        schema = schema or base.schema
    rows, total = sum(rows for rows, _ in parts.values()), sum(total for _, total in parts.values())
    sums = {name: [rows, str(total)] for name, (rows, total) in sorted(parts.items())}
    told = {**(extra or {}), PARTS: sums}
    return store.complete(table, stamp, files, rows, schema, content_digest(rows, total, schema), told)


def read_parts(store: TableStore, spark: SparkSession, manifest: Manifest, names: Iterable[str]) -> DataFrame | None:
    """Rows of some parts; None where the table has none of them."""
    wanted = set(names)
    files = [each for each in manifest.files if _value(each.name) in wanted and each.rows]
    return store.read_files(spark, manifest, files) if files else None


def _value(name: str) -> str:
    """Part that a file belongs to, by its folder ``<column>=<part>``."""
    return name.split("/", 1)[0].partition("=")[2]


def _read_parts(spark: SparkSession, url: str, part: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """Schema without the part's column; rows and sum of row hashes of each part."""
    from pyspark.sql import functions as F

    frame = spark.read.parquet(url)
    rows = frame.drop(part)
    total = F.sum(row_hash(rows).cast("decimal(38,0)"))
    found = frame.groupBy(part).agg(F.count(F.lit(1)).alias("rows"), total.alias("total")).collect()
    return schema_text(rows), {str(row[part]): (row["rows"], int(row["total"])) for row in found}
