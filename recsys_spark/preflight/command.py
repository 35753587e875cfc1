"""Sub-command `preflight`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from recsys_spark.config import load_settings
from recsys_spark.operating.command import Config, Set
from recsys_spark.preflight.check import as_text, ask_all, refuse_unlike


def preflight(
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, an object a process, instead of a table")] = False,
    change: Set = None,
) -> None:
    """Print what driver, executors and the ranks' hosts are, and end with an error where they are not alike."""
    from recsys_spark.spark import make_session

    settings = load_settings(config, change)
    spark = make_session(settings)
    try:
        answers = ask_all(spark, settings.root, settings.launch)
    finally:
        spark.stop()
    told = [{"process": each.who, **each.facts, "clock_off": each.offset} for each in answers]
    print(json.dumps(told) if as_json else as_text(answers))
    refuse_unlike(answers, settings.root)
