"""Append-only ids: an id keeps its index for ever; new ids get the next ones, and none is handed out twice.

Every id table holds all that were before it, whichever day it belongs to (a back-fill extends the newest). Its manifest
says where it ends (``next_index``) and what it extends (``base``: a run). Which table is the longest is kept beside
them, so that a night reads the pointers of two days and not of all:

    <root>/user_ids/_head.json      {"dt", "run_id", "next_index", "base", "base_next_index"} of the newest extension

A run takes the head when its table is written (``take_head``), and checks that it still has it when all its work is
done (``check_head``). Of two runs that extend one table at the same time, one is refused, should the writer lock have
failed. A run that died leaves a head whose table no reader sees; then all days are looked at, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.layout import index_size, with_positions

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_HEAD = "_head.json"


def longest(store: TableStore, table: str, own: str = "") -> Manifest | None:
    """The id table that all others are a beginning of: the one whose ``next_index`` is greatest.

    It may be of a later day than the run's (a back-fill), so that old days never move an index.

    Parameters
    ----------
    store : TableStore
    table : str
    own : str, optional
        Day whose table is about to be written: where it is torn, it is left out and made anew from the one before it.
        A torn table of any other day is an error: others may hold the indexes that it handed out.
    """
    head = _read_head(store, table)
    days = [dt for dt in store.days(table) if dt != own or _is_whole(store, table, dt)]
    told = "" if head is None else str(head.get("dt"))
    seen = _seen(store, table, told) if told in days else None
    if head is not None and seen is not None and seen.run_id == head.get("run_id"):
        newest = next((found for dt in reversed(days) if (found := store.current(table, dt)) is not None), seen)
        return max(seen, newest, key=_length)
    # no head, or one that no reader sees
    current = [found for dt in days if (found := store.current(table, dt)) is not None]
    return max(current, key=_length, default=None)


def start_of(store: TableStore, table: str, base: Manifest | None) -> int:
    """First index that was never handed out.

    Usually where the longest table ends; further on where a table that was longer still is gone with its day.
    """
    head = _read_head(store, table) or {}
    settled = int(head.get("base_next_index", c.FIRST_INDEX))
    return max(settled, c.FIRST_INDEX if base is None else index_size(base))


def assign(
    ids: DataFrame, known: DataFrame | None, name: str, start: int | None = None, forgotten: DataFrame | None = None
) -> DataFrame:
    """Extend an id table.

    Parameters
    ----------
    ids : DataFrame
        Column ``name``: ids that must have an index; may repeat and hold known ones.
    known : DataFrame or None
        Columns ``index``, ``name`` of the table so far.
    name : str
        ``user_id`` or ``item_id``.
    start : int, optional
        First index to hand out; by default the one after the greatest known.
    forgotten : DataFrame, optional
        Column ``name``: ids that must not be in the result, known or not. Their indexes stay unused for ever.

    Returns
    -------
    DataFrame
        Columns ``index`` (int) and ``name``: known rows as they were, new ids after them in the order of their text.
    """
    from pyspark.sql import functions as F

    distinct = ids.select(name).distinct()
    if start is None:
        last = None if known is None else known.agg(F.max(c.INDEX).alias("last")).collect()[0]["last"]
        start = (last or c.UNKNOWN_INDEX) + 1
    if known is not None:
        known = known.select(c.INDEX, name)
        distinct = distinct.join(known, on=name, how="left_anti")
    if forgotten is not None:
        distinct = distinct.join(forgotten.select(name), on=name, how="left_anti")
        known = None if known is None else known.join(forgotten.select(name), on=name, how="left_anti")
    new = with_positions(distinct, [name], c.INDEX, start).select(F.col(c.INDEX).cast("int").alias(c.INDEX), name)
    return new if known is None else known.select(c.INDEX, name).unionByName(new)


def facts(extended: DataFrame, base: Manifest | None, start: int) -> dict[str, Any]:
    """For the manifest's ``extra``: where the table ends and which run it extends."""
    from pyspark.sql import functions as F

    last = extended.agg(F.max(c.INDEX).alias("last")).collect()[0]["last"] or c.UNKNOWN_INDEX
    return {"next_index": max(start, last + 1), "base": None if base is None else base.run_id}


def take_head(store: TableStore, written: Manifest, base: Manifest | None) -> None:
    """Say that a written table is now the longest.

    Raises
    ------
    RecsysError
        Readers see a longer table than the one that it extends.
    """
    now = longest(store, written.table, written.dt)
    if (now and (now.dt, now.run_id)) != (base and (base.dt, base.run_id)):
        raise _overtaken(store, written, now.run_id if now else "none")
    head = {
        "dt": written.dt,
        "run_id": written.run_id,
        "next_index": index_size(written),
        "base": None if base is None else base.run_id,
        "base_next_index": c.FIRST_INDEX if base is None else index_size(base),
    }
    store.storage.write_json(f"{written.table}/{_HEAD}", head)


def check_head(store: TableStore, written: Manifest) -> None:
    """Make sure, before readers see a table, that no other run has extended the same base meanwhile.

    Raises
    ------
    RecsysError
        Another run has.
    """
    head = _read_head(store, written.table) or {}
    if head.get("run_id") != written.run_id:
        raise _overtaken(store, written, str(head.get("run_id")))
    # another run may have taken the head and shown its table before we took it
    now = longest(store, written.table, written.dt)
    if now and now.run_id != written.run_id and now.run_id != head.get("base"):
        raise _overtaken(store, written, now.run_id)


def bucket_of(user_id: str, buckets: int) -> Column:
    """Stable bucket of a user id: XXH64 of its UTF-8 text, modulo the root's number of buckets."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(user_id), F.lit(buckets)).cast("int").alias(c.USER_BUCKET)


def fix_buckets(store: TableStore, buckets: int) -> int | None:
    """Settle the root's number of buckets at its first run; returns the settled number if it is another one."""
    path = "_root.json"
    if store.storage.create_bytes(path, b'{"buckets": %d}\n' % buckets):
        return None
    content = store.storage.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("buckets"), int):
        hint = f'Write {{"buckets": N}} with the number that this root was begun with (now asked for: {buckets}).'
        raise RecsysError("the number of buckets cannot be read", store.storage.url(path), hint)
    settled = content["buckets"]
    return None if settled == buckets else settled


def read_known(spark: SparkSession, store: TableStore, table: str) -> DataFrame | None:
    """Rows of the longest id table."""
    found = longest(store, table)
    return None if found is None else store.read(spark, found)


def _length(manifest: Manifest) -> tuple[int, str, str]:
    """Order of id tables; of equally long ones the one made last, which may have forgotten somebody."""
    return index_size(manifest), manifest.created_at, manifest.run_id


def _read_head(store: TableStore, table: str) -> dict[str, Any] | None:
    path = f"{table}/{_HEAD}"
    if not store.storage.exists(path):
        return None
    head = store.storage.read_json(path)
    return head if isinstance(head, dict) else None


def _seen(store: TableStore, table: str, dt: str) -> Manifest | None:
    """Table that readers of a day see; a damaged one is none here."""
    try:
        return store.current(table, dt)
    except RecsysError:
        return None


def _is_whole(store: TableStore, table: str, dt: str) -> bool:
    found = _seen(store, table, dt)
    return found is not None and not store.damage(found)


def _overtaken(store: TableStore, written: Manifest, other: str) -> RecsysError:
    return RecsysError(
        f"run {other} has extended the ids since run {written.run_id} read them",
        store.storage.url(f"{written.table}/{_HEAD}"),
        "Two runs wrote to this root at once. Nothing of this one is shown to readers; run it again.",
    )
