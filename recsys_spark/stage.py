"""What every stage is: a function from tables to tables, with the rules for doing it once.

A stage's function gets a ``Work`` and returns the manifests of what it wrote. Pointers are moved here, after the
function has ended well, never inside it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from recsys_spark import __version__
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.memory import PeakMemory
from recsys_spark.progress import say
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.pointer import pointer_path, read_pointer
from recsys_spark.tables.store import Stamp
from recsys_spark.tables.torn import blame_inputs
from recsys_spark.trouble import explain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_NOTED = 20  # earlier runs of a stage and day whose seconds are kept


@dataclass(frozen=True)
class Plan:
    """What decides the outputs of a stage.

    Parameters
    ----------
    settings : Settings
    store : TableStore
    dt : str
        The run's day, YYYY-MM-DD.
    stamp : Stamp
        Goes on everything that the stage writes.
    inputs : dict of str to Manifest
        The runs it reads, by table.
    """

    settings: Settings
    store: TableStore
    dt: str
    stamp: Stamp
    inputs: dict[str, Manifest]


@dataclass(frozen=True)
class Work(Plan):
    """What a stage's function is given: the plan, and the session that does it."""

    spark: SparkSession


@dataclass(frozen=True)
class Stage:
    """A step of the night.

    Parameters
    ----------
    name : str
        Sub-command and job name.
    does : str
        One line for ``--help``.
    run : callable
        ``Work`` to manifests, one for each output table.
    sections : tuple of str
        Settings that decide its result.
    inputs, outputs : tuple of str
        Tables.
    points : bool
        Whether readers see the outputs at once; the lists wait for ``publish``.
    always : bool
        Cheap and a check of the whole: done at every call.
    sources : callable, optional
        Facts about input outside the tables (raw files) that decide the result.
    also : callable, optional
        Further inputs that the settings ask for.
    unseen : dict of str to str
        Inputs that are read before readers see them, each with the stage whose finished run it is.
    seen_first : bool
        Of ``unseen`` the run that readers see is preferred, where there is one.
    enabled : callable, optional
        Whether the settings want the stage at all.
    """

    name: str
    does: str
    run: Callable[[Work], list[Manifest]]
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    points: bool = True
    sources: Callable[[SparkSession, Settings, str], object] | None = None
    always: bool = False
    also: Callable[[Settings], tuple[str, ...]] | None = None
    unseen: dict[str, str] = field(default_factory=dict)
    seen_first: bool = False
    enabled: Callable[[Settings], bool] | None = None


