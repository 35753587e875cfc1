"""The `recsys-spark` command.

recsys-spark run --config jobs/conf/complete_journey.yaml --date 2017-12-31    the whole night
recsys-spark train-ranker --config ... --date ... --force                      one stage, again
recsys-spark show --user 1                                                     one person's list, in words
recsys-spark tune --config ... --date ... --space jobs/conf/tune_ranker.yaml   better settings for a training
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from recsys_spark.config import Settings, load_settings
from recsys_spark.cuts import check_day
from recsys_spark.ending import end_on_sigterm, stop
from recsys_spark.errors import Held, RecsysError
from recsys_spark.generator.command import generate
from recsys_spark.operating.command import arms, compare, prune, rollback, runs
from recsys_spark.operating.night import outcome, tell
from recsys_spark.outcome import EXIT_CODES, FAILED, HOLD, OK, tell_failure, worst
from recsys_spark.pipeline import STAGES, in_order, run_stages
from recsys_spark.preflight.command import preflight
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tracking import check_tracking
from recsys_spark.trouble import explaining
from recsys_spark.tuning.command import tune

DEFAULT_CONFIG = "jobs/conf/complete_journey.yaml"

app = typer.Typer(
    help=(
        "Nightly batch recommender: from interaction logs in Parquet to a table of the N items to show each user.\n\n"
        "A night is a row of stages, each from tables to tables: " + " → ".join(STAGES) + ". `run` does them all. "
        "A stage whose inputs, settings and day have not changed is not done again unless --force asks for it. "
        "A stage that fails leaves what readers see as it was, and says what was found, where, and what to do."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[
    str, typer.Option("--config", envvar="RECSYS_CONFIG", help="Settings file, or several with commas between")
]
Day = Annotated[str, typer.Option("--date", help="The run's day (UTC), YYYY-MM-DD: later events are not used")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value; repeatable")]
Force = Annotated[bool, typer.Option("--force", help="Do it again although nothing changed")]

_ABOUT = {
    "clean": "Raw logs to interactions, quarantine and ledger: every row is accounted for.",
    "featurize": "Append-only ids, encoded attributes, item statistics, histories, retrieval examples.",
    "train-retrieval": "Matrix factorization: one snapshot of vectors for each cut in time.",
    "sources": "Item neighbours, vectors by attributes, segments, blend: what further sources of candidates read.",
    "candidates": "Candidates and pair features of the label windows: what the ranker learns from.",
    "train-ranker": "DeepFM over the candidates, early stopping on the validation window, then refit on all windows.",
    "evaluate": "Full ranking on the test window: the ranker beside retrieval, popularity, repeats and ItemKNN.",
    "rules": "Which items may be shown, by the settings and the shop's own lists; boosts, caps and pinned items.",
    "gate": "Tonight's model against the champion's and plain rules: promoted, held, or an alarm.",
    "score": "Lists for every user: exact top-k and own items, re-ranked; popular items where there is no history.",
    "watch": "Tonight's tables against the nights before: profiles, checks, alarms, and whether the lists are held.",
    "publish": "Check the whole table of lists, then move the pointer that readers follow.",
    "report": "One HTML page of the night: ledger, curves, metrics, timings, example lists.",
}


@app.command()
def run(
    config: Config,
    date: Day,
    stages: Annotated[
        str | None, typer.Option("--stages", help="Some stages only, with commas: one session of Spark does them all")
    ] = None,
    change: Set = None,
    force: Force = False,
) -> None:
    """Do the whole night: all stages in their order; finished ones are skipped."""
    settings = _settings(config, change, date)
    if stages is not None:
        _run(settings, date, in_order(stages.split(",")), force)
        return
    written = _run(settings, date, None, force)
    store = TableStore(settings.root)
    lists, report = store.need("top_n", date), store.need("report", date)
    print(f"top_n:  {store.storage.url(lists.folder)}")
    print(f"rows:   {lists.rows}")
    print(f"report: {store.storage.url(report.folder)}/report.html")
    ended = worst(written)
    if ended != OK:
        raise typer.Exit(EXIT_CODES[ended])


@app.command()
def show(
    user: Annotated[str, typer.Option("--user", help="The user's id as in the logs, not its hash")],
    config: Config = DEFAULT_CONFIG,
    date: Annotated[str | None, typer.Option("--date", help="Day of the table; the newest by default")] = None,
    change: Set = None,
) -> None:
    """Print a person's history and published list in words."""
    from recsys_spark.cleaning.privacy import hash_id, read_key
    from recsys_spark.reporting.show import show_user
    from recsys_spark.spark import make_session

    settings = _settings(config, change, date)
    key = read_key(settings.privacy)
    user = user if key is None else hash_id(user.strip(), key)
    print(show_user(make_session(settings), TableStore(settings.root), user, date, settings))


@app.command()
def settings() -> None:
    """Print every setting with its meaning, unit and default."""
    from recsys_spark.settings_page import settings_page

    print(settings_page())


@app.command()
def tables() -> None:
    """Print every table with its key, columns and purpose."""
    from recsys_spark.tables import TABLES

    for spec in TABLES.values():
        print(f"{spec.name}: {spec.holds}")
        print(f"    key: {', '.join(spec.key) or '-'}")
        print(f"    columns: {spec.schema or ('files' if spec.kind == 'files' else 'by the settings')}\n")


def _stage_command(name: str) -> Callable[..., None]:
    def command(config: Config, date: Day, change: Set = None, force: Force = False) -> None:
        _run(_settings(config, change, date), date, [name], force)

    command.__doc__ = _ABOUT[name]
    return command


for _name in STAGES:
    app.command(_name)(_stage_command(_name))
app.command()(tune)
app.command()(generate)
app.command()(runs)
app.command()(rollback)
app.command()(prune)
app.command()(compare)
app.command()(arms)
app.command()(outcome)
app.command()(tell)
app.command()(preflight)


def _settings(config: str, change: list[str] | None, date: str | None) -> Settings:
    if date is not None:
        check_day(date)
    return load_settings(config, change)


def _run(settings: Settings, date: str, stages: list[str] | None, force: bool) -> dict[str, Manifest]:
    from recsys_spark.spark import make_session

    check_tracking(settings.tracking)  # at the start of the night, whichever stage comes first
    end_on_sigterm()
    with explaining(settings.root):
        try:
            spark = make_session(settings)
        except Exception as error:
            tell_failure(settings, date, f"Spark did not start: {error}")
            raise
        try:
            return run_stages(spark, settings, date, stages, force)
        finally:
            stop(spark)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors of a known kind end in one line and exit code 2; see ``outcome`` for the other codes."""
    try:
        app(arguments)
    except RecsysError as error:
        print(f"recsys-spark: {error}", file=sys.stderr)
        sys.stderr.flush()
        sys.exit(EXIT_CODES[HOLD if isinstance(error, Held) else FAILED])


def job(name: str) -> None:
    """Entry point of a file in jobs/, for spark-submit: the stage's sub-command with the file's arguments."""
    main([name, *sys.argv[1:]])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
