"""Files that have their size and not their content: what a crash of the machine, or a bad disk, leaves behind.

A run's manifest is written last, but a local disk may keep it and lose pages of the data before it. Such a run looks
complete. Cheap signs are looked for whenever a run is taken for finished or as an input; everything is read only when a
stage has failed for no known reason.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.errors import RecsysError
from recsys_spark.tables.manifest import FileEntry, Manifest
from recsys_spark.tables.schema import TABLES
from recsys_spark.tables.storage import Storage

if TYPE_CHECKING:
    from recsys_spark.tables.store import TableStore

_MAGIC = b"PAR1"
_ASIDE = "_torn.json"


def lacks_end(storage: Storage, path: str) -> bool:
    """Tell whether a Parquet file on a local disk does not end as one; object stores show whole files only."""
    if not storage.is_local or not path.endswith(".parquet"):
        return False
    with open(storage.path(path), "rb") as stream:
        return stream.seek(0, 2) < len(_MAGIC) or stream.seek(-len(_MAGIC), 2) < 0 or stream.read() != _MAGIC


def hash_files(storage: Storage, folder: str, files: list[FileEntry]) -> str:
    """Content hash of a table of files."""
    digest = hashlib.sha256()
    for each in files:
        digest.update(each.name.encode() + b"\0" + storage.read_bytes(f"{folder}/{each.name}"))
    return digest.hexdigest()[:32]


def other_files(storage: Storage, manifest: Manifest) -> bool:
    """Tell whether a run of a table of files, on a local disk, holds others than those that were sealed."""
    if not storage.is_local or TABLES[manifest.table].kind == "rows":
        return False
    return hash_files(storage, manifest.folder, manifest.files) != manifest.content_hash


def blame_inputs(store: TableStore, inputs: dict[str, Manifest]) -> None:
    """After a stage has failed for no known reason: read its inputs, and set a run aside that cannot be read.

    Without its manifest a run is not complete: the next run of its stage writes a new one.

    Raises
    ------
    RecsysError
        There is such a run.
    """
    for manifest in inputs.values():
        torn = [entry.name for entry in manifest.files if _is_torn(store.storage, manifest, entry)]
        if other_files(store.storage, manifest):
            torn = [entry.name for entry in manifest.files]
        if torn:
            path = f"{manifest.folder}/_manifest.json"
            store.storage.write_bytes(f"{manifest.folder}/{_ASIDE}", store.storage.read_bytes(path))
            store.storage.delete_file(path)
            raise RecsysError(
                f"{len(torn)} of {len(manifest.files)} files cannot be read, such as {torn[0]}",
                store.storage.url(manifest.folder),
                f"The run was set aside. Run again: the stage {manifest.stage} will write a new one.",
            )


def _is_torn(storage: Storage, manifest: Manifest, entry: FileEntry) -> bool:
    """Tell whether a file of rows is not what was written; one that cannot be fetched now is not torn."""
    path = manifest.path(entry)
    if TABLES[manifest.table].kind != "rows" or not storage.exists(path):
        return False
    content = storage.read_bytes(path)
    try:
        return bool(pq.ParquetFile(pa.BufferReader(content)).read().num_rows != entry.rows)
    except (pa.ArrowException, OSError):
        return True
