"""Every run below a root: what it is, who sees it, what it cost, and its main figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys_spark.errors import RecsysError
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.champion import training_of
from recsys_spark.tables.manifest import run_folder
from recsys_spark.tables.pointer import Pointer, read_pointer
from recsys_spark.tables.store import MANIFEST

CURRENT, COMPLETE, TORN, DAMAGED, REFUSED = "current", "complete", "torn", "damaged", "rolled back"
_COLUMNS = ("date", "run", "table", "state", "stage", "rows", "seconds", "figures")


@dataclass(frozen=True)
class Run:
    """A run folder of a table.

    ``state`` is ``current`` (readers of the day see it), ``complete`` (whole, and not shown), ``rolled back`` (whole,
    and a person has turned it down), ``damaged`` (sealed, but files are missing or changed) or ``torn`` (begun and
    never sealed). ``seconds`` are those of the stage, where they were noted; ``figures`` are what is worth a look.
    """

    date: str
    run: str
    table: str
    state: str
    stage: str = ""
    rows: int = 0
    seconds: float | None = None
    figures: str = ""


def list_runs(store: TableStore, tables: list[str] | None = None, days: list[str] | None = None) -> list[Run]:
    """Runs of some tables and days, the newest day first; of a day, in the order of the tables and of their making."""
    found: list[Run] = []
    for table in TABLES:
        if tables is None or table in tables:
            for dt in store.days(table):
                if days is None or dt in days:
                    found += _of_day(store, table, dt)
    place = {name: number for number, name in enumerate(TABLES)}
    found.sort(key=lambda run: (place[run.table], run.run))
    return sorted(found, key=lambda run: run.date, reverse=True)


def _of_day(store: TableStore, table: str, dt: str) -> list[Run]:
    try:
        pointer = read_pointer(store.storage, table, dt) or Pointer(None)
    except RecsysError:
        pointer = Pointer(None)
    runs = []
    for name in store.storage.names(f"{table}/dt={dt}", "folder"):
        run_id = name.removeprefix("run=")
        manifest = sealed(store, table, dt, run_id)
        if manifest is None:
            runs.append(Run(dt, run_id, table, TORN))
            continue
        state = CURRENT if pointer.run_id == run_id else COMPLETE
        if store.damage(manifest):
            state = DAMAGED
        elif state == COMPLETE and manifest.content_hash in pointer.refused:
            state = REFUSED
        seconds = _seconds(store, manifest)
        runs.append(Run(dt, run_id, table, state, manifest.stage, manifest.rows, seconds, _figures(store, manifest)))
    return runs


def sealed(store: TableStore, table: str, dt: str, run_id: str) -> Manifest | None:
    """Manifest of a run folder; None where it was never sealed, or its manifest cannot be read."""
    if not store.storage.exists(f"{run_folder(table, dt, run_id)}/{MANIFEST}"):
        return None
    try:
        return store.manifest(table, dt, run_id)
    except RecsysError:
        return None


def _seconds(store: TableStore, manifest: Manifest) -> float | None:
    path = f"_stages/dt={manifest.dt}/{manifest.stage}.json"
    try:
        note: dict[str, Any] = store.storage.read_json(path) if store.storage.exists(path) else {}
        if note.get("run_id") == manifest.run_id:
            return float(note["seconds"])
        return note.get("earlier", {}).get(manifest.run_id)
    except (RecsysError, AttributeError, KeyError, TypeError):
        return None


def _figures(store: TableStore, manifest: Manifest) -> str:
    """What a person wants to see of a run: the lists' quality beside the best plain row, or the outcome of a check."""
    if manifest.table == "metrics":
        return _quality(store, manifest)
    return training_of(manifest) or str(manifest.extra.get("says", ""))


def _quality(store: TableStore, manifest: Manifest) -> str:
    try:
        rows = read_parquet(store.storage, manifest.folder).to_pylist()
    except (OSError, ValueError, RecsysError):
        return ""
    ndcg = [row for row in rows if row["metric"] == "ndcg" and row["slice"] in ("all", "new")]
    if not ndcg:
        return ""
    k = min(row["k"] for row in ndcg)
    best = {(row["slice"], row["model"]): row["value"] for row in ndcg if row["k"] == k}
    told = [f"{part} {best[part, 'ranker']:.4f}" for part in ("all", "new") if (part, "ranker") in best]
    return f"NDCG@{k}: {', '.join(told)}" if told else ""


def as_text(runs: list[Run]) -> str:
    """The runs as a table for a terminal."""
    rows = [list(_COLUMNS)]
    for each in runs:
        seconds = "–" if each.seconds is None else f"{each.seconds:.1f}"
        rows.append([each.date, each.run, each.table, each.state, each.stage, f"{each.rows:,}", seconds, each.figures])
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    numbers = {_COLUMNS.index("rows"), _COLUMNS.index("seconds")}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_values(runs: list[Run]) -> list[dict[str, Any]]:
    """The runs as plain values, for JSON."""
    return [asdict(each) for each in runs]
