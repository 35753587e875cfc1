"""Raw columns to typed ones: what cannot be read as what it should be becomes null, never a guess."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.files import RawFile
from recsys_spark.cleaning.source import CORRUPT, FILE, FILE_DAY, SINCE, Opened
from recsys_spark.config import InteractionsInput
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

BROKEN = ("malformed", "missing_column", "null_key", "bad_type")
CONTROL = "__control"

_PER_SECOND = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
# The years 1 to 9999, in which Python can tell a date; milliseconds taken for seconds lie far after them
_FIRST, _LAST = "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_MIXED_BELOW = {"seconds": 10**11, "milliseconds": 10**14, "microseconds": 10**17, "nanoseconds": 10**20}
_NUMBERS = ("byte", "short", "integer", "long", "float", "double", "decimal")
_TIMES = ("timestamp", "timestamp_ntz", "date")
NESTED = ("array", "map", "struct", "binary", "variant")
_WHOLE_BELOW = {"float": 2**24, "double": 2**53}  # from there on a number may stand for its neighbour


@dataclass(frozen=True)
class Twin:
    """A column as it came, and as the type that it should have (null where it cannot be read as such)."""

    raw: Column
    typed: Column
    kind: str = "string"
    there: bool = True


def typed_events(group: Opened, source: InteractionsInput, raw: Column | None = None) -> DataFrame:
    """Events of one group of files.

    Parameters
    ----------
    group : Opened
    source : InteractionsInput
    raw : Column, optional
        The whole row, where it is wanted (column ``raw``).

    Returns
    -------
    DataFrame
        ``__file``, ``__file_day``, ``__since``, the typed columns (``event_key`` and ``split`` are null where the
        settings name none), a condition for each rule of ``BROKEN``, and ``__control``: an id with a control sign.
    """
    from pyspark.sql import functions as F

    twins = _twins(group, source)
    keys = [twins[name] for name in (c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIME)]
    unread = [each.raw.isNotNull() & each.typed.isNull() for each in twins.values() if each.there]
    all_there = all(each.there for each in keys)
    texts = [twins[name] for name in (c.USER_ID, c.ITEM_ID) if twins[name].kind == "string"]
    conditions = {
        # where a column is missing no other is wanted, and Spark refuses to read __corrupt alone
        "malformed": F.col(CORRUPT).isNotNull() if CORRUPT in group.rows.columns and all_there else F.lit(False),
        "missing_column": F.lit(not all_there),
        "null_key": _any([each.raw.isNull() for each in keys]),
        "bad_type": _any(unread),
        CONTROL: _any([has_control(each.typed) for each in texts]),
    }
    return group.rows.select(
        FILE,
        FILE_DAY,
        SINCE,
        *[twin.typed.alias(name) for name, twin in twins.items()],
        *[condition.alias(name) for name, condition in conditions.items()],
        *([] if raw is None else [raw.alias(c.RAW)]),
    )


def check_time_unit(groups: list[Opened], source: InteractionsInput) -> None:
    """Refuse to guess: a number of unknown unit is no time, and a timestamp is no number of milliseconds.

    Raises
    ------
    RecsysError
        In no file is the time of a form that ``time_unit`` describes.
    """
    kinds = [found[1] for group in groups if (found := group.find(source.event_time)) is not None]
    if any(_fits(kind, source.time_unit) for kind in kinds):
        return
    for kind in kinds:
        is_time = kind.typeName() in _TIMES
        do = (
            "Set input.interactions.time_unit to timestamp."
            if is_time
            else "Set input.interactions.time_unit to seconds, milliseconds or nanoseconds "
            "(pandas writes its timestamps to Parquet as nanoseconds)."
        )
        raise RecsysError(
            f"column '{source.event_time}' is of type {kind.simpleString()}, but time_unit is '{source.time_unit}'",
            source.path,
            do,
        )


def text_kind(format_: str, kind: DataType) -> str:
    """The ``kind`` that ``id_text`` takes: the column's type, or the format where all columns come as text."""
    return format_ if format_ in ("csv", "json") else kind.typeName()


def id_text(column: Column, kind: str) -> Column:
    """An id as text: whole numbers without a point, whatever type they came in.

    Null for lists and other structures (``kind`` is "json" where they came as text), for NaN and infinity, and for
    numbers too large to be told from others. In CSV and JSON nothing tells a number from a text: ``12.0`` is 12 there.
    """
    from pyspark.sql import functions as F

    text = F.trim(column.cast("string"))
    if kind in NESTED:
        return F.lit(None).cast("string")
    if kind in _WHOLE_BELOW:  # what a whole-number column with gaps becomes in many tools
        exact = F.abs(column) < F.lit(float(_WHOLE_BELOW[kind]))  # false for NaN
        whole = F.when(exact & (column == F.floor(column)), column.cast("bigint").cast("string"))
        return F.coalesce(whole, F.when(exact, text))
    if kind == "json":
        nested = text.rlike(r"^[\[{]") & F.try_parse_json(text).isNotNull()
        text = F.when(~nested, text)
    if kind in ("csv", "json"):
        return F.regexp_replace(text, r"^(-?\d+)\.0+$", "$1")
    return F.regexp_replace(text, r"\.0+$", "") if kind == "decimal" else text


