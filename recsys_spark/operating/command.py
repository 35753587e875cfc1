"""Sub-commands `runs`, `rollback` and `prune`: no Spark is started for them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from recsys_spark.config import load_settings
from recsys_spark.cuts import check_day
from recsys_spark.errors import RecsysError
from recsys_spark.operating.compare import find_run, side_by_side
from recsys_spark.operating.retention import Clearing, clear, plan_clearing
from recsys_spark.operating.rollback import roll_back
from recsys_spark.operating.runs import as_text, as_values, list_runs
from recsys_spark.reporting.index import keep_index, write_index
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.lock import writer_lock

Config = Annotated[
    str, typer.Option("--config", envvar="RECSYS_CONFIG", help="Settings file, or several with commas between")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value; repeatable")]


def runs(
    config: Config,
    date: Annotated[list[str] | None, typer.Option("--date", help="A day, YYYY-MM-DD; repeatable; all days")] = None,
    table: Annotated[list[str] | None, typer.Option("--table", help="A table; repeatable; all tables")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write the index of nights anew, and print where it is")] = False,
    change: Set = None,
) -> None:
    """Print every run of every table: its state, rows, seconds and main figures."""
    for dt in date or []:
        check_day(dt)
    unknown = sorted(set(table or []) - set(TABLES))
    if unknown:
        raise RecsysError(f"no table '{unknown[0]}'", "--table", f"Tables: {', '.join(TABLES)}.")
    settings = load_settings(config, change)
    store = TableStore(settings.root)
    if html:
        print(store.storage.url(write_index(store, settings.name)))
        return
    found = list_runs(store, table, date)
    print(json.dumps(as_values(found)) if as_json else as_text(found))


def rollback(
    config: Config,
    table: Annotated[str, typer.Option("--table", help="Table, such as top_n")],
    date: Annotated[str, typer.Option("--date", help="Day of the table, YYYY-MM-DD")],
    to: Annotated[
        str | None, typer.Option("--to", help="Run; the newest whole one before the current by default")
    ] = None,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take the day's table away: readers of the newest day see the day before")
    ] = False,
    change: Set = None,
) -> None:
    """Point readers of a day back to an earlier complete run."""
    check_day(date)
    if to is not None and withdraw:
        raise RecsysError("--to and --withdraw were both given", "command line", "Give one of them.")
    settings = load_settings(config, change)
    store = TableStore(settings.root)
    rolled = roll_back(store, table, date, to, withdraw)
    keep_index(store, settings.name)
    print(f"before: {_told(rolled.before)}")
    print(f"now:    {_told(rolled.now)}")
    print(f"newest: {_told(rolled.newest)}")
    if rolled.before and (rolled.now is None or rolled.now.content_hash != rolled.before.content_hash):
        print(f"content {rolled.before.content_hash} of {date} is not shown again, unless a stage is given --force")


def compare(
    a: Annotated[str, typer.Argument(help="A day (YYYY-MM-DD), or a run of the table user_metrics")],
    b: Annotated[str, typer.Argument(help="The other one")],
    config: Config,
    change: Set = None,
) -> None:
    """Print the models of two nights side by side, over the users that both have ranked."""
    settings = load_settings(config, change)
    store = TableStore(settings.root)
    print(side_by_side(store, find_run(store, a), find_run(store, b), settings.gate))


def arms(
    config: Config,
    date: Annotated[str | None, typer.Option("--date", help="Day of the lists; the newest by default")] = None,
    outcomes: Annotated[
        str | None, typer.Option("--outcomes", help="Parquet or CSV of what users did after: a row an event")
    ] = None,
    user: Annotated[str, typer.Option("--user-column", help="Column of the user's id, as in the log")] = "user_id",
    value: Annotated[
        str | None,
        typer.Option("--value-column", help="Column of a number that is summed; without it rows are counted"),
    ] = None,
    change: Set = None,
) -> None:
    """Print the arms of a test; with --outcomes, what came of each, and the interval of the difference."""
    from recsys_spark.cleaning.privacy import hash_id, read_key
    from recsys_spark.operating import arms as test

    if date is not None:
        check_day(date)
    settings = load_settings(config, change)
    store = TableStore(settings.root)
    lists = store.latest("top_n") if date is None else store.need("top_n", date)
    if lists is None:
        raise RecsysError("no lists are published", store.storage.url("top_n"), "Run 'recsys-spark run' first.")
    found = test.users_by_arm(store, lists)
    print("\n".join(test.told(lists, found, settings.experiment.share)))
    if outcomes is not None:
        key = read_key(settings.privacy)
        rows = test.read_outcomes(outcomes, user, value)
        if key is not None:
            rows = [(hash_id(user_id.strip(), key), number) for user_id, number in rows]
        sides, others = test.outcomes_by_arm(found, rows)
        print("\n".join(test.compared(sides, others, settings.gate.confidence)))


def prune(
    config: Config,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing")] = False,
    change: Set = None,
) -> None:
    """Delete old runs, as the settings 'retention' say; never one that something still needs."""
    settings = load_settings(config, change)
    store = TableStore(settings.root)
    if dry_run:
        clearing = plan_clearing(store, settings.retention)
    else:
        with writer_lock(store.storage, run_id="prune"):
            clearing = plan_clearing(store, settings.retention)
            clear(store, clearing)
        keep_index(store, settings.name)
    for key in clearing.runs:
        print(" ".join(key))
    print(("would delete " if dry_run else "deleted ") + summary(clearing))


def summary(clearing: Clearing) -> str:
    """What goes, in a few words."""
    runs = f"{len(clearing.runs)} runs ({clearing.bytes / 2**20:,.1f} MiB)"
    left = f", {len(clearing.checkpoints)} trainings' checkpoints" if clearing.checkpoints else ""
    return f"{runs}, {len(clearing.pointers)} days' pointers{left}; kept {len(clearing.kept)} runs"


def _told(manifest: Manifest | None) -> str:
    if manifest is None:
        return "nothing"
    return f"{manifest.dt} run {manifest.run_id}, {manifest.rows:,} rows, content {manifest.content_hash}"
