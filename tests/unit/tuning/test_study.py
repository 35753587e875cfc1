"""What a study promises whatever the trainings are: its draws, its memory, and what it writes for people."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from recsys_spark.config import Tuning, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.tuning.results import write_best, write_trials
from recsys_spark.tuning.study import ask, finished, interrupt, open_study

TREE: dict[str, Any] = {
    "name": "shop",
    "root": "tables",
    "input": {
        "interactions": {"path": "log", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "v"}
    },
    "events": {"v": 1.0},
}
SETTINGS = parse_settings(TREE)
BEGUN_WITH = {"date": "2024-03-10", "seeds": [1]}


def tuning(**changes: Any) -> Tuning:
    space = {
        "retrieval.dim": {"type": "int", "low": 8, "high": 128},
        "retrieval.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    }
    values = {"stage": "train-retrieval", "metric": "m", "space": space, "startup_trials": 3, **changes}
    return Tuning.model_validate(values)


def goodness(params: dict[str, Any]) -> float:
    """Stands for a training: best at 48 and 0.02."""
    return -((params["retrieval.dim"] / 48 - 1) ** 2) - (params["retrieval.learning_rate"] / 0.02 - 1) ** 2


def go_on(folder: Path, trials: int, stop_in: int | None = None, **changes: Any) -> list[dict[str, Any]]:
    """Do the trials that are missing; ``stop_in`` leaves that one running, as a kill does. Returns finished ones."""
    asked = tuning(**changes)
    study = open_study("s", folder, asked, BEGUN_WITH)
    while len(finished(study)) < trials:
        trial = ask(study, asked, SETTINGS)
        if len(finished(study)) == stop_in:
            break
        study.tell(trial, goodness(trial.params))
    return [trial.params for trial in finished(study)]


def test_a_study_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = go_on(tmp_path / "whole", 6)
    for stop_in in (0, 4, 4):  # among random draws and among the sampler's own
        assert len(go_on(tmp_path / "killed", 6, stop_in)) == stop_in
    assert go_on(tmp_path / "killed", 6) == whole
    assert len({str(params) for params in whole}) == 6  # no draw is repeated after a stop


def test_another_seed_draws_other_trials(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = go_on(tmp_path / "one", 3), go_on(tmp_path / "other", 3, sampler_seed=2)
    assert one[0] == other[0] == {"retrieval.dim": 64, "retrieval.learning_rate": 0.01}  # the settings as they are
    assert one[1:] != other[1:]


def test_interrupted_trials_are_kept_but_do_not_count(tmp_path: Path) -> None:
    go_on(tmp_path, 4, stop_in=2)
    study = open_study("s", tmp_path, tuning(), BEGUN_WITH)
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]
    assert [trial.number for trial in finished(study)] == [0, 1]


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    go_on(tmp_path, 1)
    with pytest.raises(RecsysError) as error:
        open_study("s", tmp_path, tuning(), {**BEGUN_WITH, "seeds": [1, 2]})
    assert "begun with another seeds" in str(error.value)
    assert "--study" in str(error.value)


def test_a_study_without_a_finished_trial_may_still_change(tmp_path: Path) -> None:
    for wanted in (["bpr", "bce"], ["softmax", "bce", "squared"]):
        space = {"retrieval.loss": {"choices": wanted}}
        study = open_study("s", tmp_path, tuning(space=space), {"space": wanted})
        trial = ask(study, tuning(space=space), SETTINGS)
        assert trial.params["retrieval.loss"] in wanted


def test_pruning_begins_where_it_is_asked_to(tmp_path: Path) -> None:
    """The median of finished trials in the same epoch; the first epochs may be exempt."""
    for warmup, expected in ((0, [True, True]), (1, [False, True]), (2, [False, False])):
        folder = tmp_path / str(warmup)
        folder.mkdir()
        asked = tuning(warmup_epochs=warmup)
        study = open_study("s", folder, asked, BEGUN_WITH)
        good = ask(study, asked, SETTINGS)
        for epoch in (1, 2):
            good.report(0.5, epoch)
            assert not good.should_prune()
        study.tell(good, 0.5)
        bad, found = ask(study, asked, SETTINGS), []
        for epoch in (1, 2):
            bad.report(0.4, epoch)
            found.append(bad.should_prune())
        assert found == expected, warmup


def test_all_trials_are_written(tmp_path: Path) -> None:
    study = open_study("s", tmp_path, tuning(), BEGUN_WITH)
    for state, value in (("COMPLETE", 0.5), ("FAIL", None), ("PRUNED", None), ("FAIL", None)):
        trial = ask(study, tuning(), SETTINGS)
        trial.set_user_attr("settings", trial.params)
        if state == "PRUNED":
            trial.report(0.25, 1)
        if value:
            trial.set_user_attr("values", {1: 0.4, 2: 0.6})
        trial.set_user_attr("seconds", 1.5)
        trial.set_user_attr("error", "it broke, badly" if state == "FAIL" else None)
        if len(study.get_trials()) < 4:
            study.tell(trial, value, TrialState[state])
        else:
            interrupt(study, trial.number)
    write_trials(tmp_path / "trials.csv", study, list(tuning().space))
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "failed", "pruned", "interrupted"]
    assert [row["value"] for row in rows] == ["0.5", "", "0.25", ""]
    assert (rows[0]["seed 1"], rows[0]["seed 2"], rows[0]["seconds"]) == ("0.4", "0.6", "1.5")
    assert rows[0]["retrieval.dim"] == "64"
    assert rows[1]["error"] == "it broke, badly"


def test_the_best_settings_are_a_file_with_variables_as_written(tmp_path: Path) -> None:
    tree = {"root": "${ROOT}/tables", "retrieval": {"dim": 8, "learning_rate": 1e-05, "temperature": None}}
    write_best(tmp_path / "best.yaml", tree, ["one: [line", "another"])
    text = (tmp_path / "best.yaml").read_text()
    assert text.startswith("# one: [line\n# another\n")
    assert yaml.safe_load(text) == tree


def test_optuna_is_quiet_about_what_the_command_tells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go_on(tmp_path, 2)
    assert capfd.readouterr().err == ""
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
