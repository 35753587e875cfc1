"""Opens raw files and finds in them the columns that the settings name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

from recsys_spark.cleaning.files import RawFile, glob_safe
from recsys_spark.config import Reader
from recsys_spark.errors import RecsysError
from recsys_spark.tables.layout import small_frame
from recsys_spark.trouble import explain

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import DataType

FILE, FILE_DAY, SINCE, CORRUPT = "__file", "__file_day", "__since", "__corrupt"
_PATH, _KEYS = "__path", "__keys"
_AS_THEY_CAME = {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"}


class UnreadableFile(RecsysError):
    """A file that broke while its rows were read, after its footer or header had looked well."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"cannot be read ({reason})", path, "Mend or remove the file.")


@dataclass(frozen=True)
class Opened:
    """Raw rows of files of one schema.

    Parameters
    ----------
    rows : DataFrame
        The file's columns, ``__file`` (its place in the list of files), ``__file_day`` and ``__since`` (date or null)
        and, for CSV and JSON, ``__corrupt``: the text of a row that cannot be taken apart, else null.
    names : tuple of str
        The file's own columns.
    keys : tuple of str
        Folder keys that serve as columns, with text as their type.
    json : bool
        Columns hold what stands in a JSON object, nested objects as text.
    """

    rows: DataFrame
    names: tuple[str, ...]
    keys: tuple[str, ...] = field(default=())
    json: bool = False

    def find(self, name: str) -> tuple[Column, DataType] | None:
        """Column of this name, with its type: a column, a field of a struct (``a.b``), or a folder's key."""
        from pyspark.sql import functions as F
        from pyspark.sql.types import StringType, StructType

        head, *path = name.split(".")
        if self.json and path and name in self.names:
            inner = F.get_json_object(quoted(head), "$" + "".join(f"['{part}']" for part in path))
            return F.coalesce(quoted(name), inner), StringType()
        if name in self.names:
            return quoted(name), self.rows.schema[name].dataType
        if path and head in self.names:
            column, kind = quoted(head), self.rows.schema[head].dataType
            for part in path:
                if not isinstance(kind, StructType) or part not in kind.names:
                    return None
                column, kind = column.getField(part), kind[part].dataType
            return column, kind
        if name in self.keys:
            return F.col(_KEYS).getItem(name), StringType()
        return None


def open_groups(spark: SparkSession, reader: Reader, files: list[RawFile], needed: list[str]) -> list[Opened]:
    """Readable files, those of one schema and with the same keys of folders together.

    Parameters
    ----------
    spark : SparkSession
    reader : Reader
    files : list of RawFile
        All files of the input, probed; a file's place in this list is its number.
    needed : list of str
        Columns that are wanted: all that a JSON file can be asked for.
    """
    numbered = [(place, each) for place, each in enumerate(files) if not each.broken]

    def schema(pair: tuple[int, RawFile]) -> tuple[str, list[str]]:
        return pair[1].schema, sorted(pair[1].keys)

    groups = [list(group) for _, group in groupby(sorted(numbered, key=schema), key=schema)]
    facts = _facts(spark, numbered)  # the same for all groups, so that Spark sends it to the executors once
    return [_openable(spark, reader, group, needed, facts) for group in groups]


def require(groups: list[Opened], columns: dict[str, str], setting: str, path: str) -> None:
    """Refuse an input without a readable file, and a column that no file has.

    Parameters
    ----------
    groups : list of Opened
    columns : dict of str to str
        Setting's key to the raw column it names.
    setting, path : str
        For the message.
    """
    if not groups:
        raise RecsysError("none of its files can be read", path, f"Bring them again, or check {setting}.format.")
    for key, name in columns.items():
        if not any(group.find(name) for group in groups):
            have = sorted({each for group in groups for each in group.names})
            close = get_close_matches(name, have, n=1)
            hint = f"Did you mean '{close[0]}'? " if close else ""
            raise RecsysError(f"no column '{name}' (columns: {', '.join(have)})", path, f"{hint}Set {setting}.{key}.")


def union(frames: list[DataFrame]) -> DataFrame:
    """Rows of all frames, which have the same columns."""
    return reduce(lambda one, other: one.unionByName(other), frames)


def count_rows(groups: list[Opened]) -> dict[int, int]:
    """Rows of each file by its number, counted apart from all judging."""
    counted = [row for group in groups for row in group.rows.groupBy(FILE).count().collect()]
    return {row[FILE]: row["count"] for row in counted}


