"""Outcomes of a test, by arm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rooted import DT, Root
from scipy.stats import ttest_ind

from recsys_spark.errors import RecsysError
from recsys_spark.operating.arms import (
    Side,
    compared,
    difference,
    outcomes_by_arm,
    read_outcomes,
    sizes_by_chance,
    told,
)

ARMS = {f"u{number}": "ab"[number % 2] for number in range(400)}


def test_the_interval_is_that_of_welch() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.exponential(1.0, 300), draw.exponential(1.4, 120)
    gap, low, high = difference(Side.of(a), Side.of(b), 0.9)
    wanted = ttest_ind(b, a, equal_var=False).confidence_interval(0.9)
    assert gap == pytest.approx(b.mean() - a.mean())
    assert (low, high) == pytest.approx((wanted.low, wanted.high))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, held = np.random.default_rng(2), 0
    for _ in range(400):
        a, b = draw.poisson(0.5, 400).astype(float), draw.poisson(0.7, 200).astype(float)
        _, low, high = difference(Side.of(a), Side.of(b), 0.95)
        held += low <= 0.2 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_users_without_an_outcome_count_as_0_and_others_do_not_count() -> None:
    sides, others = outcomes_by_arm(ARMS, [("u0", 3.0), ("u0", 1.0), ("u1", 2.0), ("nobody", 9.0)])
    assert others == 1
    assert (sides["a"].users, sides["b"].users) == (200, 200)
    assert (sides["a"].mean, sides["b"].mean) == pytest.approx((4 / 200, 2 / 200))


def test_what_is_told() -> None:
    many = [(user, 5.0 + (number % 3)) for number, user in enumerate(ARMS) if ARMS[user] == "b"]
    lines = compared(outcomes_by_arm(ARMS, many)[0], 0, 0.95)
    assert "surely more" in lines[2]
    same = [(user, float(number % 4 < 2)) for number, user in enumerate(ARMS)]
    assert "no sure difference" in compared(outcomes_by_arm(ARMS, same)[0], 0, 0.95)[2]
    few = outcomes_by_arm({"u0": "a", "u1": "b"}, [])[0]
    assert "nothing to compare" in compared(few, 0, 0.95)[2]
    none = outcomes_by_arm(ARMS, [])[0]
    assert difference(none["a"], none["b"], 0.95) == (0.0, 0.0, 0.0)


def test_arms_of_other_sizes_than_were_meant() -> None:
    assert sizes_by_chance(5_000, 5_050, 0.5) > 0.1
    assert sizes_by_chance(5_000, 5_500, 0.5) < 0.001
    assert sizes_by_chance(9_000, 1_000, 0.1) > 0.9
    assert sizes_by_chance(0, 0, 0.5) == 1.0


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_outcomes_are_read(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"who": [1, 2, None, 1], "spent": [2.5, None, 1.0, 4.0]}).astype({"who": "Int64"})
    path = str(tmp_path / f"x.{kind}")
    frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    assert read_outcomes(path, "who", "spent") == [("1", 2.5), ("1", 4.0)]
    assert read_outcomes(path, "who", None) == [("1", 1.0), ("2", 1.0), ("1", 1.0)]
    with pytest.raises(RecsysError, match=r"no column 'paid'.*Columns: who, spent"):
        read_outcomes(path, "who", "paid")
    with pytest.raises(RecsysError, match="no such file"):
        read_outcomes(str(tmp_path / "y"), "who", None)


def test_a_value_that_is_no_number(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    pd.DataFrame({"who": ["1"], "spent": ["much"]}).to_parquet(path)
    with pytest.raises(RecsysError, match="a value of 'spent' is no number"):
        read_outcomes(path, "who", "spent")


def test_ids_are_those_that_cleaning_writes(tmp_path: Path) -> None:
    """In CSV 007 is not 7, though both could be numbers; 12.0 is 12, as in the log."""
    path = tmp_path / "x.csv"
    path.write_text("who,spent\n007,1\n7,2\n12.0,3\n 8 ,4\n,5\n")
    assert read_outcomes(str(path), "who", "spent") == [("007", 1.0), ("7", 2.0), ("12", 3.0), ("8", 4.0)]
    path.write_text("who,spent\n007,1\n012,2\n")  # no row tells that these are no numbers
    assert read_outcomes(str(path), "who", "spent") == [("007", 1.0), ("012", 2.0)]
    pd.DataFrame({"who": [12.0, None], "spent": [1, 2]}).to_parquet(tmp_path / "x.parquet")
    assert read_outcomes(str(tmp_path / "x.parquet"), "who", "spent") == [("12", 1.0)]


def test_outcomes_that_cannot_be_added_up(tmp_path: Path) -> None:
    """One NaN would be the mean of its whole arm, and tell of no difference."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"who": ["1", "2"], "spent": [1.0, float("nan")]}), path)
    with pytest.raises(RecsysError, match="a value of 'spent' is not finite"):
        read_outcomes(str(path), "who", "spent")
    pq.write_table(pa.table({"who": ["1"], "spent": [[1.0]]}), path)
    with pytest.raises(RecsysError, match="a value of 'spent' is no number"):
        read_outcomes(str(path), "who", "spent")
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(RecsysError, match="cannot be read"):
        read_outcomes(str(path), "who", "spent")


def test_sizes_are_held_against_the_share_of_the_night(tmp_path: Path) -> None:
    """A test that began with a tenth of the users and has half of them by now."""
    models = {"ranker": {"dt": "2024-03-09"}}
    ways = {arm: {"model": name, "models": models} for arm, name in (("a", "champion"), ("b", "tonight"))}
    arms = {f"u{number}": "b" if number < 1_000 else "a" for number in range(10_000)}
    root = Root(tmp_path)
    then = root.write("top_n", DT, "then", "score", {}, extra={"arms": ways, "experiment": {"share": 0.1}})
    assert len(told(then, arms, 0.5)) == 2
    before_it_was_noted = root.write("top_n", DT, "early", "score", {}, extra={"arms": ways})
    assert "not those that were meant (50% in b" in told(before_it_was_noted, arms, 0.5)[-1]
