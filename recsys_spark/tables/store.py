"""Runs of tables: write to a folder of one's own, check what was written, then move the pointer.

<root>/<table>/dt=YYYY-MM-DD/run=<run id>/part-*.parquet   written once, never changed
<root>/<table>/dt=YYYY-MM-DD/run=<run id>/_manifest.json   written last: without it the run is not complete
<root>/<table>/dt=YYYY-MM-DD/_current.json                 which run readers see; replaced in one step
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from recsys_spark.errors import RecsysError
from recsys_spark.tables.content import content as content_of
from recsys_spark.tables.content import content_digest, schema_text
from recsys_spark.tables.manifest import FileEntry, Manifest, run_folder
from recsys_spark.tables.pointer import move_pointer, read_pointer
from recsys_spark.tables.schema import TABLES
from recsys_spark.tables.storage import Storage
from recsys_spark.tables.torn import hash_files, lacks_end, noted, other_files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Stamp:
    """What a stage knows of its outputs before it writes them; see ``Manifest`` for the meaning."""

    dt: str
    run_id: str
    stage: str
    fingerprint: str
    settings_hash: str
    code_version: str
    inputs: dict[str, str]


class TableStore:
    """All tables below one root.

    Parameters
    ----------
    root : str
        A path or URI; see ``Storage``.
    """

    def __init__(self, root: str) -> None:
        self.storage = Storage(root)

    # ------------------------------------------------------------ reading
    def current(self, table: str, dt: str) -> Manifest | None:
        """Manifest of the run that readers of a day see; None before the first one, and where it was withdrawn."""
        pointer = read_pointer(self.storage, table, dt)
        return None if pointer is None or pointer.run_id is None else self.manifest(table, dt, pointer.run_id)

    def manifest(self, table: str, dt: str, run_id: str) -> Manifest:
        """Manifest of a complete run.

        Raises
        ------
        RecsysError
            The run is not complete.
        """
        path = f"{run_folder(table, dt, run_id)}/{MANIFEST}"
        if not self.storage.exists(path):
            raise RecsysError("the run is not complete", self.storage.url(path), "Run the stage again.")
        try:
            return Manifest.from_json(self.storage.read_json(path))
        except (AttributeError, KeyError, TypeError) as error:
            raise RecsysError("no manifest of a run", self.storage.url(path), "Delete it and run again.") from error

    def need(self, table: str, dt: str) -> Manifest:
        """Manifest of the current run of a day, which must be there."""
        found = self.current(table, dt)
        if found is None:
            raise RecsysError(
                f"no table '{table}' for {dt}",
                self.storage.url(table),
                f"Run the stage that writes it first, or 'recsys-spark run --date {dt}'.",
            )
        return found

    def runs(self, table: str, dt: str) -> list[Manifest]:
        """Complete runs of a day, the oldest first."""
        folder = f"{table}/dt={dt}"
        ids = [name.removeprefix("run=") for name in self.storage.names(folder, "folder")]
        found = []
        for run_id in ids:
            try:
                found.append(self.manifest(table, dt, run_id))
            except RecsysError:
                continue  # begun and never finished, or damaged
        return sorted(found, key=lambda manifest: (manifest.created_at, manifest.run_id))

    def finished(self, table: str, dt: str, fingerprint: str) -> Manifest | None:
        """Complete run that carries a fingerprint: the current one if it does, else the newest that does."""
        try:
            current = self.current(table, dt)
        except RecsysError:
            current = None  # a damaged pointer or run: another run may serve, or the stage is done again
        runs = [*self.runs(table, dt), *([current] if current is not None else [])]
        matching = (each for each in reversed(runs) if each.fingerprint == fingerprint)
        return next((each for each in matching if not (self.damage(each) or other_files(self.storage, each))), None)

    def damage(self, manifest: Manifest) -> list[str]:
        """Files of a run that are missing, have another size than its manifest says, or are torn; see ``torn``."""
        there = {f"{folder}/{name}": size for folder in manifest.folders for name, size in self.storage.files(folder)}
        torn = {path for folder in manifest.folders for path in noted(self.storage, folder)}

        def is_whole(path: str, size: int) -> bool:
            return there.get(path) == size and path not in torn and not lacks_end(self.storage, path)

        return [entry.name for entry in manifest.files if not is_whole(manifest.path(entry), entry.bytes)]

    def days(self, table: str) -> list[str]:
        """Days that have a folder, the oldest first."""
        return sorted(name.removeprefix("dt=") for name in self.storage.names(table, "folder"))

    def latest(self, table: str, until: str | None = None) -> Manifest | None:
        """Newest day's current run, at or before ``until``."""
        for dt in reversed([day for day in self.days(table) if until is None or day <= until]):
            found = self.current(table, dt)
            if found is not None:
                return found
        return None

    def latest_readable(self, table: str, until: str) -> Manifest | None:
        """As ``latest``, past days whose pointer or manifest is damaged: for what is only compared with, or begun with.

        Nobody writes the tables of a day that is over again, so that a night would fail of them until somebody comes.
        """
        for dt in reversed([day for day in self.days(table) if day <= until]):
            with suppress(RecsysError):
                if (found := self.current(table, dt)) is not None:
                    return found
        return None

    def read(self, spark: SparkSession, manifest: Manifest) -> DataFrame:
        """Rows of one run, as Spark sees them; the folder's names add no columns."""
        if len(manifest.folders) == 1:
            return spark.read.option("recursiveFileLookup", "true").parquet(self.storage.url(manifest.folder))
        return self.read_files(spark, manifest, manifest.files)

    def read_files(self, spark: SparkSession, manifest: Manifest, files: list[FileEntry]) -> DataFrame:
        """Rows of some files of a run."""
        holding = sorted({self.storage.url(manifest.path(each)).rpartition("/")[0] for each in files})
        return spark.read.option("recursiveFileLookup", "true").parquet(*holding)

    def read_part(self, spark: SparkSession, manifest: Manifest, part: str) -> DataFrame:
        """Rows of one sub-folder of a run, such as ``split=train``."""
        return spark.read.parquet(self.storage.url(f"{manifest.folder}/{part}"))

    def file_urls(self, manifest: Manifest, part: str = "") -> list[str]:
        """URLs of a run's data files below a sub-folder, in order of name."""
        return [self.storage.url(manifest.path(f)) for f in manifest.files if f.name.startswith(part)]

    # ------------------------------------------------------------ writing
    def folder(self, table: str, stamp: Stamp) -> str:
        """Run folder that a stage writes to, relative to the root."""
        return run_folder(table, stamp.dt, stamp.run_id)

    def write(
        self,
        frame: DataFrame,
        table: str,
        stamp: Stamp,
        expected_rows: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Manifest:
        """Write rows, read them back, and seal the run; the pointer stays where it is. See ``seal`` and ``parts``.

        Raises
        ------
        RecsysError
            The table's schema is not what its spec says, or the rows read back are not the rows written.
        """
        check_schema(frame, table)
        folder = self.folder(table, stamp)
        frame.write.mode("overwrite").parquet(self.storage.url(folder))
        return self.seal(frame.sparkSession, table, stamp, expected_rows, extra)

    def seal(
        self,
        spark: SparkSession | None,
        table: str,
        stamp: Stamp,
        expected_rows: int | None = None,
        extra: dict[str, Any] | None = None,
        content: int | None = None,
    ) -> Manifest:
        """Check a written run folder and write its manifest, which makes the run complete.

        Parameters
        ----------
        spark : SparkSession or None
            Reads rows back; not needed for a table of files.
        expected_rows : int, optional
            Rows that the writer counted.
        extra : dict, optional
            Facts that the next stage needs, kept in the manifest.
        content : int, optional
            Sum of the rows' hashes by a definition of the writer's own. The rows are not read back then, but for their
            numbers in the files' footers.
        """
        folder = self.folder(table, stamp)
        rows, files = 0, [FileEntry(name, size) for name, size in self.storage.files(folder)]
        if TABLES[table].kind == "rows":
            files = [self.with_rows(folder, each) for each in files]
            rows = sum(each.rows for each in files)
            if spark is None:
                raise ValueError("a table of rows is read back by Spark")
            back = spark.read.option("recursiveFileLookup", "true").parquet(self.storage.url(folder))
            schema, (counted, total) = schema_text(back), content_of(back) if content is None else (rows, content)
            content_hash = content_digest(counted, total, schema)
            meant = rows if expected_rows is None else expected_rows
            if not meant == counted == rows:
                raise RecsysError(
                    f"{meant} rows were meant, the footers say {rows} and {counted} can be read",
                    self.storage.url(folder),
                    "Nothing was published; check the storage and run the stage again.",
                )
        else:
            schema, content_hash = "", hash_files(self.storage, folder, files)
        return self.complete(table, stamp, files, rows, schema, content_hash, extra or {})

    def complete(
        self,
        table: str,
        stamp: Stamp,
        files: list[FileEntry],
        rows: int,
        schema: str,
        content_hash: str,
        extra: dict[str, Any],
    ) -> Manifest:
        """Write the manifest of a run whose files were checked: from here on it can be read."""
        manifest = Manifest(
            table=table,
            dt=stamp.dt,
            run_id=stamp.run_id,
            stage=stamp.stage,
            rows=rows,
            bytes=sum(each.bytes for each in files),
            content_hash=content_hash,
            schema=schema,
            fingerprint=stamp.fingerprint,
            inputs=stamp.inputs,
            settings_hash=stamp.settings_hash,
            code_version=stamp.code_version,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            files=files,
            extra=extra,
        )
        self.storage.write_json(f"{manifest.folder}/{MANIFEST}", manifest.to_json())
        return manifest

    def point(self, manifest: Manifest, token: int | None = None) -> None:
        """Let readers of the manifest's day see its run, in one step; see ``pointer``."""
        shown = manifest.content_hash
        move_pointer(self.storage, manifest.table, manifest.dt, manifest.run_id, token, shown=shown)

    def with_rows(self, folder: str, entry: FileEntry) -> FileEntry:
        """Entry of a Parquet file with the rows that its footer names."""
        with self.storage.fs.open_input_file(self.storage.path(f"{folder}/{entry.name}")) as stream:
            return FileEntry(entry.name, entry.bytes, pq.ParquetFile(stream).metadata.num_rows)


def check_schema(frame: DataFrame, table: str) -> None:
    """Refuse a frame whose columns are not what the table's spec says."""
    wanted, optional = TABLES[table].schema, TABLES[table].optional
    if not wanted:
        return
    have = schema_text(frame)
    asked = ", ".join([wanted, *[each for each in optional if each.split()[0] in frame.columns]])
    if have != asked:
        raise RecsysError(f"columns are ({have})", f"table '{table}'", f"They must be ({wanted}): a fault of the code.")
