"""What a finished run of a table says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class FileEntry:
    """One file of a run: its name below the run's folder, size in bytes, and rows (0 where it holds no rows).

    ``folder`` is the folder, relative to the root, of the earlier run that wrote the file, where it is not this run's
    own: a table in parts names what did not change instead of writing it again.
    """

    name: str
    bytes: int
    rows: int = 0
    folder: str = ""


@dataclass(frozen=True)
class Manifest:
    """Content of ``_manifest.json``.

    ``fingerprint`` is a hash of all that decides the table (date, settings of its stage, content of its inputs,
    code version): a stage whose outputs carry the fingerprint it would write has nothing to do.
    ``content_hash`` depends on the rows only, in no order, so that two roots, or a laptop and a cluster, compare.
    """

    table: str
    dt: str
    run_id: str
    stage: str
    rows: int
    bytes: int
    content_hash: str
    schema: str
    fingerprint: str
    inputs: dict[str, str]
    settings_hash: str
    code_version: str
    created_at: str
    files: list[FileEntry] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Run folder, relative to the root."""
        return run_folder(self.table, self.dt, self.run_id)

    def path(self, entry: FileEntry) -> str:
        """Path of one of its files, relative to the root."""
        return f"{entry.folder or self.folder}/{entry.name}"

    @property
    def folders(self) -> list[str]:
        """All folders that hold its files, relative to the root, its own first."""
        return [self.folder, *sorted({each.folder for each in self.files if each.folder})]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Manifest:
        """Read back what ``to_json`` gave."""
        return cls(**{**values, "files": [FileEntry(**each) for each in values["files"]]})


def run_folder(table: str, dt: str, run_id: str) -> str:
    """Folder of one run, relative to the root."""
    return f"{table}/dt={dt}/run={run_id}"
