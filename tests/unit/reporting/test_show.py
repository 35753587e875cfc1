from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from small_night import DT, SCRIPT, WorkFactory

from recsys_spark.errors import RecsysError
from recsys_spark.reporting.show import show_user
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession


def test_history_and_list_in_words(spark: SparkSession, night: TableStore) -> None:
    assert show_user(spark, night, "ann").splitlines() == [
        "User ann: Ann, 45-54",
        "4 events with 2 items, 2024-03-01 to 2024-03-07",
        "",
        "Most often",
        f"     3×  {SCRIPT} (last on 2024-03-07)",
        "     1×  red \ufffd[31malert \ufffdgnirts (last on 2024-03-05)",
        "",
        "Newest",
        f"  2024-03-07  {SCRIPT}",
        "  2024-03-05  red \ufffd[31malert \ufffdgnirts",
        "",
        f"List of {DT}",
        f"   1. {SCRIPT} — had it 3 times, last 3 days ago",
        "   2. Tea & Co — new, fits the taste",
    ]


def test_the_verb_comes_from_the_only_event_type(spark: SparkSession, night: TableStore, work: WorkFactory) -> None:
    two = work().settings  # view and buy
    one = two.model_copy(update={"events": {"purchase": 1.0}})
    odd = two.model_copy(update={"events": {"frobnicate": 1.0}})
    assert "bought once, 1 day ago" in show_user(spark, night, "bob<i>", settings=one)
    assert "had it once, 1 day ago" in show_user(spark, night, "bob<i>", DT, two)
    assert "had it once, 1 day ago" in show_user(spark, night, "bob<i>", DT, odd)


def test_a_user_without_history(spark: SparkSession, night: TableStore, work: WorkFactory) -> None:
    text = show_user(spark, night, "cold", settings=work().settings)
    assert text.splitlines()[:2] == ["User cold", "No history."]
    assert "popular: 1,234 events in the last 28 days" in text


def test_an_item_without_a_name_is_its_id(spark: SparkSession, night: TableStore) -> None:
    assert "1. i3 — " in show_user(spark, night, "bob<i>")


def test_an_unknown_user_gets_near_ids(spark: SparkSession, night: TableStore) -> None:
    with pytest.raises(RecsysError, match=r"no user 'anna'\. Near ids: 'ann'"):
        show_user(spark, night, "anna")


def test_a_hostile_id_is_only_text(spark: SparkSession, night: TableStore) -> None:
    with pytest.raises(RecsysError, match="no user"):
        show_user(spark, night, "x' OR 1=1 -- \x1b[2J")


def test_nothing_published(spark: SparkSession, night: TableStore, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="no lists are published"):
        show_user(spark, TableStore(str(tmp_path)), "ann")
    with pytest.raises(RecsysError, match="no table 'top_n' for 2001-01-01"):
        show_user(spark, night, "ann", "2001-01-01")
