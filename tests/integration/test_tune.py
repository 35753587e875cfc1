"""A search by the command line: real trainings on a night's tables, stopped twice and gone on with."""

from __future__ import annotations

import csv
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from harness import (
    BIN,
    Finished,
    Night,
    complaint,
    copied,
    end_all,
    environment,
    lines_with,
    outliving,
    pointers,
    recsys,
)

from recsys_spark.cli import main
from recsys_spark.config import load_settings
from recsys_spark.tables import TableStore

pytestmark = pytest.mark.integration

# by this seed of the random draws: as they are, 0.02, no step at all, so large a step that the loss overflows
SPACE: dict[str, Any] = {
    "stage": "train-retrieval",
    "metric": "ndcg100_new",
    "trials": 4,
    "startup_trials": 2,
    "sampler": "random",
    "sampler_seed": 94,
    "space": {
        "retrieval.learning_rate": {"choices": [0.05, 0.02, 1.0e-7, 1.0e30]},
        "retrieval.weight_decay": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    },
}
# two epochs of one rank, and no biases: what was not trained ranks at random
CHANGES = ["--set", "launch={launcher: local}", "--set", "retrieval.epochs=2", "--set", "retrieval.bias=false"]


def space_file(folder: Path, **changes: Any) -> Path:
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({**SPACE, **changes}))
    return file


