"""Which runs may be deleted, and deleting them.

A run is kept where any of these is so, whatever the settings:

* readers of a day that is kept see it, or it is the newest day's;
* a run that is kept names it as an input, or names files in its folder (tables in parts), or names it as a model that
  its lists were made by;
* an id table, or the vocabularies, go on from it;
* it was made less than ``retention.grace_hours`` ago: a reader may still be in it.

Beyond that, a day keeps its ``keep_runs`` newest complete runs of a table, and a table its ``keep_days`` newest days.
Run folders that were never sealed are deleted too, after the grace: the caller holds the writer's lock, so that
nobody is still writing them. So are checkpoints of a training that nobody has gone on with for a week.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pyarrow import fs

from recsys_spark.config import Retention
from recsys_spark.errors import RecsysError
from recsys_spark.operating.runs import sealed
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.manifest import run_folder
from recsys_spark.tables.pointer import pointer_path, read_pointer

Key = tuple[str, str, str]  # table, day, run
_ID_TABLES = ("user_ids", "item_ids", "vocabularies")  # what codes and indexes go on from
_CHECKPOINTS = "_checkpoints"
_JOBS = "_jobs"
_GONE_ON_WITH = timedelta(days=7)  # of a training that broke off


@dataclass
class Clearing:
    """What may go.

    Parameters
    ----------
    runs : list of (table, day, run)
        Folders.
    pointers : list of (table, day)
        Of days that are older than all that is kept: deleted before their runs.
    kept : set of (table, day, run)
    bytes : int
        That the deleted runs' manifests name.
    checkpoints : list of str
        Folders of trainings that nobody has gone on with, relative to the root.
    """

    runs: list[Key] = field(default_factory=list)
    pointers: list[tuple[str, str]] = field(default_factory=list)
    kept: set[Key] = field(default_factory=set)
    bytes: int = 0
    checkpoints: list[str] = field(default_factory=list)


def plan_clearing(store: TableStore, retention: Retention, now: datetime | None = None) -> Clearing:
    """Find what may be deleted; nothing is touched.

    Raises
    ------
    RecsysError
        A pointer is damaged: what it named cannot be known, so nothing may be deleted.
    """
    if retention.keep_runs is None and retention.keep_days is None:
        return Clearing()
    found, now = _Found.of(store), now or datetime.now(UTC)
    clearing = Clearing(kept=_needed(found, _wanted(found, retention, now)))
    folders = [f"{_CHECKPOINTS}/{name}" for name in store.storage.names(_CHECKPOINTS, "folder")]
    clearing.checkpoints = [each for each in folders if _changed(store, each, now) < now - _GONE_ON_WITH]
    for key in sorted(found.folders - clearing.kept):
        clearing.runs.append(key)
        manifest = found.manifests.get(key)
        clearing.bytes += manifest.bytes if manifest else 0
    kept_days = {(table, dt) for table, dt, _ in found.wanted_pointers(retention)}
    clearing.pointers = sorted({(table, dt) for table, dt, _ in found.pointed} - kept_days)
    return clearing


def clear(store: TableStore, clearing: Clearing) -> None:
    """Delete: pointers of old days first, so that no reader is sent to a run that is half gone."""
    for table, dt in clearing.pointers:
        store.storage.delete_file(pointer_path(table, dt))
    for table, dt, run_id in clearing.runs:
        folder = run_folder(table, dt, run_id)
        store.storage.delete_file(f"{folder}/_manifest.json")  # first: from here on the run is not complete
        store.storage.delete_folder(folder)
        if not store.storage.names(f"{table}/dt={dt}"):
            store.storage.delete_folder(f"{table}/dt={dt}")
    for folder in clearing.checkpoints:
        store.storage.delete_folder(folder)


def clear_scratch(store: TableStore) -> None:
    """Delete what stages that were killed have left on their way; the caller holds the lock: nobody works on it."""
    for name in store.storage.names(_JOBS, "folder"):
        store.storage.delete_folder(f"{_JOBS}/{name}")


@dataclass
class _Found:
    """Everything below a root, read once."""

    folders: set[Key]
    manifests: dict[Key, Manifest]
    pointed: set[Key]
    heads: set[Key]

    @classmethod
    def of(cls, store: TableStore) -> _Found:
        folders: set[Key] = set()
        pointed: set[Key] = set()
        for table in TABLES:
            for dt in store.days(table):
                names = store.storage.names(f"{table}/dt={dt}", "folder")
                folders |= {(table, dt, name.removeprefix("run=")) for name in names if name.startswith("run=")}
                pointer = read_pointer(store.storage, table, dt)
                if pointer is not None:
                    pointed.add((table, dt, pointer.run_id or ""))
        manifests = {key: found for key in folders if (found := sealed(store, *key)) is not None}
        heads = {key for table in _ID_TABLES if (key := _head(store, table)) is not None}
        return cls(folders, manifests, pointed, heads)

    def days(self, table: str) -> list[str]:
        """Days of a table that readers see, the oldest first."""
        return sorted({dt for name, dt, run_id in self.pointed if name == table and run_id})

    def wanted_pointers(self, retention: Retention) -> Iterator[Key]:
        """Pointers that stay: those of the days that are young enough, and of each id table's longest."""
        held = {(table, dt) for table, dt, _ in self.heads}
        for key in self.pointed:
            if _is_young(key[1], self.days(key[0]), retention.keep_days) or key[:2] in held:
                yield key


