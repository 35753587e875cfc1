"""The search itself: trial after trial, until the study has as many as it is to have."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Settings, Tuning
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.stage import Plan
from recsys_spark.training.loop import best_epoch
from recsys_spark.tuning.inputs import make_job
from recsys_spark.tuning.results import BEST, TRIALS, state_of, write_best, write_trials
from recsys_spark.tuning.space import Values, changed, to_values, with_values
from recsys_spark.tuning.study import ask, finished, interrupt
from recsys_spark.tuning.training import Judge, Trained, TrainingError, train

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial, TrialState


@dataclass
class Search:
    """A study at work.

    Parameters
    ----------
    study : optuna.Study
    tuning : Tuning
    tree : dict
        Settings as written, with the changes of the command line.
    settings : Settings
        The same, checked.
    plan : Plan
        What trials train on.
    seeds : list of int
    folder : Path
        Of the study: its database, tables, logs.
    work : str
        Folder of unfinished trainings, relative to the root.
    """

    study: Study
    tuning: Tuning
    tree: dict[str, Any]
    settings: Settings
    plan: Plan
    seeds: list[int]
    folder: Path
    work: str

    def run(self) -> FrozenTrial:
        """Do the trials that are missing; returns the best of all.

        Raises
        ------
        RecsysError
            No trial is complete, or the metric is none of the training's.
        """
        began, limit = time.monotonic(), self.tuning.timeout_minutes
        while (done := len(finished(self.study))) < self.tuning.trials:
            if limit is not None and time.monotonic() - began > 60 * limit:
                say(f"no trial begins after {limit:g} minutes: {self.tuning.trials - done} are not done")
                break
            self._trial(ask(self.study, self.tuning, self.settings), done)
            self._write()
        self._write()
        best = self.best()
        if best is None:
            trials = finished(self.study)
            last = trials[-1].user_attrs.get("error", "") if trials else "none was done"
            raise RecsysError(
                f"none of {len(trials)} trials is complete; the last: {last}",
                str(self.folder),
                "Mend the cause; delete the folder or give another --study to begin anew.",
            )
        return best

    def best(self) -> FrozenTrial | None:
        """Complete trial with the best value, the first of equal ones."""
        trials = [each for each in finished(self.study) if state_of(each) == "complete"]
        sign = 1 if self.tuning.direction == "maximize" else -1
        return max(trials, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)

    def _trial(self, trial: Trial, done: int) -> None:
        from optuna.trial import TrialState

        values = to_values(self.tuning.space, trial.params)
        name = f"trial {trial.number} ({done + 1} of {self.tuning.trials})"
        say(f"{name}: " + " · ".join(f"{key} {_short(value)}" for key, value in values.items()))
        trial.set_user_attr("settings", values)
        trial.set_user_attr("begun", datetime.now(UTC).isoformat(timespec="seconds"))
        began = time.monotonic()
        try:
            mean = self._mean(trial, values, done)
        except _TrialError as error:
            trial.set_user_attr("error", str(error))
            self._end(trial, None, TrialState.FAIL, began)
        except BaseException:  # SIGTERM, Ctrl-C, or a metric that the training has not
            interrupt(self.study, trial.number)
            self._write()
            raise
        else:
            self._end(trial, mean, TrialState.PRUNED if mean is None else TrialState.COMPLETE, began)
        self._tell(name, trial.number)

    def _mean(self, trial: Trial, values: Values, done: int) -> float | None:
        """Mean over the seeds; None where the first seed's curve was not worth more."""
        try:
            settings = with_values(self.tree, values, f"trial {trial.number}")
        except RecsysError as error:
            raise _TrialError(str(error)) from error
        found: dict[int, float] = {}
        for seed in self.seeds:
            judge = partial(self._judge, None if found else trial, done, seed)
            trained = self._train(trial.number, settings, seed, judge)
            if trained is None:
                return None
            kept = trained.curve[best_epoch(trained.curve, trained.metric) - 1]
            found[seed] = self._figure(kept)
            trial.set_user_attr("values", found)
        return fmean(found.values())

    def _judge(self, trial: Trial | None, done: int, seed: int, epoch: int, figures: dict[str, float]) -> bool:
        """Tell a point of the curve; whether the trial is to be ended, which is asked for its first seed only."""
        value = self._figure(figures)
        say(f"    seed {seed}, epoch {epoch}: {self.tuning.metric} {value:.5g}")
        if trial is None:
            return False
        trial.report(value, epoch)
        return trial.should_prune() and done >= self.tuning.startup_trials  # the pruner must see each point

    def _train(self, number: int, settings: Settings, seed: int, judge: Judge) -> Trained | None:
        """Train with a seed; nothing but logs is left."""
        storage = self.plan.store.storage
        name = f"trial-{number:04d}-seed-{seed}"
        logs = self.folder / "logs" / name
        job_file = f"{self.work}/{name}/job.json"
        try:
            storage.write_json(job_file, make_job(self.plan, settings, seed, name, self.work, str(logs)))
            return train(storage, job_file, settings.launch, logs, judge)
        except TrainingError as error:
            raise _TrialError(str(error)) from error
        finally:
            storage.delete_folder(f"{self.work}/{name}")

    def _figure(self, figures: dict[str, float]) -> float:
        if self.tuning.metric not in figures:
            raise RecsysError(
                f"the training has no figure '{self.tuning.metric}' of its validation, but {', '.join(figures)}",
                "key 'metric' of the space",
                "Name one of these; where there is no validation figure, the validation window holds nothing to guess.",
            )
        return figures[self.tuning.metric]

    def _end(self, trial: Trial, value: float | None, state: TrialState, began: float) -> None:
        trial.set_user_attr("seconds", round(time.monotonic() - began, 1))
        self.study.tell(trial, value, state)

    def _tell(self, name: str, number: int) -> None:
        trial = self.study.get_trials(deepcopy=False)[number]
        value = "" if trial.value is None else f" {self.tuning.metric} {trial.value:.5g}"
        error = f" ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
        best, done = self.best(), finished(self.study)
        so_far = "" if best is None else f" · best {best.value:.5g} (trial {best.number})"
        seconds = trial.user_attrs["seconds"]
        left = fmean(each.user_attrs["seconds"] for each in done) * max(self.tuning.trials - len(done), 0)
        say(f"{name}: {state_of(trial)}{value}{error}{so_far} · {seconds:.0f} s · {left:,.0f} s left")

    def _write(self) -> None:
        """Bring the tables that people read up to date."""
        write_trials(self.folder / TRIALS, self.study, list(self.tuning.space))
        best = self.best()
        if best is None:
            return
        about = [
            f"Written by 'recsys-spark tune': trial {best.number} of study {self.study.study_name}, the best of "
            f"{len(finished(self.study))}",
            f"by {self.tuning.metric} on the validation window of {self.plan.dt}: {best.value:.6g}, "
            f"mean over the seeds {self.seeds}. All trials: {TRIALS} beside this file.",
        ]
        tree = changed(self.tree, best.user_attrs["settings"], BEST)
        write_best(self.folder / BEST, tree, about)


class _TrialError(Exception):
    """A trial failed; the study goes on."""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
