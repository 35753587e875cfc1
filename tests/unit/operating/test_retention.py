from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rooted import Root

from recsys_spark.cli import main
from recsys_spark.config import Retention, load_settings
from recsys_spark.errors import RecsysError
from recsys_spark.operating.retention import clear, clear_scratch, plan_clearing
from recsys_spark.pipeline import run_stages
from recsys_spark.tables.manifest import FileEntry

DAYS = [f"2024-03-{day:02d}" for day in range(1, 11)]


def ids(clearing: object) -> set[tuple[str, str, str]]:
    return set(clearing.runs)  # type: ignore[attr-defined]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Ten days, two runs of each, ``b`` shown; and a run of the last day that was never sealed."""
    made = Root(tmp_path)
    for dt in DAYS:
        made.night(dt, f"{dt}-a")
        made.night(dt, f"{dt}-b")
    made.torn(DAYS[-1], "20240310T060000-torn")
    return made


def test_nothing_is_deleted_unless_asked_for(root: Root) -> None:
    assert plan_clearing(root.store, Retention()).runs == []


def test_runs_of_a_day_by_number(root: Root) -> None:
    clearing = plan_clearing(root.store, Retention(keep_runs=1, grace_hours=0))
    gone = {(table, dt, f"{dt}-a") for table in ("top_n", "ranker") for dt in DAYS}
    assert ids(clearing) == gone | {("top_n", DAYS[-1], "20240310T060000-torn")}
    assert clearing.pointers == []
    clear(root.store, clearing)
    for dt in DAYS:
        assert root.store.need("top_n", dt).run_id == f"{dt}-b"
        assert root.store.damage(root.store.need("top_n", dt)) == []
        assert [run.run_id for run in root.store.runs("ranker", dt)] == [f"{dt}-b"]
    assert plan_clearing(root.store, Retention(keep_runs=1, grace_hours=0)).runs == []


def test_days_by_age(root: Root) -> None:
    clearing = plan_clearing(root.store, Retention(keep_days=3, grace_hours=0))
    assert {dt for _, dt, _ in clearing.runs} == {*DAYS[:7], DAYS[-1]}  # of the last only what was never sealed
    clear(root.store, clearing)
    assert root.store.days("top_n") == DAYS[7:]
    assert len(root.store.runs("top_n", DAYS[7])) == 2
    assert root.store.latest("top_n").dt == DAYS[-1]


def test_a_run_that_readers_see_stays_though_it_is_not_among_the_newest(root: Root) -> None:
    root.store.point(root.store.manifest("top_n", DAYS[4], f"{DAYS[4]}-a"))
    clearing = plan_clearing(root.store, Retention(keep_runs=1, grace_hours=0))
    assert ("top_n", DAYS[4], f"{DAYS[4]}-a") not in clearing.runs
    assert ("ranker", DAYS[4], f"{DAYS[4]}-a") not in clearing.runs  # it was made by that


def test_inputs_of_another_day_and_the_champion_stay(root: Root) -> None:
    models = {"ranker": {"dt": DAYS[0], "run_id": f"{DAYS[0]}-a"}}
    root.write("top_n", DAYS[-1], "by-the-champion", "score", {}, extra={"models": models})
    clearing = plan_clearing(root.store, Retention(keep_runs=1, keep_days=1, grace_hours=0))
    assert ("ranker", DAYS[0], f"{DAYS[0]}-a") not in clearing.runs
    assert ("ranker", DAYS[0], f"{DAYS[0]}-b") in clearing.runs


def test_folders_that_hold_files_of_a_kept_run_stay(root: Root) -> None:
    """A table in parts: yesterday's run names the files of the day before, tonight's those of yesterday alone."""
    first = root.write("interactions", DAYS[0], "first", "clean", {})
    second = root.write("interactions", DAYS[1], "second", "clean", {}, borrowed=[borrowed(first)])
    third = root.write("interactions", DAYS[2], "third", "clean", {}, borrowed=[borrowed(second)])
    clearing = plan_clearing(root.store, Retention(keep_days=1, grace_hours=0))
    gone = {key for key in ids(clearing) if key[0] == "interactions"}
    assert gone == {("interactions", DAYS[0], "first")}
    clear(root.store, clearing)
    assert root.store.damage(third) == []
    assert root.store.days("interactions") == DAYS[1:3]
    assert root.store.latest("interactions") == third
    assert root.store.current("interactions", DAYS[1]) is None


