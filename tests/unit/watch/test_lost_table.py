"""A table of items or users that comes without any row."""

from __future__ import annotations

from recsys_spark.config import Watch
from recsys_spark.watch.checks import table_checks
from recsys_spark.watch.profile import ITEMS, LISTS, fold

BEFORE = fold(
    [(ITEMS, "2024-03-09", "", "rows", "", 900.0), (ITEMS, "2024-03-09", "attribute_brand", "category", "x", 900.0)]
)


def test_a_table_that_has_lost_all_its_rows_is_told() -> None:
    (check,) = table_checks(ITEMS, {}, [BEFORE, BEFORE], Watch())
    assert (check.name, check.source, check.failed) == ("volume", ITEMS, True)
    assert check.says == "0 rows, 0% of the usual 900 (median of 2)"


def test_a_table_that_there_never_was_is_not_missed() -> None:
    assert list(table_checks(ITEMS, {}, [], Watch())) == []
    assert list(table_checks(LISTS, {}, [BEFORE], Watch())) == []
