from __future__ import annotations

import json
from pathlib import Path

import pytest
from rooted import DT, EARLIER, Root

from recsys_spark.cli import main
from recsys_spark.errors import RecsysError
from recsys_spark.operating.rollback import roll_back
from recsys_spark.operating.runs import list_runs
from recsys_spark.tables.pointer import read_pointer


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Two days; of the newer one three runs that were shown one after the other, and one that was never sealed."""
    made = Root(tmp_path)
    made.night(EARLIER, "20240309T030000-a")
    for run_id in ("20240310T030000-a", "20240310T040000-b", "20240310T050000-c"):
        made.night(DT, run_id)
    made.torn(DT, "20240310T060000-d")
    return made


def states(root: Root, dt: str = DT) -> dict[str, str]:
    return {run.run[-1]: run.state for run in list_runs(root.store, ["top_n"], [dt])}


def test_the_run_before_is_shown_again(root: Root) -> None:
    assert states(root) == {"a": "complete", "b": "complete", "c": "current", "d": "torn"}
    rolled = roll_back(root.store, "top_n", DT)
    assert (rolled.before.run_id[-1], rolled.now.run_id[-1]) == ("c", "b")
    assert root.store.need("top_n", DT).run_id[-1] == "b"
    assert states(root) == {"a": "complete", "b": "current", "c": "rolled back", "d": "torn"}
    assert roll_back(root.store, "top_n", DT).now.run_id[-1] == "a"
    with pytest.raises(RecsysError, match="no earlier complete run"):
        roll_back(root.store, "top_n", DT)
    assert states(root)["a"] == "current"


def test_a_named_run_is_shown_also_one_that_was_turned_down(root: Root) -> None:
    roll_back(root.store, "top_n", DT, to="20240310T030000-a")
    assert roll_back(root.store, "top_n", DT, to="20240310T050000-c").now.run_id[-1] == "c"
    with pytest.raises(RecsysError, match=r"no complete run '20240310T060000-d'") as error:
        roll_back(root.store, "top_n", DT, to="20240310T060000-d")
    assert "20240310T040000-b" in error.value.do
    assert states(root)["c"] == "current"


def test_a_run_that_a_check_held_is_not_what_readers_go_back_to(root: Root) -> None:
    """Whole, and newer than what they saw before; but they never saw it, and somebody may know why."""
    root.night(DT, "20240310T070000-e", show=False)
    root.night(DT, "20240310T080000-f")
    assert roll_back(root.store, "top_n", DT).now.run_id[-1] == "c"
    assert roll_back(root.store, "top_n", DT, to="20240310T070000-e").now.run_id[-1] == "e"
    assert read_pointer(root.store.storage, "top_n", DT).earlier[-1][-1] == "c"


def test_of_a_day_that_was_never_shown_nothing_is(root: Root) -> None:
    root.night("2024-03-11", "20240311T030000-a", show=False)
    with pytest.raises(RecsysError, match="no earlier complete run that readers saw") as error:
        roll_back(root.store, "top_n", "2024-03-11")
    assert "--to" in error.value.do


def test_a_torn_pointer_is_mended_by_the_newest_whole_run(root: Root) -> None:
    root.store.storage.write_bytes(f"top_n/dt={DT}/_current.json", b"{")
    assert roll_back(root.store, "top_n", DT).now.run_id[-1] == "c"


def test_a_damaged_run_is_passed_over(root: Root) -> None:
    manifest = root.store.manifest("top_n", DT, "20240310T040000-b")
    root.store.storage.delete_file(f"{manifest.folder}/{manifest.files[0].name}")
    assert roll_back(root.store, "top_n", DT).now.run_id[-1] == "a"
    with pytest.raises(RecsysError, match="missing or changed"):
        roll_back(root.store, "top_n", DT, to="20240310T040000-b")


def test_a_withdrawn_day_leaves_the_day_before(root: Root) -> None:
    rolled = roll_back(root.store, "top_n", DT, withdraw=True)
    assert rolled.now is None
    assert rolled.newest.dt == EARLIER
    assert root.store.current("top_n", DT) is None
    assert "current" not in states(root).values()


def test_what_was_turned_down_is_remembered(root: Root) -> None:
    bad = root.store.need("top_n", DT)
    roll_back(root.store, "top_n", DT)
    assert read_pointer(root.store.storage, "top_n", DT).refused == (bad.content_hash,)


def test_who_shows_it_again_does_not_turn_it_down_any_more(root: Root) -> None:
    """Back, and forth again: what a person shows by its name is refused to no later run, nor passed over going back."""
    b, c = (root.store.manifest("top_n", DT, f"20240310T0{hour}0000-{name}") for hour, name in ((4, "b"), (5, "c")))
    roll_back(root.store, "top_n", DT)
    roll_back(root.store, "top_n", DT, to=c.run_id)
    assert read_pointer(root.store.storage, "top_n", DT).refused == (b.content_hash,)
    roll_back(root.store, "top_n", DT, to=b.run_id)
    assert read_pointer(root.store.storage, "top_n", DT).refused == (c.content_hash,)
    root.store.point(c)  # a stage with --force
    assert read_pointer(root.store.storage, "top_n", DT).refused == ()
    assert roll_back(root.store, "top_n", DT).now.run_id == b.run_id


def test_the_command_says_what_is_served(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    main_ok(["rollback", "--config", str(root.config), "--table", "top_n", "--date", DT])
    before, now, newest, again = capsys.readouterr().out.splitlines()
    assert "20240310T050000-c" in before
    assert "20240310T040000-b" in now
    assert "20240310T040000-b" in newest
    assert "not shown again" in again


def test_the_command_lists_runs(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    main_ok(["runs", "--config", str(root.config), "--table", "top_n"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["date", "run", "table", "state"]
    assert [line.split()[0] for line in lines] == [DT] * 4 + [EARLIER]
    assert lines[2].split()[:5] == [DT, "20240310T050000-c", "top_n", "current", "publish"]
    main_ok(["runs", "--config", str(root.config), "--date", DT, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["table"] for row in rows} == {"ranker", "top_n"}
    assert next(row for row in rows if row["run"] == "20240310T050000-c" and row["table"] == "ranker")["seconds"] == 2.5


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "--table", "nothing"], "no table 'nothing'"),
        (["rollback", "--table", "top_n", "--date", "2024-3-1"], "is no day"),
        (["rollback", "--table", "top_n", "--date", DT, "--to", "x", "--withdraw"], "both given"),
        (["rollback", "--table", "nothing", "--date", DT], "no table 'nothing'"),
    ],
)
def test_a_wrong_wish_is_one_line(root: Root, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([words[0], "--config", str(root.config), *words[1:]])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