def borrowed(manifest: object) -> FileEntry:
    entry = manifest.files[0]  # type: ignore[attr-defined]
    return FileEntry(entry.name, entry.bytes, entry.rows, manifest.folder)  # type: ignore[attr-defined]


@pytest.mark.parametrize("table", ["user_ids", "item_ids", "vocabularies"])
def test_the_longest_id_table_stays_with_its_pointer(root: Root, table: str) -> None:
    for dt in DAYS:
        root.write(table, dt, f"{dt}-ids", "featurize", {})
    root.store.storage.write_json(f"{table}/_head.json", {"dt": DAYS[2], "run_id": f"{DAYS[2]}-ids"})  # a back-fill
    clearing = plan_clearing(root.store, Retention(keep_days=2, grace_hours=0))
    clear(root.store, clearing)
    assert root.store.days(table) == [DAYS[2], *DAYS[8:]]
    assert root.store.need(table, DAYS[2]).run_id == f"{DAYS[2]}-ids"


def test_checkpoints_that_nobody_goes_on_with_go(root: Root) -> None:
    """Of a training whose tables or settings have become others since it broke off."""
    storage = root.store.storage
    for name in ("retrieval-old", "retrieval-new"):
        storage.write_bytes(f"_checkpoints/{name}/full/test/step-1/part", b"x")
    eight_days_ago = time.time() - 8 * 86_400
    for path in sorted(Path(storage.path("_checkpoints/retrieval-old")).rglob("*"), reverse=True):
        os.utime(path, (eight_days_ago, eight_days_ago))
    clear(root.store, plan_clearing(root.store, Retention()))
    assert len(storage.names("_checkpoints")) == 2
    clear(root.store, plan_clearing(root.store, Retention(keep_days=9)))
    assert storage.names("_checkpoints") == ["retrieval-new"]


def test_scratch_of_stages_that_were_killed_goes(root: Root) -> None:
    clear_scratch(root.store)  # a root without any
    root.store.storage.write_bytes("_jobs/featurize-x/counted/part-0.parquet", b"x")
    run_stages(None, load_settings(str(root.config)), DAYS[-1], [])  # type: ignore[arg-type]  # it begins with that
    assert root.store.storage.names("_jobs") == []
    assert len(root.store.days("top_n")) == len(DAYS)


def test_young_runs_stay(root: Root) -> None:
    assert plan_clearing(root.store, Retention(keep_runs=1)).runs == [("top_n", DAYS[-1], "20240310T060000-torn")]
    later = datetime.now(UTC) + timedelta(hours=25)
    assert len(plan_clearing(root.store, Retention(keep_runs=1), later).runs) == 21


def test_a_damaged_pointer_stops_it(root: Root) -> None:
    root.store.storage.write_bytes(f"top_n/dt={DAYS[3]}/_current.json", b"{")
    with pytest.raises(RecsysError, match=r"_current\.json"):
        plan_clearing(root.store, Retention(keep_runs=1, grace_hours=0))


def test_a_clearing_that_was_killed_is_gone_on_with(root: Root) -> None:
    retention = Retention(keep_runs=1, keep_days=4, grace_hours=0)
    clearing = plan_clearing(root.store, retention)
    for table, dt in clearing.pointers[:3]:
        root.store.storage.delete_file(f"{table}/dt={dt}/_current.json")
    table, dt, run_id = clearing.runs[0]
    root.store.storage.delete_file(f"{table}/dt={dt}/run={run_id}/_manifest.json")
    again = plan_clearing(root.store, retention)
    assert again.runs == clearing.runs
    clear(root.store, again)
    assert root.store.days("top_n") == root.store.days("ranker") == DAYS[6:]


def test_the_command(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "--config", str(root.config)]
    for key in ("retention.keep_days=9", "retention.grace_hours=0"):
        words += ["--set", key]
    for option, said in ((["--dry-run"], "would delete 5 runs"), ([], "deleted 5 runs")):
        with pytest.raises(SystemExit) as end:
            main([*words, *option])
        assert end.value.code == 0
        assert said in capsys.readouterr().out
    assert root.store.days("top_n") == DAYS[1:]
