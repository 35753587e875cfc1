"""What trials train on: tables that the stages before have written by the same settings, and the jobs made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.pipeline import load_stage
from recsys_spark.stage import Plan, needed_inputs
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp
from recsys_spark.training.stages import choosing_part, ranker_job, retrieval_job

_JOBS: dict[str, Callable[[Plan, str], dict[str, Any]]] = {
    "train-retrieval": retrieval_job,
    "train-ranker": ranker_job,
}
SECTIONS = {"train-retrieval": "retrieval", "train-ranker": "ranker"}


def find_plan(stage: str, settings: Settings, dt: str) -> Plan:
    """Tables that the stage would read now.

    Raises
    ------
    RecsysError
        One is missing or damaged, or was written by other settings.
    """
    store = TableStore(settings.root)
    inputs = needed_inputs(load_stage(stage), store, dt)
    checked: set[tuple[str, str]] = set()
    for manifest in inputs.values():
        _check_settings(store, manifest, settings, checked)
    return Plan(settings, store, dt, Stamp(dt, "", stage, "", "", "", {}), inputs)


def _check_settings(store: TableStore, manifest: Manifest, settings: Settings, checked: set[tuple[str, str]]) -> None:
    """Refuse a table that other settings have made, or whose own inputs were made by others."""
    if (manifest.table, manifest.run_id) in checked:
        return
    checked.add((manifest.table, manifest.run_id))
    if manifest.settings_hash != settings.section_hash(*load_stage(manifest.stage).sections):
        raise RecsysError(
            f"the stage '{manifest.stage}' wrote it by other settings than these",
            store.storage.url(manifest.folder),
            f"Run 'recsys-spark {manifest.stage}' by these settings first, and the stages after it.",
        )
    for table, run_id in manifest.inputs.items():
        try:
            above = store.manifest(table, manifest.dt, run_id)
        except RecsysError:
            continue  # an older run that was deleted since
        _check_settings(store, above, settings, checked)


def make_job(plan: Plan, settings: Settings, seed: int, name: str, folder: str, logs: str) -> dict[str, Any]:
    """Job of a trial's training: what the stage would do with these settings, as far as they are judged by it.

    Parameters
    ----------
    plan : Plan
        See ``find_plan``.
    settings : Settings
    seed : int
    name : str
        Of the training, below ``folder``.
    folder : str
        Where it writes, relative to the root.
    logs : str
        Local folder of its curves.
    """
    stage = plan.stamp.stage
    section = SECTIONS[stage]
    settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update={"seed": seed})})
    stamp = replace(plan.stamp, run_id=f"{folder}/{name}", fingerprint=uuid4().hex)
    job = _JOBS[stage](replace(plan, settings=settings, stamp=stamp), f"{folder}/validation-{seed}")
    own = {key: f"{folder}/{name}/{key}" for key in ("output", "checkpoints", "scratch")} | {"log_folder": logs}
    return choosing_part({**job, **own})


def seed_of(stage: str, settings: Settings) -> int:
    """The settings' own seed of a training."""
    return int(getattr(settings, SECTIONS[stage]).seed)
