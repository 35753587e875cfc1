"""How a night stands, for a scheduler: by its tables, without Spark."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rooted import DT, Root
from typer.testing import CliRunner

from recsys_spark.cli import app
from recsys_spark.config import load_settings
from recsys_spark.errors import RecsysError
from recsys_spark.outcome import settle


def stands(root: Root, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["outcome", "--config", str(root.config), "--date", DT, *words])
    return done.exit_code, done.output.strip()


def judged(root: Root, gate: str = "ok", watch: str = "ok", looked_at: str = "r1") -> None:
    says = {"gate": {"outcome": gate, "says": f"gate says {gate}"}}
    says["checks"] = {"outcome": watch, "says": f"watch says {watch}", "failed": []}
    found = {"gate": root.write("gate", DT, "g", "gate", {}, extra=says["gate"])}
    found["checks"] = root.write("checks", DT, "w", "watch", {"top_n": looked_at}, extra=says["checks"])
    for table, manifest in found.items():
        rows = pa.table({"level": [manifest.extra["outcome"]], "says": [f"{table} says so"]})
        pq.write_table(rows, root.store.storage.path(f"{manifest.folder}/part-0.parquet"))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_a_day_without_lists_failed(root: Root) -> None:
    assert stands(root) == (2, f"failed: no lists of {DT} are shown")


@pytest.mark.parametrize(
    ("gate", "watch", "shown", "code", "outcome"),
    [
        ("ok", "ok", True, 0, "ok"),
        ("hold", "ok", True, 3, "alarm"),  # the champion's lists are shown
        ("alarm", "ok", True, 3, "alarm"),
        ("ok", "alarm", True, 3, "alarm"),
        ("ok", "hold", False, 4, "hold"),
        ("ok", "hold", True, 3, "alarm"),  # shown all the same, by --force
        ("ok", "ok", False, 2, "failed"),
    ],
)
def test_the_night_stands_by_both_judges_and_what_is_shown(
    root: Root, gate: str, watch: str, shown: bool, code: int, outcome: str
) -> None:
    root.night(DT, "r1", show=shown)
    judged(root, gate, watch)
    exit_code, said = stands(root, "--json")
    assert (exit_code, json.loads(said)["outcome"]) == (code, outcome)


def test_lists_of_an_earlier_run_do_not_hide_that_the_new_ones_are_held(root: Root) -> None:
    root.night(DT, "r1")
    judged(root, watch="hold", looked_at="r2")
    assert stands(root)[0] == 4


def test_one_stage_may_be_asked(root: Root) -> None:
    judged(root, gate="hold")
    assert stands(root, "--of", "gate") == (4, "hold: gate says hold")
    assert stands(root, "--of", "watch") == (0, "ok: watch says ok")


@pytest.mark.parametrize("judge", ["gate", "watch"])
def test_a_judge_that_is_off_holds_nothing(root: Root, judge: str) -> None:
    """It has no table then, and the DAG asks for its verdict all the same."""
    off = ["--set", f"{judge}.enabled=false"]
    assert stands(root, "--of", judge, *off) == (0, f"ok: the stage {judge} is off")
    root.night(DT, "r1")
    assert stands(root, *off)[0] == 0


def test_what_a_judge_said_before_it_was_switched_off_is_past(root: Root) -> None:
    root.night(DT, "r2")
    judged(root, watch="hold", looked_at="r1")
    assert stands(root)[0] == 4
    off = ["watch.enabled=false"]
    assert stands(root, "--set", *off)[0] == 0
    gate = root.store.need("gate", DT)
    assert settle(load_settings(str(root.config), off), DT, "r2", {"gate": gate}, None) == "ok"


def test_a_later_run_of_stages_keeps_what_an_earlier_one_found(root: Root) -> None:
    judged(root, gate="alarm")
    checks = root.write("checks", DT, "w2", "watch", {}, extra={"outcome": "ok", "says": "fine", "failed": []})
    for manifest, level in ((root.store.need("gate", DT), "alarm"), (checks, "ok")):
        rows = pa.table({"level": [level], "says": [f"{manifest.table} is {level}"]})
        pq.write_table(rows, root.store.storage.path(f"{manifest.folder}/part-0.parquet"))
    assert settle(load_settings(root.config), DT, "w2", {"checks": checks}, None) == "alarm"
    written = root.store.storage.read_json(f"_outcomes/dt={DT}.json")
    assert (written["outcome"], written["says"]) == ("alarm", "fine; gate says alarm")
    assert written["failed"] == [{"table": "gate", "level": "alarm", "says": "gate is alarm"}]


def test_a_stage_that_was_tried_again_has_not_failed(root: Root) -> None:
    """As the DAG does it: publish, then the page, in runs of their own, which judge nothing."""
    settings, path = load_settings(str(root.config)), f"_outcomes/dt={DT}.json"
    judged(root, looked_at="r2")
    error = RecsysError("the disk is full", "somewhere", "Make room.")

    def outcome() -> str:
        return str(root.store.storage.read_json(path)["outcome"])

    root.night(DT, "r1")
    page = root.write("report", DT, "page", "report", {})
    lists = root.night(DT, "r2", show=False)
    assert settle(settings, DT, "r3", {}, error) == "failed"
    settle(settings, DT, "r3", {"top_n": lists}, None)  # written by score, and not shown yet
    settle(settings, DT, "r3", {"report": page}, None)  # of the lists of an earlier run
    assert outcome() == "failed"
    root.store.point(lists)
    settle(settings, DT, "r4", {"top_n": lists}, None)
    assert outcome() == "ok"
    settle(settings, DT, "r5", {}, error)
    assert outcome() == "failed"
    settle(settings, DT, "r6", {"report": page}, None)
    assert outcome() == "ok"


def test_a_torn_table_of_a_judge_does_not_hide_what_ended_the_night(root: Root) -> None:
    judged(root, gate="alarm")
    gate = root.store.need("gate", DT)
    root.store.storage.write_bytes(f"{gate.folder}/part-0.parquet", b"PAR1 and no more")
    error = RecsysError("the disk is full", "somewhere", "Make room.")
    assert settle(load_settings(root.config), DT, "r", {"gate": gate}, error) == "failed"
    written = root.store.storage.read_json(f"_outcomes/dt={DT}.json")
    assert written["says"] == "somewhere: the disk is full. Make room."


@pytest.mark.parametrize("table", ["gate", "checks", "top_n"])
def test_a_torn_pointer_does_not_stop_the_stages_before_the_one_that_mends_it(root: Root, table: str) -> None:
    """As the DAG does it: clean is a run of its own."""
    root.night(DT, "r1")
    judged(root, watch="hold")
    root.store.storage.write_bytes(f"{table}/dt={DT}/_current.json", b"{")
    root.store.storage.write_json(f"_outcomes/dt={DT}.json", {"outcome": "failed"})
    settle(load_settings(root.config), DT, "r", {}, None)
    assert root.store.storage.read_json(f"_outcomes/dt={DT}.json") == {"outcome": "failed"}


def test_tell_hands_the_words_to_the_alarms_command(root: Root, tmp_path: Path) -> None:
    hook = f"watch.on_alarm.command=tee {tmp_path / 'told'}"
    words = ["tell", "--config", str(root.config), "--date", DT, "--says", "task x failed", "--set", hook]
    assert CliRunner().invoke(app, words).exit_code == 0
    told = json.loads((tmp_path / "told").read_text())
    assert (told["outcome"], told["says"], told["date"]) == ("failed", "task x failed", DT)
    assert CliRunner().invoke(app, [*words, "--set", "watch.on_alarm.command=false"]).exit_code == 1


def test_a_night_whose_spark_does_not_start_is_told(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("Java gateway process exited\nbefore sending its port number")

    monkeypatch.setattr("recsys_spark.spark.make_session", fails)
    monkeypatch.setattr("recsys_spark.cli.end_on_sigterm", lambda: None)
    hook = f"watch.on_alarm.command=tee {tmp_path / 'told'}"
    done = CliRunner().invoke(app, ["clean", "--config", str(root.config), "--date", DT, "--set", hook])
    assert isinstance(done.exception, RuntimeError)
    told = json.loads((tmp_path / "told").read_text())
    assert told["outcome"] == "failed"
    assert told["says"] == "Spark did not start: Java gateway process exited before sending its port number"
