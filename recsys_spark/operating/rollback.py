"""Going back: readers of a day see an earlier run again, or the day before."""

from __future__ import annotations

from dataclasses import dataclass

from recsys_spark.errors import RecsysError
from recsys_spark.operating.runs import sealed
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.lock import writer_lock
from recsys_spark.tables.pointer import Pointer, move_pointer, read_pointer


@dataclass(frozen=True)
class Rolled:
    """What readers of a day saw and see now (None: nothing), and what readers of the newest day see."""

    before: Manifest | None
    now: Manifest | None
    newest: Manifest | None


def roll_back(store: TableStore, table: str, dt: str, to: str | None = None, withdraw: bool = False) -> Rolled:
    """Point readers of a day at an earlier run, or, with ``withdraw``, at none.

    The content that readers saw until now is refused from then on: a night that is done again does not bring it back.

    Parameters
    ----------
    store : TableStore
    table, dt : str
    to : str, optional
        Run; by default the newest whole one that was made before the one that readers see, and that they have seen.
    withdraw : bool
        The day has no table any more, so that readers of the newest day see the day before.

    Raises
    ------
    RecsysError
        There is no such table or run, or it is not whole; somebody else holds the root's lock.
    """
    if table not in TABLES:
        raise RecsysError(f"no table '{table}'", "--table", f"Tables: {', '.join(TABLES)}.")
    with writer_lock(store.storage, run_id="rollback") as lease:
        before = _seen(store, table, dt)
        target = None if withdraw else _target(store, table, dt, to, before)
        refused = (
            before.content_hash if before and (target is None or target.content_hash != before.content_hash) else ""
        )
        if (target and target.run_id) != (before and before.run_id):
            run_id, shown = (target.run_id, target.content_hash) if target else (None, "")
            move_pointer(store.storage, table, dt, run_id, lease.token, refused, shown)
        newest = max(store.days(table), default=dt)
        return Rolled(before, target, store.latest_readable(table, newest))


def _seen(store: TableStore, table: str, dt: str) -> Manifest | None:
    """Run that readers see; None also where its pointer or manifest is damaged: going back mends that."""
    try:
        return store.current(table, dt)
    except RecsysError:
        return None


def _target(store: TableStore, table: str, dt: str, to: str | None, before: Manifest | None) -> Manifest:
    where = store.storage.url(f"{table}/dt={dt}")
    runs = store.runs(table, dt)
    if to is not None:
        found = sealed(store, table, dt, to)
        if found is None:
            ids = ", ".join(each.run_id for each in runs) or "none"
            raise RecsysError(f"no complete run '{to}'", where, f"Complete runs: {ids}.")
        if damaged := store.damage(found):
            raise RecsysError(
                f"{len(damaged)} files of run '{to}' are missing or changed", where, "Choose another run."
            )
        return found
    pointer = _pointer(store, table, dt)
    earlier = [each for each in runs if before is None or _made(each) < _made(before)]
    for each in reversed(earlier):
        was_seen = pointer is None or each.run_id in pointer.earlier
        if was_seen and each.content_hash not in (pointer.refused if pointer else ()) and not store.damage(each):
            return each
    raise RecsysError(
        f"no earlier complete run that readers saw before {before.run_id if before else 'it was withdrawn'}",
        where,
        "Runs that they never saw (a check held them) are shown by --to. With --withdraw the day has no table, and "
        "readers of the newest day see the day before.",
    )


def _pointer(store: TableStore, table: str, dt: str) -> Pointer | None:
    """What is known of a day; None where its pointer is damaged, and nobody knows any more which runs were shown."""
    try:
        return read_pointer(store.storage, table, dt) or Pointer(None)
    except RecsysError:
        return None


def _made(manifest: Manifest) -> tuple[str, str]:
    return manifest.created_at, manifest.run_id