@contextmanager
def reading() -> Iterator[None]:
    """Tell which file broke while its rows were read.

    Raises
    ------
    UnreadableFile
        Spark names a file in its error.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        text = str(error)
        if explain(error, "") is not None:  # a full disk, a lost worker: Spark names a file there too
            raise
        files = re.search(r"(?<=reading file )\S+?(?=\.\s|\.$)|(?:file|hdfs|s3a?):/[^\s,;'\"]+", text)
        if not files or ("FAILED_READ_FILE" not in text and "Parquet" not in text and "java.io" not in text):
            raise
        lines = [line.strip() for line in text.splitlines()]
        causes = [line for line in lines if line.startswith("Caused by:")] or lines[:1]
        raise UnreadableFile(files.group().rstrip(".)]"), causes[-1].removeprefix("Caused by: ")[:300]) from error


def quoted(name: str) -> Column:
    """Column of exactly this name, whatever signs it holds."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def as_json(group: Opened, replaced: dict[str, Column] | None = None, corrupt: Column | None = None) -> Column:
    """Raw row as JSON; where it could not be taken apart, its text, or what ``corrupt`` says instead."""
    from pyspark.sql import functions as F

    values = {name: quoted(name) for name in group.names} | (replaced or {})
    whole = F.to_json(F.struct(*[column.alias(name) for name, column in values.items()]), _AS_THEY_CAME)
    if CORRUPT not in group.rows.columns:
        return whole
    text = F.col(CORRUPT) if corrupt is None else F.when(F.col(CORRUPT).isNotNull(), corrupt)
    return F.coalesce(text, whole)


def _openable(
    spark: SparkSession, reader: Reader, files: list[tuple[int, RawFile]], needed: list[str], facts: DataFrame
) -> Opened:
    """Open files of one schema, unless their columns are such that Spark cannot tell them apart or read them.

    Raises
    ------
    UnreadableFile
        Names one of the files, and what is wrong with all of them.
    """
    from pyspark.errors import AnalysisException

    taken = {FILE, FILE_DAY, SINCE, CORRUPT, _PATH, _KEYS} & {name.lower() for name in files[0][1].columns}
    if taken:
        raise UnreadableFile(files[0][1].url, f"no column may be called {', '.join(sorted(taken))}")
    try:
        return _open(spark, reader, files, needed, facts)
    except AnalysisException as error:
        raise UnreadableFile(files[0][1].url, str(error).splitlines()[0]) from error


def _open(
    spark: SparkSession, reader: Reader, files: list[tuple[int, RawFile]], needed: list[str], facts: DataFrame
) -> Opened:
    from pyspark.sql import functions as F

    names = tuple(files[0][1].columns) or tuple(sorted({*needed, *[each.split(".")[0] for each in needed]}))
    opened = spark.read.format(reader.format).options(**reader.options)
    if reader.format in ("csv", "json"):
        text = ", ".join(f"{_ddl(name)} string" for name in (*names, CORRUPT))
        opened = opened.schema(text).option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", CORRUPT)
        opened = opened.option("columnPruning", "false")  # of a line that is cut down first, none can tell the length
    frame = opened.load([glob_safe(each.url) for _, each in files])
    keys = tuple(sorted(files[0][1].keys))
    path = frame.metadataColumn("_metadata")["file_path"]  # there may be a column of this name
    rows = frame.withColumn(_PATH, path).join(F.broadcast(facts), on=_PATH, how="inner")
    return Opened(rows, names, keys, json=reader.format == "json")


def _facts(spark: SparkSession, files: list[tuple[int, RawFile]]) -> DataFrame:
    """What is known of each file, by each spelling of its URL."""
    from pyspark.sql import functions as F

    rows = [
        (path, place, each.day, each.since, list(each.keys.items()))
        for place, each in files
        for path in _spellings(each.url)
    ]
    text = f"{_PATH} string, {FILE} int, {FILE_DAY} string, {SINCE} string, {_KEYS} map<string, string>"
    facts = small_frame(spark, rows, text)
    return facts.withColumn(FILE_DAY, F.col(FILE_DAY).cast("date")).withColumn(SINCE, F.col(SINCE).cast("date"))


def _ddl(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _spellings(url: str) -> list[str]:
    """How Spark may write a file's URL in ``_metadata.file_path``: encoded, and with one slash or three."""
    scheme, _, rest = url.rpartition(":") if re.match(r"^\w+:", url) else ("file", "", url)
    if scheme != "file":
        return [encoded(url)]
    plain = "/" + rest.lstrip("/")
    return [f"file:{encoded(plain)}", f"file://{encoded(plain)}"]


def encoded(path: str) -> str:
    """As java.net.URI writes a path: letters of all scripts stay, and so do the signs that a path may hold."""
    blanks = "\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    return re.sub(rf"[\x00-\x20\"#%<>?\[\\\]^`{{|}}{blanks}]", lambda sign: quote(sign.group(), safe=""), path)
