"""Rows to Arrow tables: ids as dictionaries, times and values as they are wanted in the log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_spark.generator.hashing import Ints, hex_ids
from recsys_spark.generator.names import BROKEN_IDS, DEVICES, EVENT_TYPES, UNKNOWN_TYPES
from recsys_spark.generator.plan import FilePlan
from recsys_spark.generator.rows import (
    BAD_TIMES,
    BAD_VALUE,
    BAD_VALUES,
    BOT,
    BROKEN,
    ISO_OFFSET,
    ISO_Z,
    MILLISECONDS,
    NO_TIME,
    NO_VALUE,
    NULL,
    SECONDS,
    Rows,
)
from recsys_spark.generator.world import World

HOUR = 3_600 * 1_000_000


def to_table(world: World, file: FilePlan, rows: Rows) -> pa.Table:
    """Columns of the log: typed in Parquet without ``text``, all strings otherwise."""
    spec = world.spec
    number = np.uint64(file.number << 24)  # no file has 2^24 rows

    def sessions(codes: Ints) -> pa.Array:
        return hex_ids("s", spec.seed, codes.astype(np.uint64) + number)

    def users(codes: Ints) -> pa.Array:
        return _names(codes, world.user_names, f"bot-{file.cell_day}-{file.part}-")

    typed = not spec.text and spec.log_format == "parquet"
    columns = {
        "event_id": hex_ids("e", spec.seed, rows.key.astype(np.uint64) + number),
        "user_id": _coded(rows.user, users),
        "item_id": _coded(rows.item, lambda codes: _names(codes, world.item_names, "")),
        "event_type": _coded(rows.kind, lambda codes: pa.array(EVENT_TYPES + UNKNOWN_TYPES).take(pa.array(codes))),
        "event_time": _typed_times(rows) if typed else _text_times(rows),
        "value": _typed_values(rows) if typed else _text_values(rows),
        "session_id": _coded(rows.session, sessions),
        "device": pa.DictionaryArray.from_arrays(pa.array(rows.device), pa.array(DEVICES)),
    }
    return pa.table(columns)


def _coded(codes: Ints, name: Callable[[Ints], pa.Array]) -> pa.DictionaryArray:
    """Dictionary of the names of the codes that are there; the code NULL is null."""
    low = int(codes.min())
    seen = np.zeros(int(codes.max()) - low + 1, bool)
    seen[codes - low] = True
    place = (np.cumsum(seen) - 1).astype(np.int32)
    missing = codes == NULL if low < 0 else None
    values = np.flatnonzero(seen) + low
    if missing is None:
        return pa.DictionaryArray.from_arrays(pa.array(place[codes - low]), name(values))
    shift = np.cumsum(values == NULL)[place].astype(np.int32)  # null has no entry in the dictionary
    indices = np.maximum(place - shift, 0)[codes - low]
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=missing), name(values[values != NULL]))


def _names(codes: Ints, name: Callable[[Ints], list[str]], bot: str) -> pa.Array:
    """Ids: of bots, broken ones, and those of the world; codes are sorted."""
    bots = [f"{bot}{BOT - code}" for code in codes[codes <= BOT].tolist()]
    broken = [BROKEN_IDS[BROKEN - code] for code in codes[(codes > BOT) & (codes <= BROKEN)].tolist()]
    return pa.array(bots + broken + name(codes[codes >= 0]), pa.string())


def _typed_times(rows: Rows) -> pa.Array:
    missing = rows.time == NO_TIME
    return pa.array(rows.time, pa.timestamp("us", "UTC"), mask=missing if missing.any() else None)


def _typed_values(rows: Rows) -> pa.Array:
    return pa.array(rows.value, pa.float64(), mask=rows.value_form == NO_VALUE)


def _text_times(rows: Rows) -> pa.Array:
    """Each time in its form; unreadable texts where the time stands for one."""
    good = rows.time > NO_TIME + len(BAD_TIMES)
    form = np.where(good, rows.form, -1)
    order = np.argsort(form, kind="stable")
    ends = np.searchsorted(form[order], np.arange(-1, MILLISECONDS + 2))
    bad = pa.array([None, *BAD_TIMES], pa.string()).take(pa.array(rows.time[order[: ends[1]]] - NO_TIME))
    parts = [bad]
    for number, begin, end in zip(range(MILLISECONDS + 1), ends[1:], ends[2:], strict=False):
        parts.append(_times_in_form(rows.time[order[begin:end]], number))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_arrays(parts).take(pa.array(back))


def _times_in_form(time: Ints, form: int) -> pa.Array:
    if form in (SECONDS, MILLISECONDS):
        return pa.array(time // (1_000_000 if form == SECONDS else 1_000)).cast(pa.string())
    pattern = {ISO_Z: "%Y-%m-%dT%H:%M:%SZ", ISO_OFFSET: "%Y-%m-%dT%H:%M:%S+02:00"}.get(form, "%Y-%m-%d %H:%M:%S")
    local = time + (2 * HOUR if form == ISO_OFFSET else 0)
    return pc.strftime(pa.array(local, pa.timestamp("us")), format=pattern)


def _text_values(rows: Rows) -> pa.Array:
    """Numbers as text, NaN and Infinity by these names, unreadable texts, nulls."""
    text = pa.array(rows.value).cast(pa.string())
    special = pa.array(["NaN", "Infinity", "-Infinity", *BAD_VALUES])
    choice = np.full(len(rows), -1)
    choice[np.isnan(rows.value)] = 0
    choice[rows.value == np.inf] = 1
    choice[rows.value == -np.inf] = 2
    bad = rows.value_form >= BAD_VALUE
    choice[bad] = 3 + rows.value_form[bad] - BAD_VALUE
    text = pc.if_else(pa.array(choice < 0), text, special.take(pa.array(np.maximum(choice, 0))))
    return pc.if_else(pa.array(rows.value_form == NO_VALUE), pa.scalar(None, pa.string()), text)
