"""A part of the examples: the newest rows, and a share of the others that follows from the rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.streaming.window import Columns
from recsys_spark.tables.histories import uniform
from recsys_spark.tables.storage import Storage


@dataclass(frozen=True)
class Sample:
    """Which rows of a file belong to it; the same ones whoever reads them, in whatever order.

    Parameters
    ----------
    share : float
        Of the rows, drawn by user, item and salt.
    salt : int
        Another one draws others.
    since : int, optional
        Seconds; rows of this time or later all belong to it.
    """

    share: float
    salt: int
    since: int | None = None

    @property
    def columns(self) -> list[str]:
        """Columns that it looks at."""
        return [c.USER_INDEX, c.ITEM_INDEX, *([] if self.since is None else [c.TIME])]

    def mask(self, rows: Columns) -> NDArray[np.bool_]:
        """Rows that belong to it, bool [B]."""
        drawn: NDArray[np.bool_] = self._draws(rows) < self.share
        return drawn if self.since is None else drawn | (rows[c.TIME].astype(np.int64) >= self.since)

    def take(self, rows: Columns) -> Columns:
        """Those rows."""
        mask = self.mask(rows)
        return {name: values[mask] for name, values in rows.items()}

    def _draws(self, rows: Columns) -> NDArray[np.float64]:
        return uniform(rows[c.USER_INDEX].astype(np.int32), rows[c.ITEM_INDEX].astype(np.int64), self.salt)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def count(storage: Storage, paths: Iterable[str], samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Rows of each file that belong to each of some samples of one salt and share; a file is read once.

    Parameters
    ----------
    storage : Storage
    paths : iterable of str
        Relative to the root.
    samples : sequence of Sample
    """
    names = sorted({name for each in samples for name in each.columns})
    found = {}
    for path in paths:
        with storage.fs.open_input_file(storage.path(path)) as stream:
            table = pq.read_table(stream, columns=names)
        rows: Columns = {name: table[name].to_numpy() for name in names}
        found[path] = [int(each.mask(rows).sum()) for each in samples]
    return found
