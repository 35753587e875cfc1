"""Sub-commands `outcome` and `tell`, for a scheduler that runs a night a few stages at a time. No Spark is started."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from recsys_spark.config import load_settings
from recsys_spark.cuts import check_day
from recsys_spark.operating.command import Config, Set
from recsys_spark.outcome import EXIT_CODES, OK, standing, tell_failure

Day = Annotated[str, typer.Option("--date", help="The run's day (UTC), YYYY-MM-DD")]


def outcome(
    config: Config,
    date: Day,
    of: Annotated[
        Literal["gate", "watch"] | None, typer.Option("--of", help="Only what this stage says; the night by default")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a line")] = False,
    change: Set = None,
) -> None:
    """Print how a night stands, and end with its exit code: 0 ok, 2 failed, 3 alarm, 4 hold."""
    check_day(date)
    ended, says = standing(load_settings(config, change), date, of)
    print(json.dumps({"date": date, "outcome": ended, "says": says}) if as_json else f"{ended}: {says}")
    if ended != OK:
        raise typer.Exit(EXIT_CODES[ended])


def tell(
    config: Config,
    date: Day,
    says: Annotated[str, typer.Option("--says", help="What happened, in a sentence")],
    change: Set = None,
) -> None:
    """Tell the command and the webhook of `watch.on_alarm` that a night failed, in the words of who saw it."""
    check_day(date)
    if tell_failure(load_settings(config, change), date, says):
        raise typer.Exit(1)