def _wanted(found: _Found, retention: Retention, now: datetime) -> set[Key]:
    """Runs that are kept for themselves."""
    wanted = {*found.wanted_pointers(retention), *found.heads}
    since = now - timedelta(hours=retention.grace_hours)
    of_day: dict[tuple[str, str], list[Manifest]] = {}
    for key, manifest in found.manifests.items():
        of_day.setdefault(key[:2], []).append(manifest)
    for (table, dt), manifests in of_day.items():
        if _is_young(dt, found.days(table), retention.keep_days):
            newest = sorted(manifests, key=lambda each: (each.created_at, each.run_id), reverse=True)
            wanted |= {(table, dt, each.run_id) for each in newest[: retention.keep_runs]}
    wanted |= {key for key in found.folders if _began(key[2], found.manifests.get(key)) > since}
    return {key for key in wanted if key in found.folders}


def _needed(found: _Found, wanted: set[Key]) -> set[Key]:
    """The wanted runs, all that they are made of, and the folders that hold their files."""
    needed, waiting, holding = set(wanted), list(wanted), set()
    while waiting:
        manifest = found.manifests.get(waiting.pop())
        if manifest is None:
            continue
        holding |= _holding(manifest)
        new = _inputs(manifest) & found.folders - needed
        needed |= new
        waiting += new
    return needed | holding & found.folders


def _inputs(manifest: Manifest) -> set[Key]:
    """Runs that a run was made from."""
    models: dict[str, Any] = manifest.extra.get("models", {})
    of_day = {(table, manifest.dt, run_id) for table, run_id in manifest.inputs.items()}
    return of_day | {(table, of["dt"], of["run_id"]) for table, of in models.items()}


def _holding(manifest: Manifest) -> set[Key]:
    """Earlier runs whose folders hold some of its files. What else those runs name is not needed for that."""
    parts = [folder.split("/") for folder in manifest.folders[1:]]
    return {(table, dt.removeprefix("dt="), run_id.removeprefix("run=")) for table, dt, run_id in parts}


def _is_young(dt: str, days: list[str], keep_days: int | None) -> bool:
    """Among the last ``keep_days`` days until the newest one that readers see; a newer one is always young."""
    if keep_days is None or not days:
        return True
    return date.fromisoformat(dt) > date.fromisoformat(days[-1]) - timedelta(days=keep_days)


def _began(run_id: str, manifest: Manifest | None) -> datetime:
    """When a run was sealed, else what its name says; one that says nothing is old."""
    if manifest is not None:
        return datetime.fromisoformat(manifest.created_at)
    try:
        return datetime.strptime(run_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _changed(store: TableStore, folder: str, now: datetime) -> datetime:
    """When a file of a folder was last written; now, where nothing tells."""
    infos = store.storage.fs.get_file_info(fs.FileSelector(store.storage.path(folder), recursive=True))
    return max((info.mtime for info in infos if info.mtime is not None), default=now)


def _head(store: TableStore, table: str) -> Key | None:
    path = f"{table}/_head.json"
    if not store.storage.exists(path):
        return None
    try:
        head = store.storage.read_json(path)
        return table, str(head["dt"]), str(head["run_id"])
    except (RecsysError, KeyError, TypeError):
        return None
