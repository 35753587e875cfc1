"""What came of a test: outcomes of users, such as purchases in the days after, by the arm that the table gave them.

Users are the unit that was drawn, so they are the unit that is counted: each has one number, the sum of his outcomes (0
without any), and the interval is that of a difference of two means with unequal variances (Welch 1947). Whether the
arms have the sizes that were meant is tested first: where they do not (a sample ratio mismatch), something loses users
of one arm, and the difference means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.dataset as ds
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.arms import ARM, A, B
from recsys_spark.errors import RecsysError
from recsys_spark.tables import Manifest, TableStore

MISMATCH = 0.001  # probability of the arms' sizes below which they are no chance


@dataclass(frozen=True)
class Side:
    """One arm's users, and the mean and variance of their outcomes."""

    users: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Side:
        """Of each user's outcome."""
        variance = float(values.var(ddof=1)) if len(values) > 1 else float("nan")
        return cls(len(values), float(values.mean()) if len(values) else float("nan"), variance)


def users_by_arm(store: TableStore, lists: Manifest) -> dict[str, str]:
    """Each user's arm.

    Raises
    ------
    RecsysError
        The lists are of no test, or of a night on which there was none.
    """
    paths = [store.storage.path(lists.path(each)) for each in lists.files]
    table = ds.dataset(paths, filesystem=store.storage.fs, format="parquet")
    if ARM not in table.schema.names or "arms" not in lists.extra:
        raise RecsysError(
            f"the lists of {lists.dt} are of no test",
            store.storage.url(lists.folder),
            "Set experiment.name; on a night without a champion, or whose model was held, there is no test either.",
        )
    rows = table.to_table(columns=[c.USER_ID, ARM], filter=pc.field(c.RANK) == 1)
    return dict(zip(rows[c.USER_ID].to_pylist(), rows[ARM].to_pylist(), strict=True))


def sizes_by_chance(a: int, b: int, share: float) -> float:
    """Probability of sizes at least as far from what was meant (chi-squared with one degree of freedom)."""
    from scipy.stats import chi2

    if not a + b:
        return 1.0
    meant = (a + b) * np.array([1 - share, share])
    return float(chi2.sf((((np.array([a, b]) - meant) ** 2) / meant).sum(), 1))


def difference(a: Side, b: Side, confidence: float) -> tuple[float, float, float]:
    """Mean of b less that of a, with its interval (Welch 1947)."""
    from scipy.stats import t

    parts = np.array([a.variance / a.users, b.variance / b.users])
    gap, error = b.mean - a.mean, float(np.sqrt(parts.sum()))
    if not error > 0:
        return gap, gap, gap
    freedom = parts.sum() ** 2 / (parts**2 / (np.array([a.users, b.users]) - 1)).sum()
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return gap, gap - reach, gap + reach


def read_outcomes(path: str, user: str, value: str | None) -> list[tuple[str, float]]:
    """Rows of a Parquet or CSV file or folder: a user's id, and a number (1 a row where no column is named).

    Raises
    ------
    RecsysError
        There is no such file or column, or a value is no number.
    """
    if not Path(path).exists():
        raise RecsysError("no such file", path, "Give a Parquet or CSV file, or a folder of them, with --outcomes.")
    kind = "csv" if path.endswith(".csv") or any(Path(path).glob("*.csv")) else "parquet"
    wanted = [user, *([] if value is None else [value])]
    try:
        table = ds.dataset(path, format=_as_text(user) if kind == "csv" else kind)
        missing = [name for name in wanted if name not in table.schema.names]
        if missing:
            raise RecsysError(f"no column '{missing[0]}'", path, f"Columns: {', '.join(table.schema.names)}.")
        rows = table.to_table(columns=wanted)
    except pa.ArrowException as error:
        raise RecsysError("cannot be read", path, str(error).splitlines()[0]) from error
    try:
        ids = rows[user].cast(pa.string()).to_pylist()
        numbers = [1.0] * len(ids) if value is None else rows[value].cast(pa.float64()).to_pylist()
    except pa.ArrowException as error:
        raise RecsysError(f"a value of '{value}' is no number", path, str(error).splitlines()[0]) from error
    if not all(number is None or isfinite(number) for number in numbers):
        raise RecsysError(f"a value of '{value}' is not finite", path, "One such number would be the mean of its arm.")
    pairs = zip(ids, numbers, strict=True)
    known = [(user_id, number) for user_id, number in pairs if user_id and number is not None]
    return [(_id_text(user_id, kind), number) for user_id, number in known]


def _as_text(user: str) -> ds.CsvFileFormat:
    """CSV whose column of ids is not taken for numbers: 007 is another user than 7."""
    return ds.CsvFileFormat(convert_options=csv.ConvertOptions(column_types={user: pa.string()}))


def _id_text(user_id: str, kind: str) -> str:
    """An id as cleaning writes it: without blanks around it, and in CSV, where nothing tells, 12.0 is 12."""
    text = user_id.strip(" ")
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text) if kind == "csv" else text


def outcomes_by_arm(arms: dict[str, str], outcomes: Iterable[tuple[str, float]]) -> tuple[dict[str, Side], int]:
    """Outcomes of each arm's users, and the number of rows whose user has no arm."""
    sums = dict.fromkeys(arms, 0.0)
    others = 0
    for user_id, number in outcomes:
        if user_id in sums:
            sums[user_id] += number
        else:
            others += 1
    sides = {
        arm: Side.of(np.array([number for user_id, number in sums.items() if arms[user_id] == arm])) for arm in (A, B)
    }
    return sides, others


def told(lists: Manifest, arms: dict[str, str], share: float) -> list[str]:
    """Lines on the arms themselves; ``share`` is of arm b by the settings, where the lists do not say what it was."""
    share = lists.extra.get("experiment", {}).get("share", share)
    counts = {arm: sum(each == arm for each in arms.values()) for arm in (A, B)}
    ways: dict[str, Any] = lists.extra["arms"]
    lines = [
        f"arm {arm}: {counts[arm]:>9,} users, {ways[arm]['model']}, made on {ways[arm]['models']['ranker']['dt']}"
        for arm in (A, B)
    ]
    chance = sizes_by_chance(counts[A], counts[B], share)
    if chance < MISMATCH:
        lines.append(
            f"The sizes are not those that were meant ({share:.0%} in b; p = {chance:.1g}): find out why first."
        )
    return lines


def compared(sides: dict[str, Side], others: int, confidence: float) -> list[str]:
    """Lines on the outcomes."""
    lines = [f"arm {arm}: {side.mean:.6g} a user" for arm, side in sides.items()]
    if min(side.users for side in sides.values()) < 2:
        return [*lines, "An arm has fewer than two users: there is nothing to compare."]
    gap, low, high = difference(sides[A], sides[B], confidence)
    sure = "surely more" if low > 0 else "surely less" if high < 0 else "no sure difference"
    part = f", {gap / sides[A].mean:+.1%}" if sides[A].mean else ""
    lines.append(f"b - a: {gap:+.6g}{part} ({confidence:.0%} interval {low:+.6g} to {high:+.6g}): {sure}")
    return [*lines, f"{others:,} rows are of users without an arm"] if others else lines
