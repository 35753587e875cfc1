"""Raw files: where they are, which day each belongs to, whether it can be read, and which columns it has.

Every file is looked at by itself. Files of one schema are then opened together, so that a log whose columns changed
in March is read as what it was before March and as what it is since.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from recsys_spark.config import Reader
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_PROBES_AT_ONCE = 16
_HIDDEN = ("_", ".")
_NULL = "__HIVE_DEFAULT_PARTITION__"  # how Hive and Spark write a null into a folder's name


@dataclass(frozen=True)
class RawFile:
    """One file of an input.

    Parameters
    ----------
    url : str
        As Hadoop names it, for opening.
    name : str
        Below the folder that the settings name: what the ledger shows, wherever the log lies.
    size, time : int
        Bytes, and milliseconds since 1970 of the last change.
    day : str or None
        YYYY-MM-DD of its folder, where ``day_partition`` is set.
    columns : tuple of str
        Its columns; empty where only reading the rows tells (JSON).
    schema : str
        Files of equal text can be opened together.
    rows : int or None
        Rows by its own footer; None where the format has none.
    broken : str
        Why it cannot be read; empty where it can.
    since : str or None
        Only rows of this day and later are wanted: the others were taken by an earlier night.
    """

    url: str
    name: str
    size: int
    time: int
    day: str | None = None
    columns: tuple[str, ...] = ()
    schema: str = ""
    rows: int | None = None
    broken: str = ""
    since: str | None = None

    @property
    def facts(self) -> tuple[str, int, int]:
        """What tells whether it changed: name, size and time."""
        return (self.name, self.size, self.time)

    @property
    def keys(self) -> dict[str, str | None]:
        """Values of the folders named ``key=value`` above it, as text: their types are never guessed."""
        parts = [part.partition("=") for part in self.name.split("/")[:-1]]
        return {key: None if value == _NULL else unquote(value) for key, found, value in parts if found}


def list_files(spark: SparkSession, reader: Reader, setting: str, dt: str | None = None) -> list[RawFile]:
    """Files of a path, folder or glob in order of name, by Hadoop's file system: any URI of the cluster works.

    Parameters
    ----------
    spark : SparkSession
    reader : Reader
    setting : str
        Name of the settings' section, for messages.
    dt : str, optional
        Files in folders of later days are left out, where the reader has a ``day_partition``.

    Raises
    ------
    RecsysError
        There is no file, the path cannot be listed, or a file stands outside the folders of days.
    """
    from py4j.protocol import Py4JJavaError

    partition = getattr(reader, "day_partition", None)
    try:
        found = _walk(spark, reader.path)
    except (Py4JJavaError, OSError) as error:  # an unknown scheme, no right to look, a pattern without its end
        told = error.java_exception.toString() if isinstance(error, Py4JJavaError) else error
        why = " ".join(str(told).split())[:300]
        raise RecsysError(f"cannot be listed ({why})", reader.path, f"Check {setting}.path.") from error
    files = [replace(each, day=_day(each, partition)) for each in found]
    if not files:
        raise RecsysError("no files there", reader.path, f"Check {setting}.path.")
    if partition is None:
        return files
    stray = [each.name for each in files if each.day is None]
    if stray:
        raise RecsysError(
            f"{len(stray)} files are in no folder {partition}=YYYY-MM-DD, such as {stray[0]}",
            reader.path,
            f"Move them, or check {setting}.path and {setting}.day_partition.",
        )
    due = [each for each in files if each.day is not None and (dt is None or each.day <= dt)]
    if not due:
        raise RecsysError(f"no folder of {dt} or before; the first is of {files[0].day}", reader.path, "Check --date.")
    return due


def probe(files: list[RawFile], reader: Reader) -> list[RawFile]:
    """Look into each file: its columns and rows, or why it cannot be read."""
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        return list(pool.map(lambda each: _probe(each, reader), files))


def glob_safe(url: str) -> str:
    """Path that Spark takes as it stands, whatever signs it holds."""
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", url)


def _walk(spark: SparkSession, path: str) -> list[RawFile]:
    jvm, configuration = spark.sparkContext._jvm, spark.sparkContext._jsc.hadoopConfiguration()
    assert jvm is not None  # a classic session has one
    hadoop = jvm.org.apache.hadoop.fs.Path(path)
    system = hadoop.getFileSystem(configuration)
    found: list[RawFile] = []
    base = _base(path)
    for status in system.globStatus(hadoop) or []:
        if status.isFile():
            found.append(_raw_file(status, base))
            continue
        if system.getScheme() == "file":
            found += _walk_local(str(status.getPath().toUri().getPath()), base)
            continue
        walker = system.listFiles(status.getPath(), True)
        while walker.hasNext():
            found.append(_raw_file(walker.next(), base))
    return sorted((each for each in found if not _is_hidden(each.name)), key=lambda each: each.name)


def _walk_local(folder: str, base: str) -> list[RawFile]:
    """Files below a local folder. Hadoop's own walk starts a program for each of them, to ask for its owner."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for place, _, names in os.walk(folder, onerror=fail, followlinks=True):
        for name in names:
            path = os.path.join(place, name)
            facts = os.stat(path)
            found.append(
                RawFile(f"file:{path}", _name_below(path, base), facts.st_size, facts.st_mtime_ns // 1_000_000)
            )
    return found


def _raw_file(status: Any, base: str) -> RawFile:
    url = str(status.getPath().toString())
    plain = re.sub(r"^\w+:(//[^/]*)?", "", url)
    return RawFile(url, _name_below(plain, base), int(status.getLen()), int(status.getModificationTime()))


def _name_below(path: str, base: str) -> str:
    return path.removeprefix(base).lstrip("/") or path.rsplit("/", 1)[-1]


def _base(path: str) -> str:
    """Folder that names are given below: the longest part of the path that is no pattern, as an absolute path."""
    from pathlib import Path

    if not re.match(r"^\w+:", path):
        path = str(Path(path).absolute())
    plain = os.path.normpath(re.sub(r"^\w+:(//[^/]*)?", "", path)).replace("//", "/", 1)
    fixed = re.split(r"[*?\[{]", plain)[0]
    return fixed if fixed == plain else fixed.rsplit("/", 1)[0]


def _is_hidden(name: str) -> bool:
    """As in Hadoop: names that begin with _ or . are no data, but a folder _key=value is."""
    return any(part.startswith(_HIDDEN) and "=" not in part for part in name.split("/"))


def _day(file: RawFile, partition: str | None) -> str | None:
    value = (file.keys.get(partition) if partition else None) or ""
    try:
        return value if date.fromisoformat(value).isoformat() == value else None
    except ValueError:
        return None


def _probe(file: RawFile, reader: Reader) -> RawFile:
    import pyarrow as pa

    if not file.size:
        return replace(file, broken="the file has 0 bytes")
    try:
        if reader.format == "parquet":
            return _probe_parquet(file)
        if reader.format == "orc":
            return _probe_orc(file)
        return _probe_csv(file, reader) if reader.format == "csv" else replace(file, schema="json")
    except (OSError, pa.ArrowException, UnicodeDecodeError, EOFError) as error:
        return replace(file, broken=" ".join(str(error).split())[:200] or type(error).__name__)


def _probe_parquet(file: RawFile) -> RawFile:
    import pyarrow.parquet as pq

    with _open(file) as stream:
        footer = pq.ParquetFile(stream)
        schema = footer.schema_arrow
        return replace(file, columns=tuple(schema.names), schema=_text(footer.schema), rows=footer.metadata.num_rows)


def _probe_orc(file: RawFile) -> RawFile:
    from pyarrow import orc

    with _open(file) as stream:
        footer = orc.ORCFile(stream)
        return replace(file, columns=tuple(footer.schema.names), schema=str(footer.schema), rows=footer.nrows)


def _probe_csv(file: RawFile, reader: Reader) -> RawFile:
    """Columns by the file's own header, so that a file with another order of columns is read as it is meant."""
    if reader.fields or reader.options.get("header", "false").lower() != "true":
        if not reader.fields:
            raise RecsysError(
                "nothing says what the columns of these CSV files are called",
                reader.path,
                "Set options.header to 'true', or name the columns in fields.",
            )
        return replace(file, columns=tuple(reader.fields), schema="fields")
    with _open(file, compressed=True) as stream:
        start = stream.read(1 << 16)
    encoding = reader.options.get("encoding", "utf-8")
    line = start.split(b"\n", 1)[0].decode(encoding, errors="replace").rstrip("\r").removeprefix("\ufeff")
    if not line.strip():
        return replace(file, broken="no header: the file is empty, or begins with an empty line")
    names = _split(line, reader.options.get("sep", ","), reader.options.get("quote", '"'))
    return replace(file, columns=tuple(names), schema=repr(names))


def _split(line: str, separator: str, quote: str) -> list[str]:
    import csv

    if len(separator) != 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator, quotechar=quote or None))


def _text(schema: Any) -> str:
    """Schema of a Parquet file as Spark sees it: names, physical and logical types; not the writer's own notes."""
    columns = [schema.column(place) for place in range(len(schema))]
    return "; ".join(f"{each.path} {each.physical_type} {each.logical_type}" for each in columns)


def _open(file: RawFile, compressed: bool = False) -> Any:
    from pyarrow import fs

    url = re.sub(r"^s3[an]:", "s3:", file.url)
    if url.startswith("file:") or not re.match(r"^\w+:", url):
        system, path = fs.LocalFileSystem(), re.sub(r"^file:(//)?", "", url)
    else:
        system, path = fs.FileSystem.from_uri(url)
    return system.open_input_stream(path, compression="detect") if compressed else system.open_input_file(path)
