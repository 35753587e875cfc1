"""Ground floor: what tables there are, where their runs lie, and which run readers see."""

from recsys_spark.tables.manifest import FileEntry, Manifest
from recsys_spark.tables.schema import TABLES, TableSpec
from recsys_spark.tables.store import TableStore

__all__ = ["TABLES", "FileEntry", "Manifest", "TableSpec", "TableStore"]
