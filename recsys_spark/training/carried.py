"""Which row of an earlier night's embedding table each row of tonight's goes on from: by value, not by place.

Vocabularies only grow, so that a value usually keeps its code. But a night's table ends at the last code that it
knows, other settings of hashing move all codes, and a root may have been begun anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FIRST_CODE = 2  # 0 is "none", 1 "unseen", in every field
NOTHING = -1


@dataclass(frozen=True)
class Field:
    """A categorical field of a night.

    Parameters
    ----------
    size : int
        Rows of its table.
    kind : {"id", "number", "value"}
        Codes are indexes; or quantile buckets; or belong to values.
    values : dict of str to int
        Code in the table ``vocabularies`` of each value that the night knows.
    """

    size: int
    kind: Literal["id", "number", "value"]
    values: dict[str, int] = field(default_factory=dict)

    @property
    def hashed(self) -> int:
        """Codes before the first value's, which other values share by a hash."""
        return self.size - 1 - max(self.values.values(), default=FIRST_CODE - 1)


def carried(old: Field, new: Field) -> NDArray[np.int64]:
    """Row of the old table for each row of the new one, int64 [new.size]; ``NOTHING`` where there is none.

    The codes 0 and 1 mean the same everywhere. Ids go by their index; buckets of a number by their place among all;
    values by themselves, and hashed codes where there are as many of them. A value that the old night did not know has
    no row that was trained.
    """
    found = np.full(new.size, NOTHING, np.int64)
    if old.kind != new.kind:
        return found
    if new.kind == "id":
        same = min(old.size, new.size)
        found[:same] = np.arange(same)
        return found
    found[:FIRST_CODE] = np.arange(FIRST_CODE)
    buckets, others = new.size - FIRST_CODE, old.size - FIRST_CODE
    if new.kind == "number":
        if buckets > 0 and others > 0:
            found[FIRST_CODE:] = FIRST_CODE + (2 * np.arange(buckets) + 1) * others // (2 * buckets)
        return found
    if old.hashed == new.hashed:
        found[FIRST_CODE : FIRST_CODE + new.hashed] = np.arange(FIRST_CODE, FIRST_CODE + new.hashed)
    for value, code in new.values.items():
        if value in old.values:
            found[code + new.hashed] = old.values[value] + old.hashed
    return found


def carry(rows: NDArray[np.int64], sizes: NDArray[np.int64], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tonight's table, float32 [N, D]; a row that nothing is carried to is the mean of its field's rows.

    Parameters
    ----------
    rows : int64 [N]
        Row of the old table; -1 - f where there is none, f being the number of the field.
    sizes : int64 [F]
        Rows of each field in the old table.
    table : float32 [M, D]
        The old one.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    means = [table[min(start + 1, stop - 1) : stop].mean(axis=0) for start, stop in pairwise(starts.tolist())]
    found = table[np.maximum(rows, 0)]
    missing = np.flatnonzero(rows < 0)
    found[missing] = np.array(means, np.float32).reshape(len(sizes), -1)[-1 - rows[missing]]
    return found


def vocabulary_of(table: pa.Table) -> dict[tuple[str, str], dict[str, int]]:
    """Values that a night knows, by side and feature, from the rows of ``vocabularies``."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in table.select(["side", "feature", "value", "code", "entities"]).to_pylist():
        of_feature = found.setdefault((row["side"], row["feature"]), {})
        if row["entities"] > 0:
            of_feature[row["value"]] = row["code"]
    return found
