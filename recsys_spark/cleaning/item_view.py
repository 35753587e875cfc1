"""The cleaned items as the settings' SQL sees them: attributes under their own names, with types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame


def item_view(ids: DataFrame, items: DataFrame, settings: Settings) -> DataFrame:
    """A row an item: columns of ``ids`` (``item_id`` and some that begin with __), label, and attributes."""
    from pyspark.sql import functions as F

    kinds = {each.source: "double" if each.kind == "number" else "string" for each in settings.features.item}
    kinds |= settings.rules.columns
    there = [name for name in kinds if f"attribute_{name}" in items.columns and name not in (c.ITEM_ID, c.LABEL_TEXT)]
    typed = [F.col(f"`attribute_{name}`").try_cast(kinds[name]).alias(name) for name in there]
    return ids.join(items.select(c.ITEM_ID, c.LABEL_TEXT, *typed), on=c.ITEM_ID, how="left")


def select_expressions(view: DataFrame, asked: dict[str, tuple[str, str]], columns: list[str]) -> DataFrame:
    """The view, and a column for each expression.

    Parameters
    ----------
    view : DataFrame
    asked : dict
        New column to the setting that holds its expression, and the expression.
    columns : list of str
        Columns that ``rules.caps`` name.

    Raises
    ------
    RecsysError
        An expression cannot be read, is no condition, or names a column that is not there.
    """
    from pyspark.errors import AnalysisException, ParseException
    from pyspark.sql import functions as F

    known = [name for name in view.columns if not name.startswith("__")]
    for name in columns:
        if name not in known:
            raise _no_column(name, known, "setting 'rules.caps'")
    frame = view
    for name, (setting, text) in asked.items():
        where = f"setting '{setting}' ({text})"
        try:
            frame = frame.withColumn(name, F.expr(text))
        except ParseException as error:
            raise RecsysError("no SQL expression", where, "Write it as after WHERE.") from error
        except AnalysisException as error:
            raise _refused(error, known, where) from error
        kind = frame.schema[name].dataType.simpleString()
        if kind != "boolean":
            raise RecsysError(
                f"the expression is of type {kind}, it must be true or false", where, "Write a condition."
            )
    return frame


@contextmanager
def working_out() -> Iterator[None]:
    """Tell that an expression meets a value that it cannot take.

    Raises
    ------
    RecsysError
        Spark refuses a cast or a calculation.
    """
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        told = str(error).splitlines()[0][:300]
        raise RecsysError(
            f"an expression cannot be worked out ({told})",
            "settings 'rules'",
            "Give the column a type in rules.columns, or write try_cast(…).",
        ) from error


def _refused(error: PySparkException, known: list[str], where: str) -> RecsysError:
    told = error.getMessageParameters() or {}
    if "UNRESOLVED_COLUMN" in (error.getCondition() or "") and "objectName" in told:
        return _no_column(told["objectName"].replace("`", ""), known, where)
    return RecsysError(f"the expression is refused ({str(error).splitlines()[0]})", where, "Mend it.")


def _no_column(name: str, known: list[str], where: str) -> RecsysError:
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return RecsysError(
        f"the items have no column '{name}' (columns: {', '.join(known)})",
        where,
        f"{hint}Attributes beside those of features.item are named in rules.columns.",
    )
