"""The night: all stages in their order."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from recsys_spark.config import Settings
from recsys_spark.ending import leave_if_java_ends
from recsys_spark.errors import Held, RecsysError
from recsys_spark.operating.retention import clear, clear_scratch, plan_clearing
from recsys_spark.outcome import refuse_held, settle
from recsys_spark.progress import say
from recsys_spark.reporting.index import keep_index
from recsys_spark.stage import Stage, new_run_id, run_stage
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.lock import Lease, writer_lock
from recsys_spark.tracking import add_report
from recsys_spark.trouble import explain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

STAGES: dict[str, str] = {  # name to where it is; loaded when needed, so that --help does not wait for torch
    "clean": "recsys_spark.cleaning.clean:STAGE",
    "featurize": "recsys_spark.features.featurize:STAGE",
    "train-retrieval": "recsys_spark.training.stages:RETRIEVAL_STAGE",
    "sources": "recsys_spark.scoring.prepare.stage:STAGE",
    "candidates": "recsys_spark.scoring.examples:STAGE",
    "train-ranker": "recsys_spark.training.stages:RANKER_STAGE",
    "evaluate": "recsys_spark.evaluation.evaluate:STAGE",
    "rules": "recsys_spark.cleaning.item_rules:STAGE",
    "gate": "recsys_spark.evaluation.gate:STAGE",
    "score": "recsys_spark.scoring.score:STAGE",
    "watch": "recsys_spark.watch.watch:STAGE",
    "publish": "recsys_spark.scoring.publish:STAGE",
    "report": "recsys_spark.reporting.report:STAGE",
}

LAST = list(STAGES)[-1]  # with it a night ends, in however many runs of stages it was done


def load_stage(name: str) -> Stage:
    """Stage by name.

    Raises
    ------
    RecsysError
        There is no such stage.
    """
    if name not in STAGES:
        raise RecsysError(f"no stage '{name}'", "command line", f"Stages: {', '.join(STAGES)}.")
    module, attribute = STAGES[name].split(":")
    stage: Stage = getattr(import_module(module), attribute)
    return stage


def in_order(names: list[str]) -> list[str]:
    """Names of stages in the order of the night, each once.

    Raises
    ------
    RecsysError
        There is no such stage.
    """
    for name in names:
        load_stage(name)
    return [name for name in STAGES if name in names]


def run_stages(
    spark: SparkSession, settings: Settings, dt: str, names: list[str] | None = None, force: bool = False
) -> dict[str, Manifest]:
    """Do stages of a day in the order of the night, with the root's lock held.

    Parameters
    ----------
    spark : SparkSession
    settings : Settings
    dt : str
        The run's day, YYYY-MM-DD.
    names : list of str, optional
        Some stages only.
    force : bool
        Do them again although nothing changed.

    Returns
    -------
    dict of str to Manifest
        What they wrote or found written, by table.

    Raises
    ------
    Held
        The stage watch holds tonight's lists: they are not shown. All else was done.
    RecsysError
        Among others: the lock was lost to another process, whose the day is now.
    """
    chosen = [load_stage(name) for name in (STAGES if names is None else names)]
    run_id = new_run_id()
    written: dict[str, Manifest] = {}
    held: Held | None = None
    with writer_lock(TableStore(settings.root).storage, run_id=run_id) as lease:
        try:
            clear_scratch(TableStore(settings.root))
            for stage in chosen:
                lease.check()
                if stage.enabled is not None and not stage.enabled(settings):
                    continue
                try:
                    refuse_held(stage, spark, settings, dt, force and names is not None)
                except Held as error:
                    held = error  # the night's page is written all the same
                    continue
                written |= run_stage(stage, spark, settings, dt, run_id, force, lease.token)
        except Exception as error:
            leave_if_java_ends(spark)
            _leave_to_others(lease, error)
            settle(settings, dt, run_id, written, explain(error, settings.root) or error)
            raise
        settle(settings, dt, run_id, written, held)
        if chosen and chosen[-1].name == LAST:
            clear_old(settings)
    if "report" in written:
        add_report(settings, TableStore(settings.root), dt)
    if held is not None:
        raise held
    return written


def _leave_to_others(lease: Lease, error: Exception) -> None:
    """End where another process has the lock by now: what the run failed of came of that, and the day is not its own.

    The outcome that the other one has written, or will write, is the day's.
    """
    with suppress(OSError):  # what cannot be looked at is not known to be lost
        lease.look()
    try:
        lease.check()
    except RecsysError as lost:
        raise lost from error


def clear_old(settings: Settings) -> None:
    """Delete old runs where the settings ask for it; the night is done, whatever becomes of that."""
    store = TableStore(settings.root)
    try:
        clearing = plan_clearing(store, settings.retention)
        clear(store, clearing)
    except (RecsysError, OSError) as error:
        say(f"retention: old runs were not all deleted ({error})")
        return
    if clearing.runs:
        keep_index(store, settings.name)
        say(f"retention: deleted {len(clearing.runs)} old runs ({clearing.bytes / 2**20:,.0f} MiB)")
