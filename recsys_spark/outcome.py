"""How a night ended: its exit code, the file that machines read, and who is told.

<root>/_outcomes/dt=YYYY-MM-DD.json   {"outcome", "says", "failed", "run_id", …} of the last run of a day

| outcome | exit code | what it means |
|---|---|---|
| ok | 0 | the lists are shown |
| failed | 2 | an error; readers see what they saw before |
| alarm | 3 | the lists are shown, and somebody should look |
| hold | 4 | the lists are not shown; readers see what they saw before |
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Settings
from recsys_spark.errors import Held, RecsysError
from recsys_spark.progress import say
from recsys_spark.reporting.index import keep_index
from recsys_spark.stage import Stage, all_inputs
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.watch.alarm import tell

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OK, ALARM, HOLD, FAILED = "ok", "alarm", "hold", "failed"
EXIT_CODES = {OK: 0, FAILED: 2, ALARM: 3, HOLD: 4}
JUDGE_OF = {"gate": "gate", "watch": "checks"}  # stages, and the tables whose manifests say an outcome
JUDGES = tuple(JUDGE_OF.values())


def refuse_held(stage: Stage, spark: SparkSession, settings: Settings, dt: str, force: bool) -> None:
    """Keep ``publish`` from showing lists that the stage watch has held, or has not seen.

    Raises
    ------
    Held
        A check of these lists holds them.
    RecsysError
        The checks are of other lists.
    """
    if stage.name != "publish" or force or not settings.watch.enabled:
        return
    store = TableStore(settings.root)
    checks = store.need("checks", dt)
    from recsys_spark.pipeline import load_stage

    looked_at = all_inputs(load_stage("watch"), spark, settings, dt)["top_n"]
    if checks.inputs.get("top_n") != looked_at.run_id:
        raise RecsysError(
            f"the checks are of run {checks.inputs.get('top_n')}, the lists to be shown are run {looked_at.run_id}",
            store.storage.url(checks.folder),
            "Run the stage watch first.",
        )
    if checks.extra.get("outcome") == HOLD:
        failed = ", ".join(checks.extra["failed"])
        raise Held(
            f"the lists of {dt} are held by the stage watch (failed: {failed}); readers see what they saw before",
            store.storage.url(checks.folder),
            "Look at the checks; 'recsys-spark publish --force' shows the lists all the same.",
        )


def standing(settings: Settings, dt: str, of: str | None = None) -> tuple[str, str]:
    """How a day stands by its tables and its last run: for whoever runs the night a few stages at a time.

    Parameters
    ----------
    settings : Settings
    dt : str
    of : str, optional
        The stage ``gate`` or ``watch``: only its own verdict. A gate's ``hold`` keeps a model back, not the lists.

    Returns
    -------
    outcome, says : str
    """
    store = TableStore(settings.root)
    if of is not None:
        if not _is_on(settings, of):
            return OK, f"the stage {of} is off"
        manifest = store.need(JUDGE_OF[of], dt)
        return str(manifest.extra.get("outcome", OK)), str(manifest.extra.get("says", ""))
    judged = _judged(store, settings, dt)
    says = "; ".join(str(each.extra["says"]) for each in judged.values() if "says" in each.extra)
    outcome = _stands(store, dt, judged)
    if outcome != HOLD and store.current("top_n", dt) is None:
        return FAILED, f"no lists of {dt} are shown{'; ' + says if says else ''}"
    return outcome, says


def _is_on(settings: Settings, judge: str) -> bool:
    return bool(getattr(settings, judge).enabled)


def _judged(store: TableStore, settings: Settings, dt: str) -> dict[str, Manifest]:
    """What the judges said of a day, by table; one that is off now, whatever it found before, says nothing."""
    tables = [table for judge, table in JUDGE_OF.items() if _is_on(settings, judge)]
    return {table: each for table in tables if (each := store.current(table, dt)) is not None}


def _stands(store: TableStore, dt: str, judged: dict[str, Manifest]) -> str:
    """Outcome by the judges: held lists are held, unless they were shown all the same."""
    checks = judged.get("checks")
    if checks is not None and checks.extra.get("outcome") == HOLD:
        lists = None
        with suppress(RecsysError):
            lists = store.current("top_n", dt)
        return ALARM if lists is not None and lists.run_id == checks.inputs.get("top_n") else HOLD
    return worst(judged)


def settle(settings: Settings, dt: str, run_id: str, written: dict[str, Manifest], error: Exception | None) -> str:
    """Say how a run of stages ended: write the file, and tell who is to be told of what is new.

    Parameters
    ----------
    settings : Settings
    dt, run_id : str
    written : dict of str to Manifest
        What the stages wrote or found, by table.
    error : Exception, optional
        What ended the run.

    Returns
    -------
    str
        Outcome.
    """
    store = TableStore(settings.root)
    judged = [written[table] for table in JUDGES if table in written]
    fresh = [each for each in judged if each.run_id == run_id and each.extra.get("outcome", OK) != OK]
    if error is None:  # of a night that is done in several runs of stages: what another one of them found
        with suppress(RecsysError):  # a torn one is written again by its stage, which may be yet to come
            judged += [each for table, each in _judged(store, settings, dt).items() if table not in written]
        outcome = _stands(store, dt, {each.table: each for each in judged})
    else:
        outcome = HOLD if isinstance(error, Held) else FAILED
    failed = [row for each in judged for row in _failures(store, each)]
    says = "; ".join(str(each.extra["says"]) for each in judged if "says" in each.extra)
    content: dict[str, Any] = {
        "name": settings.name,
        "root": settings.root,
        "date": dt,
        "run_id": run_id,
        "outcome": outcome,
        "says": " ".join(str(error).split())[:1000] if error is not None else says,
        "failed": failed,
    }
    if error is not None or any(table in written for table in JUDGES) or _is_mended(store, dt, written):
        _write(store, dt, content)
    if error is not None or {"report", "top_n"} & set(written):
        keep_index(store, settings.name)
    if fresh or (error is not None and not isinstance(error, Held)):
        tell(settings.watch.on_alarm, content)
    return outcome


def tell_failure(settings: Settings, dt: str, says: str) -> list[str]:
    """Tell whoever is to be told that a night failed which could not say so itself; gives what went wrong with that."""
    content = {"name": settings.name, "root": settings.root, "date": dt, "run_id": "", "failed": []}
    return tell(settings.watch.on_alarm, {**content, "outcome": FAILED, "says": " ".join(says.split())[:1000]})


def worst(written: dict[str, Manifest]) -> str:
    """Outcome of a run of stages that ended without an error.

    A check that held the lists was overruled then; a model that the gate held was replaced by the champion's.
    """
    outcomes = {str(written[table].extra.get("outcome", OK)) for table in JUDGES if table in written}
    return OK if outcomes <= {OK} else ALARM


def _is_mended(store: TableStore, dt: str, written: dict[str, Manifest]) -> bool:
    """Whether a run that judged nothing has done what an earlier one failed of: ``publish``, or the page, tried again.

    The lists that it wrote are shown then, or those that the watch has looked at, of which it made the page.
    """
    path = f"_outcomes/dt={dt}.json"
    try:
        before = store.storage.read_json(path) if store.storage.exists(path) else {}
    except RecsysError:
        before = {}
    if not isinstance(before, dict) or before.get("outcome") != FAILED:
        return False
    with suppress(RecsysError):
        lists = store.current("top_n", dt)
        if lists is not None and "top_n" in written:
            return written["top_n"].run_id == lists.run_id
        checks = store.current("checks", dt) if lists is not None and "report" in written else None
        return lists is not None and checks is not None and checks.inputs.get("top_n") == lists.run_id
    return False


def _write(store: TableStore, dt: str, content: dict[str, Any]) -> None:
    try:
        store.storage.write_json(f"_outcomes/dt={dt}.json", content)
    except OSError as error:  # a full disk may be what ended the night
        say(f"the outcome could not be written ({error})")


def _failures(store: TableStore, manifest: Manifest) -> list[dict[str, Any]]:
    """Rows of a judge's table that are not ok."""
    try:
        rows = read_parquet(store.storage, manifest.folder).to_pylist()
    except (OSError, ValueError, RecsysError):  # torn, it may be what ended the night
        return []
    return [{"table": manifest.table, **row} for row in rows if row["level"] != OK]
