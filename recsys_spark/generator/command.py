"""The command ``recsys-spark generate``."""

from __future__ import annotations

from typing import Annotated

import typer

from recsys_spark.errors import RecsysError
from recsys_spark.generator.rates import RATES, dirt
from recsys_spark.generator.spec import FORMATS, LogSpec

_RATES = "; ".join(f"{name} ({rate.light:g}, {rate.heavy:g}): {rate.about}" for name, rate in RATES.items())
_D = LogSpec()


def generate(
    out: Annotated[str, typer.Argument(help="Folder or URI to write to; absent or empty")],
    rows: Annotated[int, typer.Option(help="Rows of the log, faults included")] = _D.rows,
    days: Annotated[int, typer.Option(help="Days, a folder each")] = _D.days,
    users: Annotated[
        int, typer.Option(help="Users; 70 % are there on the first day, the others join evenly")
    ] = _D.users,
    items: Annotated[int, typer.Option(help="Items; they join like users")] = _D.items,
    seed: Annotated[int, typer.Option(help="Same seed and options, same files, on any number of cores")] = _D.seed,
    end_date: Annotated[str, typer.Option("--end-date", help="The last day, YYYY-MM-DD")] = _D.end_date,
    level: Annotated[int, typer.Option("--dirt", help="Faults: 0 none, 1 light, 2 heavy")] = 0,
    rate: Annotated[
        list[str] | None,
        typer.Option("--rate", help=f"Share of a fault, name=share; repeatable. Names (levels 1, 2): {_RATES}"),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Times as ISO text, s and ms mixed; times, values as text")
    ] = False,
    hot_user_share: Annotated[
        float, typer.Option(help="Share of rows of one user (extreme_activity is off then)")
    ] = 0.0,
    hot_item_share: Annotated[float, typer.Option(help="Share of rows of one item")] = 0.0,
    fashion: Annotated[
        float, typer.Option(help="How far popularity drifts: an item's rises and falls by exp(fashion)")
    ] = _D.fashion,
    log_format: Annotated[str, typer.Option("--format", help=" | ".join(FORMATS))] = "parquet",
    rows_per_file: Annotated[int, typer.Option(help="Rows in a file, at most")] = _D.rows_per_file,
) -> None:
    """Make a raw log to try the night on: known tastes, known faults, settings.yaml, and the truth about it all.

    OUT/events/dt=…/part-…, OUT/items, OUT/users, OUT/settings.yaml and OUT/truth are written, in parallel by Spark.
    """
    rates = dirt(level, _shares(rate or []), text, log_format != "parquet", hot_user_share > 0)
    size = (rows, days, users, items, seed, end_date, rates)
    spec = LogSpec(*size, text, hot_user_share, hot_item_share, log_format, rows_per_file, fashion)
    _make(spec, out)


def _make(spec: LogSpec, out: str) -> None:
    """Write the log and say what it holds and how fast it was."""
    from recsys_spark.config import parse_settings
    from recsys_spark.generator.settings import settings_tree
    from recsys_spark.generator.write import generate as write
    from recsys_spark.spark import make_session

    spark = make_session(parse_settings(settings_tree(spec, out)), "generate")
    try:
        done = write(spark, spec, out)
    finally:
        spark.stop()
    for rule, number in sorted(done.rules.items(), key=lambda each: -each[1]):
        print(f"{rule:>17} {number:>14,}")
    print(f"{done.rows:,} rows in {done.files:,} files, {done.bytes / 1e6:,.0f} MB, {done.seconds:.1f} s: ", end="")
    print(f"{done.rows_per_second:,.0f} rows/s (without Spark's start)")
    print(f"next: recsys-spark run --config {done.out}/settings.yaml --date {spec.end_date}")


def _shares(rates: list[str]) -> dict[str, float]:
    """Shares from 'name=share'."""
    shares = {}
    for each in rates:
        name, _, share = each.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError as error:
            raise RecsysError(f"'{each}' is no rate", "--rate", "Write it as name=share, such as late=0.02.") from error
    return shares