def all_files(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files below a root, but for those of searches."""
    found = [path for path in root.rglob("*") if path.is_file() and "_tune" not in path.relative_to(root).parts]
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def best_of_curve(store: TableStore, table: str, dt: str) -> float:
    """Best validation figure of the first curve of a day's model."""
    curves = store.storage.read_json(f"{store.need(table, dt).folder}/curves.json")
    first = next(curve for curve in curves["curves"].values() if curves["metric"] in curve[0])
    return max(point[curves["metric"]] for point in first)


def stopped(command: list[str | Path], near: str, log: Path, how: signal.Signals) -> tuple[int, list[str]]:
    """Start a search and stop it when it has said something; its exit code, and the commands that outlived it."""
    with log.open("w") as out:
        search = psutil.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        until = time.monotonic() + 300
        while not (lines_with(log.read_text(), near) and (family := search.children(recursive=True))):
            assert search.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        search.send_signal(how)
        return search.wait(60), outliving(family)
    finally:
        end_all([search, *family])


@dataclass(frozen=True)
class Tuned:
    """A search that was killed in its second trial, asked to stop in its third, and then done."""

    config: Path
    root: Path
    folder: Path
    stops: list[tuple[int, list[str]]]
    run: Finished
    before: dict[str, tuple[int, int]]

    @property
    def trials(self) -> list[dict[str, str]]:
        """Rows of ``trials.csv``."""
        with (self.folder / "trials.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tuned(yesterday: Night, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The search, on a copy of a night's root."""
    folder = tmp_path_factory.mktemp("tuned")
    config, root = copied(yesterday, folder)
    words = ["--config", config, "--date", yesterday.dt, "--space", space_file(folder), "--study", "s", *CHANGES]
    before = all_files(root)
    command: list[str | Path] = [BIN / "recsys-spark", "tune", *words]
    stops = [
        stopped(command, r"trial 1 \(2 of 4\)", folder / "killed.log", signal.SIGKILL),
        stopped(command, r"trial 3 \(3 of 4\)", folder / "ended.log", signal.SIGTERM),
    ]
    return Tuned(config, root, root / "_tune" / "s", stops, recsys("tune", *words), before)


def test_trials_end_with_the_search_that_began_them(tuned: Tuned) -> None:
    assert tuned.stops == [(-signal.SIGKILL, []), (128 + signal.SIGTERM, [])]


def test_all_trials_are_kept_and_each_tells_what_became_of_it(tuned: Tuned) -> None:
    assert tuned.run.code == 0, tuned.run
    found = {(row["trial"], row["retrieval.learning_rate"], row["state"]) for row in tuned.trials}
    assert found == {
        ("0", "0.05", "complete"),
        ("1", "0.02", "interrupted"),
        ("2", "0.02", "complete"),
        ("3", "1e-07", "interrupted"),
        ("4", "1e-07", "pruned"),
        ("5", "1e+30", "failed"),
    }
    rows = {row["trial"]: row for row in tuned.trials}
    assert "not finite" in rows["5"]["error"]
    assert rows["1"]["retrieval.weight_decay"] == rows["2"]["retrieval.weight_decay"]  # it was drawn again
    assert float(rows["4"]["value"]) < float(rows["0"]["value"])
    assert lines_with(tuned.run.out, r"trial 4 \(3 of 4\): pruned .* best .* left")


def test_a_pruned_trial_was_ended_before_its_last_epoch(tuned: Tuned) -> None:
    curve = (tuned.folder / "logs" / "trial-0004-seed-1" / "curve.jsonl").read_text()
    assert len(curve.splitlines()) < 3


def test_what_readers_see_was_not_touched(tuned: Tuned) -> None:
    assert all_files(tuned.root) == tuned.before
    assert sorted(path.name for path in tuned.folder.iterdir()) == [
        "_locks",
        "best.yaml",
        "logs",
        "study.db",
        "trials.csv",
    ]


def test_the_best_settings_give_the_best_figure_again(tuned: Tuned, yesterday: Night, tmp_path: Path) -> None:
    """By the stage itself, from the written file alone; on another copy, since it moves pointers."""
    best = tuned.folder / "best.yaml"
    complete = [row for row in tuned.trials if row["state"] == "complete"]
    value = max(float(row["value"]) for row in complete)
    settings = load_settings(best)
    assert lines_with(best.read_text(), rf"^# .*ndcg100_new on the validation window of {yesterday.dt}: {value:.6g}")
    assert {str(settings.retrieval.learning_rate)} == {
        row["retrieval.learning_rate"] for row in complete if float(row["value"]) == value
    }
    assert (settings.retrieval.epochs, settings.launch.launcher) == (2, "local")

    _, root = copied(yesterday, tmp_path)
    run = recsys("train-retrieval", "--config", best, "--set", f"root={root}", "--date", yesterday.dt)
    assert run.code == 0, run
    assert best_of_curve(TableStore(str(root)), "retrieval_model", yesterday.dt) == value


def test_a_trial_of_the_settings_as_they_are_is_the_nights_own_training(yesterday: Night, tmp_path: Path) -> None:
    """The ranker, on two ranks: the same figure as the night's, to the last digit."""
    config, root = copied(yesterday, tmp_path)
    space = {"ranker.dropout": {"type": "float", "low": 0.0, "high": 0.5}, "ranker.hidden": {"choices": [[8], [16, 8]]}}
    given = {"stage": "train-ranker", "metric": "minus_logloss", "trials": 1, "seeds": [1, 2], "space": space}
    file = space_file(tmp_path, **given)
    seen = pointers(root)
    run = recsys("tune", "--config", config, "--date", yesterday.dt, "--space", file)

    assert run.code == 0, run
    (row,) = csv.DictReader((root / "_tune" / f"space-{yesterday.dt}" / "trials.csv").read_text().splitlines())
    assert (row["state"], row["ranker.hidden"], row["ranker.dropout"]) == ("complete", "[8]", "0.1")
    assert float(row["seed 1"]) == best_of_curve(yesterday.store, "ranker", yesterday.dt)
    assert row["seed 2"] != row["seed 1"]
    assert float(row["value"]) == pytest.approx((float(row["seed 1"]) + float(row["seed 2"])) / 2)
    assert pointers(root) == seen


def test_no_complete_trial_is_one_clear_error(yesterday: Night, tmp_path: Path) -> None:
    config, _ = copied(yesterday, tmp_path)
    words = ["--config", config, "--date", yesterday.dt, *CHANGES, "--set", "retrieval.learning_rate=1.0e30"]
    run = recsys("tune", *words, "--space", space_file(tmp_path), "--trials", "1")
    assert "none of 1 trials is complete; the last: " in complaint(run)
    assert "not finite" in complaint(run)


def test_a_figure_that_the_training_has_not_ends_the_search(yesterday: Night, tmp_path: Path) -> None:
    config, root = copied(yesterday, tmp_path)
    words = ["--config", config, "--date", yesterday.dt, *CHANGES]
    run = recsys("tune", *words, "--space", space_file(tmp_path, metric="ndcg10"))
    assert "no figure 'ndcg10'" in complaint(run)
    assert "ndcg100_new" in complaint(run)
    assert not list((root / "_tune").glob("*/work"))


Refused = Callable[..., str]


@pytest.fixture
def refused(yesterday: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Ask for a search that must be refused at once; gives the one line that it says."""

    def ask(*words: str, date: str = yesterday.dt, **changes: Any) -> str:
        file = space_file(tmp_path, **changes)
        command = ["tune", "--config", str(yesterday.config), "--date", date, "--space", str(file), *words]
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert "trial" not in said.out
        (line,) = said.err.splitlines()
        return line

    return ask


def test_what_is_refused_before_the_first_trial(refused: Refused, yesterday: Night) -> None:
    assert "no table 'examples' for 2024-02-01" in refused(date="2024-02-01")
    assert "'20240303' is no day" in refused(date="20240303")
    line = refused("--set", "split.valid_days=7")
    assert "the stage 'featurize' wrote it by other settings" in line
    assert "Run 'recsys-spark featurize'" in line
    assert "the stage 'clean' wrote it by other settings" in refused("--set", "events.view=2.0")
    assert "Did you mean 'dim'?" in refused(space={"retrieval.dimm": {"choices": [1, 2]}})
    assert "'launch.launcher' = spark" in refused("--set", "launch={launcher: spark}")
    assert "cannot be the name of a study" in refused("--study", "../up")
    assert not (yesterday.root / "_tune").exists()
