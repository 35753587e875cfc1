"""The study of a search in Optuna's words: where it is kept, what it was begun with, and which trial is next."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_spark.config import Settings, Tuning
from recsys_spark.errors import RecsysError
from recsys_spark.stage import Plan
from recsys_spark.tuning.inputs import SECTIONS
from recsys_spark.tuning.space import Values, distributions, to_drawn

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

DATABASE = "study.db"  # SQLite, in the study's folder
_INTERRUPTED = "interrupted"  # attribute of the study: trials that were stopped from outside and are drawn again
_REDUCTION = 3  # of the pruner halving


def need_optuna() -> None:
    """See that Optuna is there.

    Raises
    ------
    RecsysError
        It is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise RecsysError(
            "the package optuna is not installed",
            "recsys-spark tune",
            "Run 'pip install recsys_spark[tune]' with the project's constraints.txt, or 'make setup'.",
        )


def open_study(name: str, folder: Path, tuning: Tuning, begun_with: dict[str, Any]) -> Study:
    """Begin a study, or go on with it.

    Parameters
    ----------
    name : str
    folder : Path
    tuning : Tuning
    begun_with : dict
        See ``what_decides``.

    Raises
    ------
    RecsysError
        It was begun with something else, so that values of old and new trials would not compare.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # the command has lines of its own
    storage = f"sqlite:///{folder.absolute() / DATABASE}"
    study = _create(name, storage, tuning)
    before = study.user_attrs.get("begun_with", begun_with)
    if before != begun_with:
        if finished(study):
            other = sorted(key for key in {*before, *begun_with} if before.get(key) != begun_with.get(key))
            raise RecsysError(
                f"the study '{name}' was begun with another {' and '.join(other)}; its values would not compare",
                str(folder),
                "Give a new study a name by --study, or delete this folder.",
            )
        optuna.delete_study(study_name=name, storage=storage)
        study = _create(name, storage, tuning)
    study.set_user_attr("begun_with", begun_with)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        interrupt(study, trial.number)  # its process was killed
    return study


def _create(name: str, storage: str, tuning: Tuning) -> Study:
    import optuna

    return optuna.create_study(
        storage=storage, study_name=name, direction=tuning.direction, pruner=_pruner(tuning), load_if_exists=True
    )


def what_decides(tuning: Tuning, settings: Settings, plan: Plan, seeds: list[int]) -> dict[str, Any]:
    """All that the values of a study's trials depend on, beside the trials' own settings; plain values."""
    section = SECTIONS[tuning.stage]
    tree = settings.model_dump(mode="json")[section]
    fixed = {key: value for key, value in tree.items() if f"{section}.{key}" not in tuning.space and key != "seed"}
    return {
        "date": plan.dt,
        "stage": tuning.stage,
        "space": tuning.model_dump(mode="json")["space"],
        "metric": tuning.metric,
        "direction": tuning.direction,
        "seeds": seeds,
        "tables": {name: manifest.content_hash for name, manifest in sorted(plan.inputs.items())},
        f"section '{section}' of the settings": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest(),
        "number of ranks": settings.launch.ranks,
    }


def finished(study: Study) -> list[FrozenTrial]:
    """Trials that have come to their own end: complete, pruned or failed, but not interrupted."""
    stopped = interrupted(study)
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in stopped]


def interrupted(study: Study) -> set[int]:
    """Numbers of the trials that were stopped from outside."""
    return set(study.user_attrs.get(_INTERRUPTED, []))


def interrupt(study: Study, number: int) -> None:
    """Note that a trial was stopped from outside. It is kept, but counts for nothing."""
    from optuna.trial import TrialState

    study.set_user_attr(_INTERRUPTED, sorted({*interrupted(study), number}))
    study.tell(number, state=TrialState.FAIL)


def ask(study: Study, tuning: Tuning, settings: Settings) -> Trial:
    """Draw the next trial; the first one is the settings as they are, where they lie in the space.

    Its draws follow from the sampler's seed and the number of finished trials, so that a study that was interrupted
    goes on as if it had not been.
    """
    from optuna.trial import TrialState

    done = len(finished(study))
    study.sampler = _sampler(tuning, done)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    now: Values | None = to_drawn(tuning.space, settings)
    if done == 0 and not waiting and now is not None:
        study.enqueue_trial(now)
    return study.ask(distributions(tuning.space))


def _sampler(tuning: Tuning, done: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([tuning.sampler_seed, done]).generate_state(1)[0])
    if tuning.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=tuning.startup_trials)


def _pruner(tuning: Tuning) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if tuning.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION)
    if tuning.pruner == "median":
        return MedianPruner(n_startup_trials=0, n_warmup_steps=tuning.warmup_epochs + 1)
    return NopPruner()
