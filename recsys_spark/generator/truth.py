"""What is true of a generated log: what cleaning must count, and what each user really likes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.generator.hashing import Floats
from recsys_spark.generator.rows import NO_DAY, Rows
from recsys_spark.generator.spec import LogSpec
from recsys_spark.generator.world import world_of
from recsys_spark.rules import DUPLICATES, KEPT, READ, WAITING
from recsys_spark.tables.storage import Storage

LEDGER = "truth/ledger.parquet"
SPEC = "truth/spec.json"
# Rules that are tried after after_date: a row of a later day never comes to them.
_AFTER_WAITING = {KEPT, *DUPLICATES, "value_range", "extreme_activity"}


class Count(NamedTuple):
    """Rows of a file with one label and one event day."""

    source_file: str
    file_day: int
    event_day: int
    rule: str
    rows: int


def count(path: str, file_day: int, rows: Rows, labels: Sequence[str]) -> list[Count]:
    """Count the rows of a file by event day and label."""
    pairs, numbers = np.unique(np.stack([rows.day.astype(np.int64), rows.rule]), axis=1, return_counts=True)
    return [
        Count(path, file_day, int(day), labels[code], int(number))
        for (day, code), number in zip(pairs.T, numbers, strict=True)
    ]


def write_truth(storage: Storage, spec: LogSpec, counts: Iterable[Count]) -> None:
    """Write the ledger and the spec."""
    storage.write_json(SPEC, asdict(spec))
    ordered = sorted(counts)
    table = pa.table(
        {
            c.SOURCE_FILE: pa.array([each.source_file for each in ordered], pa.string()),
            "file_day": pa.array([_day(spec, each.file_day) for each in ordered], pa.string()),
            "event_day": pa.array([_day(spec, each.event_day) for each in ordered], pa.string()),
            c.RULE: pa.array([each.rule for each in ordered], pa.string()),
            c.ROWS: pa.array([each.rows for each in ordered], pa.int64()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(LEDGER, sink.getvalue().to_pybytes())


def read_spec(out: str) -> LogSpec:
    """The spec of a generated log."""
    tree = Storage(out).read_json(SPEC)
    return LogSpec(**{**tree, "rates": tuple((name, share) for name, share in tree["rates"])})


def truth_ledger(out: str, night: str) -> dict[tuple[str, str], int]:
    """Counts of a first run with ``--date night``: all folders up to that day, none of it seen before.

    Parameters
    ----------
    out : str
        The log's root.
    night : str
        YYYY-MM-DD.

    Returns
    -------
    dict of (str, str) to int
        Rows by file (below events/) and rule, ``read`` and ``kept`` among the rules. Only an unreadable file has a
        count of 0.
    """
    table = pq.read_table(pa.BufferReader(Storage(out).read_bytes(LEDGER)))
    counts: Counter[tuple[str, str]] = Counter()
    for row in table.to_pylist():
        if row["file_day"] > night:
            continue
        waits = row[c.RULE] in _AFTER_WAITING and row["event_day"] > night
        counts[row[c.SOURCE_FILE], WAITING if waits else row[c.RULE]] += row[c.ROWS]
        counts[row[c.SOURCE_FILE], READ] += row[c.ROWS]
    return dict(counts)


def catalogue(out: str) -> list[str]:
    """All item ids, in the order of the columns of ``oracle_scores``."""
    spec = read_spec(out)
    return world_of(spec).item_names(np.arange(spec.items))


def oracle_scores(out: str, user_ids: Sequence[str], day: str) -> Floats:
    """Probability that an event of a user on a day is about an item: the ranking that nothing can beat.

    Parameters
    ----------
    out : str
        The log's root.
    user_ids : sequence of str
        U of them, as in the log.
    day : str
        YYYY-MM-DD; tastes drift, and new items join.

    Returns
    -------
    array U × items
        In the order of ``catalogue``; 0 for items that join later. For the hot user of a log with one: what the user
        likes, before its many rows of a minute are spread over other items.

    Raises
    ------
    RecsysError
        There is no such user.
    """
    spec = read_spec(out)
    world = world_of(spec)
    numbers = np.array([_number(each) for each in user_ids], np.int64)
    known = (numbers >= 0) & (numbers < spec.users)
    names = dict(zip(numbers[known].tolist(), world.user_names(numbers[known]), strict=True))
    strange = [each for each, number in zip(user_ids, numbers.tolist(), strict=True) if names.get(number) != each]
    if strange:
        raise RecsysError(f"no user is called {strange[0]!r}", out, f"See {out}/users.")
    return world.probabilities(numbers, (date.fromisoformat(day) - spec.start).days)


def _number(user_id: str) -> int:
    """Number of a user: hostile ids hold the plain one too."""
    found = re.search(r"u(\d{7,})", user_id)
    return int(found.group(1)) if found else -1


def _day(spec: LogSpec, day: int) -> str | None:
    return None if day == NO_DAY else spec.day_name(day)
