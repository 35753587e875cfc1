"""Lists of items that a shop keeps beside its log: what is on stock, what must not be shown, what is pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.files import list_files, probe
from recsys_spark.cleaning.source import CORRUPT, FILE, Opened, open_groups, require, union
from recsys_spark.cleaning.typed import NESTED, id_text, text_kind
from recsys_spark.config import IdTable, Settings
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

LISTS = ("allow", "deny", "pin_table")


def read_list(spark: SparkSession, table: IdTable, setting: str) -> DataFrame:
    """Rows of a list: ``item_id``, and ``rank`` (int) of a table of pins.

    Raises
    ------
    RecsysError
        The list, or a part or row of it, cannot be read, or it has no rows: half a list would be obeyed otherwise.
    """
    files = probe(list_files(spark, table, setting), table)
    for each in files:
        if each.broken:
            raise RecsysError(f"the list cannot be read ({each.broken})", each.url, "Bring it again: it must be whole.")
    rank = getattr(table, "rank", None)
    wanted = {"id": table.id} | ({"rank": rank} if rank else {})
    groups = open_groups(spark, table, files, [*wanted.values()])
    for group in groups:
        require([group], wanted, setting, table.path)
    rows = union([_typed(group, table, rank) for group in groups]).persist()
    unread = rows.where(" or ".join(f"{name} is null" for name in rows.columns if name != FILE))
    bad = unread.groupBy(FILE).count().orderBy(FILE).collect()
    if bad:
        what = "id" if rank is None else "id, or no rank,"
        raise RecsysError(
            f"{bad[0]['count']:,} rows of the list hold no {what} that can be read",
            files[bad[0][FILE]].url,
            "Mend or take out these rows.",
        )
    return rows.drop(FILE).distinct()


def list_facts(spark: SparkSession, settings: Settings, _: str) -> object:
    """Facts that tell whether a list changed: path, size and time of its files."""
    found: list[tuple[str, str, int, int]] = []
    for name in LISTS:
        table = getattr(settings.rules, name)
        if table is not None:
            found += [(name, *each.facts) for each in list_files(spark, table, f"rules.{name}")]
    return sorted(found)


def list_id(group: Opened, id_column: str, format_: str, path: str, hint: str = "") -> Column:
    """Ids of one part of a list as text, null where a row has none; ``hint`` says what can be done but to mend it.

    Raises
    ------
    RecsysError
        The column holds no ids.
    """
    from pyspark.sql import functions as F

    found = group.find(id_column)
    assert found is not None  # as was just required
    column, kind = found
    if kind.typeName() in NESTED:
        raise RecsysError(
            f"column '{id_column}' of the list is of type {kind.simpleString()}, which is no id",
            path,
            f"Bring a list with a text or a number in each row{hint}.",
        )
    text = id_text(column, text_kind(format_, kind))
    if CORRUPT in group.rows.columns:
        text = F.when(F.col(CORRUPT).isNull(), text)
    return F.when(text != "", text)


def _typed(group: Opened, table: IdTable, rank: str | None) -> DataFrame:
    from pyspark.sql import functions as F

    text = list_id(group, table.id, table.format, table.path)
    columns = [F.col(FILE), text.alias(c.ITEM_ID)]
    if rank is not None:
        place = group.find(rank)
        assert place is not None
        number = place[0].try_cast("int")
        columns.append(F.when(number >= 1, number).alias(c.RANK))
    return group.rows.select(*columns)
