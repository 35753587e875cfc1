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

_CHUNK = 1 << 24  # bytes read at a time
_MAGIC = b"PAR1"
_NOTE = "_torn.json"  # in a run's folder: its files that cannot be read, by name with the time of their last change


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
        digest.update(each.name.encode() + b"\0")
        with storage.fs.open_input_stream(storage.path(f"{folder}/{each.name}")) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:32]


def other_files(storage: Storage, manifest: Manifest) -> bool:
    """Tell whether a run of a table of files, on a local disk, holds others than those that were sealed."""
    if not storage.is_local or TABLES[manifest.table].kind == "rows":
        return False
    return hash_files(storage, manifest.folder, manifest.files) != manifest.content_hash


def noted(storage: Storage, folder: str) -> set[str]:
    """Paths of a run folder's files that a stage could not read, and that nobody has put back since."""
    path = f"{folder}/{_NOTE}"
    if not storage.exists(path):
        return set()
    then = {f"{folder}/{name}": changed for name, changed in storage.read_json(path).items()}
    return {each for each, changed in then.items() if _changed(storage, each) == changed}


def blame_inputs(store: TableStore, inputs: dict[str, Manifest]) -> None:
    """After a stage has failed for no known reason: read its inputs, and note the files that cannot be read.

    ``TableStore.damage`` names them from then on, so that the next run of their stage writes new ones.

    Raises
    ------
    RecsysError
        There are such files.
    """
    storage = store.storage
    for manifest in inputs.values():
        if other_files(storage, manifest):
            torn = list(manifest.files)
        else:
            torn = [entry for entry in manifest.files if _is_torn(storage, manifest, entry)]
        for folder in manifest.folders:
            names = [entry.name for entry in torn if (entry.folder or manifest.folder) == folder]
            if names:
                storage.write_json(f"{folder}/{_NOTE}", {name: _changed(storage, f"{folder}/{name}") for name in names})
        if torn:
            raise RecsysError(
                f"{len(torn)} of {len(manifest.files)} files cannot be read, such as {torn[0].name}",
                storage.url(manifest.folder),
                f"That is noted: run the stage {manifest.stage} again (or the night), and it will write a new run.",
            )


def _changed(storage: Storage, path: str) -> int | None:
    """When a file was last changed, in nanoseconds; None where it is gone, or its store does not tell."""
    changed: int | None = storage.fs.get_file_info(storage.path(path)).mtime_ns
    return changed


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
