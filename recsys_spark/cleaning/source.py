"""Opens raw files under the settings' column mapping."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from difflib import get_close_matches
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import EntitiesInput, InteractionsInput, Reader, Settings
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "nanoseconds": 1_000_000_000}
_LAST_SECOND = 253_402_300_799  # 9999-12-31 23:59:59 UTC; milliseconds taken for seconds lie far after it
_NUMBERS = ("byte", "short", "integer", "long", "float", "double", "decimal")


def source_files(spark: SparkSession, settings: Settings) -> list[tuple[str, int, int]]:
    """Path, size and time of every raw file: the facts that tell whether the input changed."""
    found: list[tuple[str, int, int]] = []
    for name in ("interactions", "items", "users"):
        reader = getattr(settings.input, name)
        if reader is not None:
            found += _list(spark, reader, f"input.{name}")
    return sorted(found)


def open_source(spark: SparkSession, reader: Reader, setting: str, columns: dict[str, str]) -> DataFrame:
    """Raw rows with the column ``source_file``.

    Parameters
    ----------
    spark : SparkSession
    reader : Reader
        Path, format and options.
    setting : str
        Name of the settings' section, for messages.
    columns : dict of str to str
        Setting's key to the raw column it names; each must be there.

    Raises
    ------
    RecsysError
        There is no file, a file cannot be opened, or a column is missing.
    """
    from pyspark.errors import AnalysisException, PySparkException
    from pyspark.sql import functions as F

    _list(spark, reader, setting)
    opened = spark.read.format(reader.format).options(**reader.options)
    if reader.format == "csv" and reader.fields:
        opened = opened.schema(", ".join(f"`{name}` string" for name in reader.fields))
    elif reader.format == "json":
        opened = opened.schema(", ".join(f"`{name}` string" for name in sorted(set(columns.values()))))
    try:
        with reading():
            frame = opened.load(reader.path)
    except (AnalysisException, PySparkException) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecsysError(f"cannot be opened ({reason})", reader.path, "Check the files' format.") from error
    for key, name in columns.items():
        if name not in frame.columns:
            close = get_close_matches(name, frame.columns, n=1)
            hint = f"Did you mean '{close[0]}'? " if close else ""
            raise RecsysError(
                f"no column '{name}' (columns: {', '.join(frame.columns)})",
                reader.path,
                f"{hint}Set {setting}.{key}.",
            )
    return frame.withColumn(c.SOURCE_FILE, F.col("_metadata.file_path"))


@contextmanager
def reading() -> Iterator[None]:
    """Tell a file that breaks while its rows are read (torn, or a column of another type) in one line."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        files = re.search(r"(?:file|hdfs|s3a?):/[^\s,;'\"]+", text)
        if not files:
            raise
        lines = [line.strip() for line in text.splitlines()]
        causes = [line for line in lines if line.startswith("Caused by:")] or lines[:1]
        raise RecsysError(
            f"cannot be read ({causes[-1].removeprefix('Caused by: ')[:300]})",
            files.group().rstrip(".)]"),
            "Mend or remove the file: it is torn, or a column is of another type than in the other files.",
        ) from error


def typed_events(raw: DataFrame, source: InteractionsInput) -> DataFrame:
    """Typed event columns and their raw twins, beside ``raw`` (the row as JSON) and ``source_file``."""
    from pyspark.sql import functions as F

    _check_time_unit(raw, source)
    names = [name for name in raw.columns if name != c.SOURCE_FILE]
    event_type = quoted(source.event_type) if source.event_type else F.lit(source.constant_event_type)
    value = quoted(source.value) if source.value else F.lit(None).cast("double")
    twins = {
        c.USER_ID: quoted(source.user_id),
        c.ITEM_ID: quoted(source.item_id),
        c.EVENT_TYPE: event_type,
        c.EVENT_TIME: quoted(source.event_time),
        c.VALUE: value,
    }
    typed = {
        c.USER_ID: F.trim(twins[c.USER_ID].cast("string")),
        c.ITEM_ID: F.trim(twins[c.ITEM_ID].cast("string")),
        c.EVENT_TYPE: twins[c.EVENT_TYPE].cast("string"),
        c.EVENT_TIME: _timestamp(twins[c.EVENT_TIME], source.time_unit),
        c.VALUE: twins[c.VALUE].try_cast("double"),
    }
    return raw.select(
        c.SOURCE_FILE,
        F.to_json(F.struct(*[quoted(name) for name in names])).alias(c.RAW),
        *[column.alias(f"raw_{name}") for name, column in twins.items()],
        *[column.alias(name) for name, column in typed.items()],
    )


def entity_columns(source: EntitiesInput, features: list[str], label: list[str]) -> dict[str, str]:
    """Setting's key to raw column, for an items or users table."""
    named = {f"label ({name})": name for name in label} | {f"features ({name})": name for name in features}
    return {"id": source.id, **named}


def quoted(name: str) -> Column:
    """Column of exactly this name, whatever signs it holds."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def _check_time_unit(raw: DataFrame, source: InteractionsInput) -> None:
    """Refuse to guess: a number of unknown unit is no time, and a timestamp is no number of milliseconds."""
    kind = raw.schema[source.event_time].dataType
    is_time = kind.typeName() in ("timestamp", "timestamp_ntz", "date")
    if (source.time_unit == "timestamp" and kind.typeName() in _NUMBERS) or (
        source.time_unit != "timestamp" and is_time
    ):
        do = (
            "Set input.interactions.time_unit to timestamp."
            if is_time
            else "Set input.interactions.time_unit to seconds, milliseconds or nanoseconds "
            "(pandas writes its timestamps to Parquet as nanoseconds)."
        )
        raise RecsysError(
            f"column '{source.event_time}' is of type {kind.simpleString()}, but time_unit is '{source.time_unit}'",
            source.path,
            do,
        )


def _timestamp(column: Column, unit: str) -> Column:
    """Time of an event; null where it cannot be read, or lies after the year 9999."""
    from pyspark.sql import functions as F

    if unit == "timestamp":
        # Spark reads "12:30" as of today, and "2024" as a New Year's Day: only what begins with a day is a time
        dated = F.trim(column.cast("string")).rlike(r"^\d{4}-\d{1,2}-\d{1,2}")
        return F.when(dated, column.try_cast("timestamp"))
    number = column.try_cast("decimal(38,9)")
    possible = F.abs(number) <= F.lit(Decimal(_LAST_SECOND * _PER_SECOND[unit]))
    microseconds = F.when(possible, number) * F.lit(1_000_000) / F.lit(_PER_SECOND[unit])
    return F.timestamp_micros(microseconds.try_cast("bigint"))


def _list(spark: SparkSession, reader: Reader, setting: str) -> list[tuple[str, int, int]]:
    """Files of a path or glob, by Hadoop's file system, so that any URI of the cluster works."""
    jvm = spark.sparkContext._jvm
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    assert jvm is not None  # a classic session has one
    path = jvm.org.apache.hadoop.fs.Path(reader.path)
    system = path.getFileSystem(configuration)
    found = []
    for status in system.globStatus(path) or []:
        if status.isFile():
            found.append(status)
            continue
        walker = system.listFiles(status.getPath(), True)
        while walker.hasNext():
            found.append(walker.next())
    files = [(f.getPath().toString(), f.getLen(), f.getModificationTime()) for f in found]
    data = [each for each in files if not each[0].rsplit("/", 1)[-1].startswith(("_", "."))]
    if not data:
        raise RecsysError("no files there", reader.path, f"Check {setting}.path.")
    if reader.format in ("parquet", "orc"):  # Spark would pass over a file without a byte, and say nothing
        for name, size, _ in data:
            if size == 0:
                raise RecsysError("the file is empty (0 bytes)", name, "Bring it again, or take it away.")
    return data