def new_run_id() -> str:
    """Sortable and unique: the time it was made and eight random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"


def run_stage(
    stage: Stage,
    spark: SparkSession,
    settings: Settings,
    dt: str,
    run_id: str | None = None,
    force: bool = False,
    token: int | None = None,
) -> dict[str, Manifest]:
    """Do a stage, or find it done, and let readers see its tables.

    Parameters
    ----------
    stage : Stage
    spark : SparkSession
    settings : Settings
    dt : str
        The run's day, YYYY-MM-DD.
    run_id : str, optional
        Name of the run folders; made here where it is not given.
    force : bool
        Do it again although nothing changed.
    token : int, optional
        Fencing token of the writer; see ``tables.fence``.

    Returns
    -------
    dict of str to Manifest
        The outputs, by table.
    """
    store = TableStore(settings.root)
    inputs = all_inputs(stage, spark, settings, dt)
    stamp = _stamp(stage, spark, settings, dt, run_id or new_run_id(), inputs)
    if not (force or stage.always):
        finished = {name: store.finished(name, dt, stamp.fingerprint) for name in stage.outputs}
        found_all = {name: each for name, each in finished.items() if each is not None}
        if len(found_all) == len(stage.outputs):
            say(f"{stage.name}: done before (run {', '.join(sorted({m.run_id for m in found_all.values()}))})")
            return _show(stage, store, found_all, token, force)
    say(f"{stage.name}: {stage.does}")
    started = time.monotonic()
    spark.sparkContext.setJobGroup(stage.name, stage.does)
    try:
        with PeakMemory() as memory:
            written = stage.run(Work(settings, store, dt, stamp, inputs, spark))
    except Exception as error:
        if explain(error, settings.root) in (None, error):
            blame_inputs(store, inputs)
        raise
    finally:
        spark.catalog.clearCache()
    outputs = _show(stage, store, {manifest.table: manifest for manifest in written}, token, force)
    seconds = time.monotonic() - started
    _note(store, stage, stamp, outputs, seconds, memory.mib)
    rows = ", ".join(f"{m.table} {m.rows:,}" for m in outputs.values() if m.rows)
    say(f"{stage.name}: {seconds:.1f} s · peak {memory.mib:,} MiB{' · rows: ' + rows if rows else ''}")
    return outputs


def finished(stage: Stage, spark: SparkSession, settings: Settings, dt: str) -> dict[str, Manifest]:
    """Complete outputs of a stage for the settings and inputs as they are now, whether readers see them or not."""
    store = TableStore(settings.root)
    stamp = _stamp(stage, spark, settings, dt, "", all_inputs(stage, spark, settings, dt))
    found = {name: store.finished(name, dt, stamp.fingerprint) for name in stage.outputs}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def all_inputs(stage: Stage, spark: SparkSession, settings: Settings, dt: str) -> dict[str, Manifest]:
    """Runs that a stage would read, with those that readers do not see yet."""
    from recsys_spark.pipeline import load_stage  # which knows all stages

    store = TableStore(settings.root)
    inputs = needed_inputs(stage, store, dt, settings)
    for table, writer in stage.unseen.items():
        found = store.current(table, dt) if stage.seen_first else None
        found = found or finished(load_stage(writer), spark, settings, dt).get(table)
        if found is None:
            raise RecsysError(
                f"no table '{table}' of these settings for {dt}", store.storage.url(table), f"Run the stage {writer}."
            )
        inputs[table] = found
    return inputs


def needed_inputs(stage: Stage, store: TableStore, dt: str, settings: Settings | None = None) -> dict[str, Manifest]:
    """Runs that a stage would read: those that readers of the day see, whole.

    Raises
    ------
    RecsysError
        One is missing or damaged.
    """
    also = stage.also(settings) if stage.also and settings else ()
    inputs = {name: store.need(name, dt) for name in (*stage.inputs, *also)}
    for manifest in inputs.values():
        damaged = store.damage(manifest)
        if damaged:
            raise RecsysError(
                f"{len(damaged)} of {len(manifest.files)} files are missing or changed, such as {damaged[0]}",
                store.storage.url(manifest.folder),
                f"Run the stage {manifest.stage} again: it will see the damage and write a new run.",
            )
    return inputs


def _stamp(
    stage: Stage, spark: SparkSession, settings: Settings, dt: str, run_id: str, inputs: dict[str, Manifest]
) -> Stamp:
    sources = stage.sources(spark, settings, dt) if stage.sources else None
    settings_hash = settings.section_hash(*stage.sections)
    contents = {name: manifest.content_hash for name, manifest in inputs.items()}
    decides = [stage.name, dt, settings_hash, contents, sources, __version__, settings.buckets]
    fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:32]
    runs = {name: manifest.run_id for name, manifest in inputs.items()}
    return Stamp(dt, run_id, stage.name, fingerprint, settings_hash, __version__, runs)


def _show(
    stage: Stage, store: TableStore, outputs: dict[str, Manifest], token: int | None, force: bool
) -> dict[str, Manifest]:
    if stage.points:
        for manifest in outputs.values():
            try:
                pointer = read_pointer(store.storage, manifest.table, manifest.dt)
            except RecsysError:
                pointer = None  # a damaged pointer is mended by the next good run
            if pointer is not None and pointer.run_id == manifest.run_id:
                continue
            if pointer is not None and manifest.content_hash in pointer.refused and not force:
                raise RecsysError(
                    f"run {manifest.run_id} has the content that was rolled back",
                    store.storage.url(pointer_path(manifest.table, manifest.dt)),
                    "Change what it was made from; or, to show it all the same, use --force.",
                )
            store.point(manifest, token)
    return outputs


def _note(
    store: TableStore, stage: Stage, stamp: Stamp, outputs: dict[str, Manifest], seconds: float, peak_mib: int
) -> None:
    """Keep time and memory of the stage for the report; they are figures of a run, not of a table."""
    path = f"_stages/dt={stamp.dt}/{stage.name}.json"
    store.storage.write_json(
        path,
        {
            "earlier": _earlier(store, path),
            "stage": stage.name,
            "run_id": stamp.run_id,
            "seconds": round(seconds, 1),
            "peak_mib": peak_mib,
            "rows": {name: manifest.rows for name, manifest in outputs.items()},
        },
    )


def _earlier(store: TableStore, path: str) -> dict[str, float]:
    """Seconds of the runs before, by run, from the note that is about to be replaced."""
    try:
        before = store.storage.read_json(path) if store.storage.exists(path) else {}
        seconds = {**before.get("earlier", {}), before["run_id"]: before["seconds"]}
    except (RecsysError, AttributeError, KeyError, TypeError):
        return {}
    return dict(list(seconds.items())[-_NOTED:])