def has_control(column: Column) -> Column:
    """Condition: the text holds a control character."""
    return column.rlike(r"[\x00-\x1f\x7f]")


def drift(files: list[RawFile], groups: list[Opened], columns: dict[str, str]) -> list[str]:
    """Lines for the log: which named columns some files lack."""
    lines = []
    for key, name in columns.items():
        without = sum(group.find(name) is None for group in groups)
        if without:
            lines.append(f"{key}: {without} of {len(groups)} schemas in {len(files)} files have no column '{name}'")
    return lines


def _twins(group: Opened, source: InteractionsInput) -> dict[str, Twin]:
    from pyspark.sql import functions as F

    def twin(name: str | None, target: str) -> Twin:
        null = F.lit(None).cast(target)
        found = group.find(name) if name is not None else None
        if found is None:
            return Twin(null, null, there=name is None)
        column, kind = found[0], found[1].typeName()
        if target == "double":
            return Twin(column, null if kind in (*NESTED, *_TIMES) else column.try_cast("double"), kind)
        return Twin(column, id_text(column, text_kind(source.format, found[1])), kind)

    kind_of_all = F.lit(source.constant_event_type)
    time = group.find(source.event_time)
    null_time = F.lit(None).cast("timestamp")
    return {
        c.USER_ID: twin(source.user_id, "string"),
        c.ITEM_ID: twin(source.item_id, "string"),
        c.EVENT_TYPE: twin(source.event_type, "string") if source.event_type else Twin(kind_of_all, kind_of_all),
        c.EVENT_TIME: Twin(time[0], _timestamp(*time, source.time_unit))
        if time
        else Twin(null_time, null_time, there=False),
        c.VALUE: twin(source.value, "double"),
        c.EVENT_KEY: twin(source.event_key, "string"),
        c.SPLIT: twin(source.split, "string"),
    }


def _any(conditions: list[Column]) -> Column:
    from functools import reduce

    from pyspark.sql import functions as F

    return reduce(lambda one, other: one | other, conditions, F.lit(False))


def _fits(kind: DataType, unit: str) -> bool:
    name = kind.typeName()
    if name in NESTED:
        return False
    if name in _TIMES:
        return unit in ("timestamp", "mixed")
    return unit != "timestamp" if name in _NUMBERS else True


def _timestamp(column: Column, kind: DataType, unit: str) -> Column:
    """Time of an event; null where it cannot be read, or lies outside the years 1 to 9999."""
    from pyspark.sql import functions as F

    if not _fits(kind, unit):
        return F.lit(None).cast("timestamp")
    if kind.typeName() in _TIMES:
        return _on_calendar(column, kind.simpleString()).cast("timestamp")
    if unit == "timestamp":
        return _iso(column)
    number = column.try_cast("decimal(38,9)")
    if unit == "mixed":
        size = F.abs(number)
        by_size = F.coalesce(
            *[F.when(size < F.lit(Decimal(below)), _since_1970(number, each)) for each, below in _MIXED_BELOW.items()]
        )
        return by_size if kind.typeName() in _NUMBERS else F.coalesce(by_size, _iso(column))
    return _since_1970(number, unit)


def _iso(column: Column) -> Column:
    from pyspark.sql import functions as F

    # Spark reads "12:30" as of today, and "2024" as a New Year's Day: only what begins with a day is a time
    dated = F.trim(column.cast("string")).rlike(r"^\d{4}-\d{1,2}-\d{1,2}")
    return F.when(dated, _on_calendar(column.try_cast("timestamp"), "timestamp"))


def _on_calendar(time: Column, kind: str) -> Column:
    from pyspark.sql import functions as F

    return F.when(time.between(F.lit(_FIRST).cast(kind), F.lit(_LAST).cast(kind)), time)


def _since_1970(number: Column, unit: str) -> Column:
    from pyspark.sql import functions as F

    first, last = (F.lit(Decimal(second * _PER_SECOND[unit])) for second in (_FIRST_SECOND, _LAST_SECOND))
    possible = number.between(first, last)
    microseconds = F.when(possible, number) * F.lit(1_000_000) / F.lit(_PER_SECOND[unit])
    return F.timestamp_micros(microseconds.try_cast("bigint"))
