"""What a study leaves for people: a table of all trials, and the best settings as a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recsys_spark.tables.storage import Storage
from recsys_spark.tuning.study import interrupted

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TRIALS, BEST = "trials.csv", "best.yaml"  # in the study's folder


def write_trials(file: Path, study: Study, keys: list[str]) -> None:
    """Write all trials, a row each.

    Columns: trial, state (complete, pruned, failed, interrupted, running), value (the mean over seeds; of a pruned one
    the last figure of its first seed), begun (UTC), seconds, a column a setting, seed <n> (value of each), error.
    """
    text, trials, stopped = io.StringIO(), study.get_trials(deepcopy=False), interrupted(study)
    seeds = list(dict.fromkeys(seed for trial in trials for seed in trial.user_attrs.get("values", {})))
    columns = ["trial", "state", "value", "begun", "seconds", *keys, *[f"seed {seed}" for seed in seeds], "error"]
    rows = csv.DictWriter(text, columns, lineterminator="\n")
    rows.writeheader()
    for trial in trials:
        about = trial.user_attrs
        rows.writerow(
            {
                "trial": trial.number,
                "state": "interrupted" if trial.number in stopped else state_of(trial),
                "value": trial.value,
                "begun": about.get("begun"),
                "seconds": about.get("seconds"),
                **{key: about.get("settings", {}).get(key) for key in keys},
                **{f"seed {seed}": value for seed, value in about.get("values", {}).items()},
                "error": about.get("error"),
            }
        )
    _write(file, text.getvalue())


def state_of(trial: FrozenTrial) -> str:
    """What became of a trial, in a word."""
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def write_best(file: Path, tree: dict[str, Any], about: list[str]) -> None:
    """Write settings with some lines of comment above them."""
    head = "".join(f"# {line}\n" for line in about)
    _write(file, head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))


def _write(file: Path, text: str) -> None:
    """Replace a file in one step: a study may be looked at while it runs."""
    Storage(str(file.parent)).write_bytes(file.name, text.encode())
