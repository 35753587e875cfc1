"""A table's content in one number, which no order of rows, files or machines changes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def schema_text(frame: DataFrame) -> str:
    """Names and types of the columns, as Spark DDL."""
    return ", ".join(f"{each.name} {each.dataType.simpleString()}" for each in frame.schema.fields)


def row_hash(frame: DataFrame) -> Column:
    """64-bit hash of a row over all columns, by name; nulls and lengths of lists count."""
    from pyspark.sql import functions as F

    return F.xxhash64(*[part for name in sorted(frame.columns) for part in _hashed(frame, name)])


def content(frame: DataFrame) -> tuple[int, int]:
    """Rows, and the sum of their hashes: what two parts of a table add up."""
    from pyspark.sql import functions as F

    total = F.sum(row_hash(frame).cast("decimal(38,0)"))
    found = frame.agg(F.count(F.lit(1)).alias("rows"), total.alias("total")).collect()[0]
    return found["rows"], int(found["total"] or 0)


def content_digest(rows: int, total: int, schema: str) -> str:
    """Content hash of a table."""
    return hashlib.sha256(f"{rows} {total} {sorted(schema.split(', '))}".encode()).hexdigest()[:32]


def _hashed(frame: DataFrame, name: str) -> list[Column]:
    """List what of a column goes into the row's hash: Spark's own skips nulls and runs arrays together."""
    from pyspark.sql import functions as F

    column = F.col(f"`{name}`")
    is_list = frame.schema[name].dataType.typeName() == "array"
    return [column, column.isNull(), *([F.size(column)] if is_list else [])]
