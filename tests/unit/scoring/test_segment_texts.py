"""Segments in words."""

from __future__ import annotations

import pyarrow as pa

from recsys_spark.scoring.prepare.segments import texts_of


def test_the_codes_of_values_come_after_the_hashed_ones() -> None:
    """Else a segment had the name of another value, and two of them might have one name."""
    table = pa.table({"feature": ["town", "town", "age"], "value": ["Ayr", "Bath", "old"], "code": [2, 3, 2]})
    found = texts_of(table, {"town": 8})
    assert found == {("town", 10): "Ayr", ("town", 11): "Bath", ("age", 2): "old"}
