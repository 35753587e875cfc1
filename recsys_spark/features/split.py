"""Which event belongs to which window of the night, for all kinds of split.

Cuts, histories, item statistics, training pairs and labels know times only. So an event of a split that is not one in
time gets a *stand-in time* inside the window that it was put into, and nothing downstream needs to know of kinds:

    kind time               t ──────────────────────────────▶ t            (nothing moves)

    window 0, train         ├──── all of the log ────┤                     moved back by the length of all label
                     ◀──────┘                                              windows: days stay days, the past the past

    window k, a label       ├──── all of the log ────┤                     the log's whole time, pressed into the
    window                         └──▶ ├─┤ ◀──┘                           window: the order stays, days do not

           train (0)          ranker_1 (1)    ranker_2 (2)    valid (3)       test (4)
    ───────────────────────┼───────────────┼───────────────┼───────────────┼──────────┤ end of the run's day

Within a window no event overtakes another; those that fall on one second stand in the order of their items. How events
are put into windows:

* ``leave_last_out``: a user's last event is the test window's, the last but one the validation window's, those before
  it go one by one to the ranker's other windows, the rest to train. Events of one second: the greater item index last.
* ``random``: by a hash of user id, item id, time and ``split.seed``, so an event stays where it is in every root and
  night. Shares: ``test_share`` for test, ``valid_share`` for valid and each of the ranker's other windows.
* ``column``: ``train``, ``valid`` and ``test`` as ``interactions.split`` says. The ranker's other windows are taken
  from the train rows: ``valid_share`` of them each, by the hash of kind random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.config import Split
from recsys_spark.cuts import Cut
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

WINDOW = "window"
TRAIN = "train"
_SHARES = ("train", "valid", "test")  # values of the column
_HASH_BITS = 40


@dataclass(frozen=True)
class Windows:
    """Windows of a night: 0 is train, 1 … are the label windows, the test window last.

    Parameters
    ----------
    kind : str
        See ``Split``.
    oldest : int
        Time of the log's first event, seconds since 1970-01-01 UTC.
    labels : tuple of Cut
        Label windows, the oldest first.
    """

    kind: str
    oldest: int
    labels: tuple[Cut, ...]

    @classmethod
    def of(cls, kind: str, oldest: int, all_cuts: list[Cut]) -> Windows:
        """Windows of a night's cuts; the last cut has no labels."""
        return cls(kind, oldest, tuple(all_cuts[:-1]))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each window: split of the examples."""
        return (TRAIN, *[each.name for each in self.labels])

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Start and end (exclusive) of each window, in seconds."""
        return ((0, self.labels[0].time), *[(each.time, each.until) for each in self.labels])

    def by_place(self, from_end: NDArray[np.int64]) -> NDArray[np.int8]:
        """Window of an event by its place in its user's history, 0 being the last (kind leave_last_out)."""
        return np.maximum(len(self.labels) - from_end, 0).astype(np.int8)

    def stand_in(self, time: NDArray[np.int64], window: NDArray[np.int8]) -> NDArray[np.int64]:
        """Time inside the window, int64 [E], in the order of the times given."""
        if self.kind == "time":
            return time
        end, first = self.labels[-1].until, self.labels[0].time
        moved = np.clip(time - (end - first), 0, first - 1)
        length = max(1, end - self.oldest)
        for number, label in enumerate(self.labels, start=1):
            mine = window == number
            place = np.clip(time[mine] - self.oldest, 0, length - 1)
            moved[mine] = label.time + place * (label.until - label.time) // length
        return moved


def window_column(split: Split, windows: Windows) -> Column | None:
    """Window of a row of ``interactions`` where the row alone tells it (kinds random and column), as tinyint."""
    from pyspark.sql import functions as F

    test = len(windows.labels)
    if split.kind not in ("random", "column"):
        return None
    seconds = F.unix_micros(c.EVENT_TIME)
    hashed = F.xxhash64(F.lit("split"), F.lit(split.seed), c.USER_ID, c.ITEM_ID, seconds)
    drawn = F.pmod(hashed, F.lit(1 << _HASH_BITS)) / F.lit(float(1 << _HASH_BITS))
    others = [(number, split.valid_share) for number in range(test - 2, 0, -1)]
    if split.kind == "random":
        return _by_share(drawn, [(test, split.test_share), (test - 1, split.valid_share), *others])
    named = F.when(F.col(c.SPLIT) == "test", test).when(F.col(c.SPLIT) == "valid", test - 1)
    return named.otherwise(_by_share(drawn, others)).cast("tinyint")


def with_window(events: DataFrame, split: Split, windows: Windows) -> DataFrame:
    """Events with the number of their window (tinyint), for any kind of split; no time is moved.

    Parameters
    ----------
    events : DataFrame
        Rows of ``interactions`` with ``user_index`` and ``item_index``.
    split : Split
    windows : Windows
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    window = window_column(split, windows)
    if split.kind == "leave_last_out":
        newest = [F.col(name).desc() for name in (c.EVENT_TIME, c.ITEM_INDEX, c.WEIGHT)]
        from_end = F.row_number().over(Window.partitionBy(c.USER_INDEX).orderBy(*newest)) - 1
        window = F.greatest(F.lit(len(windows.labels)) - from_end, F.lit(0))
    elif window is None:
        second = F.unix_seconds(c.EVENT_TIME)
        window = sum(((second >= each.time).cast("int") for each in windows.labels), F.lit(0))
    return events.withColumn(WINDOW, window.cast("tinyint"))


def _by_share(drawn: Column, shares: list[tuple[int, float]]) -> Column:
    """First window whose shares, summed so far, exceed the number drawn from [0, 1); else train."""
    from pyspark.sql import functions as F

    chosen, total = F.lit(None).cast("int"), 0.0
    for number, share in shares:
        total += share
        chosen = F.coalesce(chosen, F.when(drawn < total, F.lit(number)))
    return F.coalesce(chosen, F.lit(0)).cast("tinyint")


def check_column(interactions: DataFrame) -> None:
    """Refuse a log whose rows do not all say which part they belong to (kind column).

    Raises
    ------
    RecsysError
        The column is not there, or holds something else.
    """
    from pyspark.sql import functions as F

    hint = f"Give each row one of {', '.join(_SHARES)}, or choose another kind of split."
    if c.SPLIT not in interactions.columns:
        raise RecsysError("the log names no column for it", "setting 'split.kind' = column", hint)
    value = F.col(c.SPLIT)
    bad = interactions.where(value.isNull() | ~value.isin(*_SHARES)).select(value).limit(1).collect()
    if bad:
        raise RecsysError(f"a row says {bad[0][0]!r}", "table 'interactions', column 'split'", hint)
