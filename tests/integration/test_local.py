"""The whole night in local mode, by the command line, on two Horovod ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from harness import STAGES, Finished, Night, complaint, contents, copied, lines_with, pointers, recsys

from recsys_spark.tables import TableStore

pytestmark = pytest.mark.integration

N = 5
MODELS = {
    "ranker",
    "retrieval",
    "popularity",
    "recent_popularity",
    "repeat",
    "repeat_decayed",
    "item_knn",
}


def config_of(night: Night) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(night.config.read_text())
    return tree


# ---------------------------------------------------------------- what a night leaves
def test_the_last_lines_name_the_lists_their_rows_and_the_report(local_root: Night) -> None:
    *_, lists, rows, report = local_root.run.out.splitlines()
    current = local_root.store.need("top_n", local_root.dt)

    assert lists == f"top_n:  {local_root.root.as_uri()}/{current.folder}"
    assert rows == f"rows:   {current.rows}"
    page = Path(report.removeprefix("report: ").removeprefix("file://"))
    assert page.is_relative_to(local_root.root)
    assert "<html" in page.read_text()


def test_two_horovod_ranks_were_started_for_each_model(local_root: Night) -> None:
    for kind in ("retrieval", "ranker"):
        assert lines_with(local_root.run.out, rf"{kind}: 2 rank\(s\), launcher horovodrun"), local_root.run


def test_each_user_has_n_distinct_unseen_items_in_order(local_root: Night) -> None:
    lists = local_root.rows("top_n").sort_values(["user_id", "rank"])
    events, items = local_root.rows("interactions"), local_root.rows("item_ids")
    groups = lists.groupby("user_id")

    assert set(lists["user_id"]) == set(local_root.rows("user_ids")["user_id"])
    assert groups["rank"].apply(list).map(lambda ranks: ranks == list(range(1, N + 1))).all()
    assert (groups["item_id"].nunique() == N).all()
    assert np.isfinite(lists["score"]).all()
    assert groups["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()
    assert set(lists["item_id"]) <= set(items["item_id"])
    again = lists.merge(events[["user_id", "item_id"]].drop_duplicates(), on=["user_id", "item_id"])
    assert again.empty


def test_the_source_column_tells_who_has_no_history(local_root: Night) -> None:
    lists, events = local_root.rows("top_n"), local_root.rows("interactions")
    silent = set(lists["user_id"]) - set(events["user_id"])

    assert silent == {"u059"}
    assert set(lists[lists["user_id"].isin(silent)]["source"]) == {"popular"}
    assert (lists[~lists["user_id"].isin(silent)].groupby("user_id")["source"].first() == "personal").all()


def test_every_row_of_every_file_is_accounted_for(local_root: Night, raw: Any) -> None:
    ledger = local_root.rows("ledger")
    ledger["name"] = ledger["source"] + "/" + ledger["source_file"]
    written = {"/".join(path.parts[-2:]): pq.read_metadata(path).num_rows for path in raw.folder.rglob("*.parquet")}

    read = ledger[ledger["rule"] == "read"].set_index("name")["rows"]
    assert read.to_dict() == written
    assert (ledger[ledger["rule"] != "read"].groupby("name")["rows"].sum() == read).all()
    counts = ledger.groupby(["name", "rule"])["rows"].sum()
    assert counts["interactions/part-1.parquet", "duplicate"] == 5
    assert counts["interactions/part-1.parquet", "null_key"] == 3
    assert counts["interactions/part-1.parquet", "event_type"] == 2
    assert ledger[ledger["rule"] == "kept"]["rows"].sum() == sum(
        len(local_root.rows(table)) for table in ("interactions", "items", "users")
    )
    assert len(local_root.rows("quarantine")) == 5


def test_the_metrics_table_has_every_model_in_both_slices(local_root: Night) -> None:
    metrics = local_root.rows("metrics")
    ks = set(config_of(local_root)["evaluate"]["ks"])

    for slice_name in ("all", "new"):
        mine = metrics[(metrics["slice"] == slice_name) & (metrics["metric"] == "ndcg")]
        assert set(mine["model"]) == MODELS
        assert set(mine["k"]) == ks
        assert mine["users"].nunique() == 1  # all rows speak of the same users
    assert {"auc", "logloss"} <= set(metrics[metrics["model"] == "ranker"]["metric"])
    assert np.isfinite(metrics["value"]).all()
    assert (metrics["users"] > 0).all()


def test_show_tells_history_and_list_by_name(local_root: Night) -> None:
    shown = recsys("show", "--config", local_root.config, "--user", "u003")
    first = local_root.rows("top_n").query("user_id == 'u003' and rank == 1")["item_id"].item()

    assert shown.code == 0, shown
    assert f"List of {local_root.dt}" in shown.out
    assert f" 1. Thing {int(first[1:])} (" in shown.out
    assert len(lines_with(shown.out, r"^ +\d\. Thing \d+")) == N
    assert "u003" in shown.out
    assert lines_with(shown.out, r"^ +\d+×  Thing \d+ .*last on")


# ---------------------------------------------------------------- doing it again
def test_a_second_run_finds_everything_done(local_root: Night) -> None:
    before = contents(local_root.root, local_root.dt), pointers(local_root.root)
    again = recsys("run", "--config", local_root.config, "--date", local_root.dt)

    assert again.code == 0, again
    done = set(re.findall(r"\] ([\w-]+): done before", again.out))
    assert done == set(STAGES) - {"publish"}, again
    assert (contents(local_root.root, local_root.dt), pointers(local_root.root)) == before
    assert again.out.splitlines()[-3:] == local_root.run.out.splitlines()[-3:]
    assert again.seconds < local_root.run.seconds


@pytest.mark.parametrize("stage", ["featurize", "train-ranker"])
def test_a_stage_done_again_by_force_gives_the_same_content(stage: str, local_root: Night, tmp_path: Path) -> None:
    config, root = copied(local_root, tmp_path)
    runs = pointers(root)
    forced = recsys(stage, "--config", config, "--date", local_root.dt, "--force")

    assert forced.code == 0, forced
    assert "done before" not in forced.out
    assert contents(root, local_root.dt) == contents(local_root.root, local_root.dt)
    assert pointers(root) != runs


def test_lists_that_were_rolled_back_are_not_shown_again_by_themselves(local_root: Night, tmp_path: Path) -> None:
    config, root = copied(local_root, tmp_path)
    store, day = TableStore(str(root)), ("--config", config, "--date", local_root.dt)
    lists = store.need("top_n", local_root.dt)
    back = recsys("rollback", *day, "--table", "top_n", "--withdraw")
    assert back.code == 0, back
    assert store.latest("top_n").dt < local_root.dt
    assert f"newest: {store.latest('top_n').dt}" in back.out

    line = complaint(recsys("publish", *day))
    assert f"run {lists.run_id} has the content that was rolled back" in line
    assert store.current("top_n", local_root.dt) is None
    forced = recsys("publish", *day, "--force")
    assert forced.code == 0, forced
    assert store.need("top_n", local_root.dt) == lists


def test_a_night_that_is_held_shows_nothing_and_tells(local_root: Night, tmp_path: Path) -> None:
    """A limit that no night keeps: the lists, done again, are not shown, the page is, and somebody is told."""
    config, root = copied(local_root, tmp_path)
    store, told = TableStore(str(root)), tmp_path / "told.json"
    limits = f"watch={{max_age_hours: 1.0e-6, on_alarm: {{command: 'tee {told}'}}}}"
    words = ("run", "--config", config, "--date", local_root.dt, "--set", limits, "--set", "score.n=4")
    held = recsys(*words)

    assert held.code == 4, held
    assert len(lines_with(held.err, "^recsys-spark: ")) == 1, held
    assert "held by the stage watch (failed: freshness)" in held.err
    assert store.need("top_n", local_root.dt) == local_root.store.need("top_n", local_root.dt)
    assert store.need("report", local_root.dt) != local_root.store.need("report", local_root.dt)
    outcome = json.loads((root / "_outcomes" / f"dt={local_root.dt}.json").read_text())
    assert outcome["outcome"] == "hold"
    assert [row["name"] for row in outcome["failed"]] == ["freshness"]
    message = json.loads(told.read_text())
    assert (message["date"], message["failed"]) == (local_root.dt, outcome["failed"])


def test_lists_of_a_bucket_that_is_done_are_kept_when_scoring_is_ended(local_root: Night, tmp_path: Path) -> None:
    """The last bucket's histories are torn, so that its task fails; then they are whole again."""
    config, root = copied(local_root, tmp_path)
    store = TableStore(str(root))
    words = ("score", "--config", config, "--date", local_root.dt, "--force", "--set", "spark.master=local[1]")
    last = Path(store.storage.path(store.need("histories", local_root.dt).folder)) / "part-00003.parquet"
    whole = last.read_bytes()
    last.write_bytes(b"x" * (len(whole) - 4) + whole[-4:])  # one without its end would be noticed before
    ended = recsys(*words)
    done = {path.name: path.stat().st_mtime_ns for path in root.glob("_scoring/*/part-*.parquet")}
    last.write_bytes(whole)
    again = recsys(*words)

    assert ended.code != 0, ended
    assert set(done) == {f"part-{bucket:05d}.parquet" for bucket in range(3)}
    assert again.code == 0, again
    assert "3 of 4 buckets were done before" in again.out
    current = store.need("top_n", local_root.dt)
    (made,) = [each for each in store.runs("top_n", local_root.dt) if each.run_id != current.run_id]
    assert (made.content_hash, made.rows) == (current.content_hash, current.rows)
    files = {path.name: path.stat().st_mtime_ns for path in (root / made.folder).glob("part-*.parquet")}
    assert {name: files[name] for name in done} == done
    assert not (root / "_scoring").is_dir() or not list((root / "_scoring").iterdir())


def test_ids_keep_their_index_and_new_ones_come_after(local_root: Night, yesterday: Night) -> None:
    for table, name in (("user_ids", "user_id"), ("item_ids", "item_id")):
        old = yesterday.rows(table).set_index(name)["index"]
        new = local_root.rows(table).set_index(name)["index"]
        late = set(new.index) - set(old.index)

        assert (new[old.index] == old).all()
        assert len(late) == 2
        assert (new[list(late)] > old.max()).all()
        assert new.is_unique


def test_the_earlier_day_is_still_there_for_its_readers(local_root: Night, yesterday: Night) -> None:
    assert contents(local_root.root, yesterday.dt) == contents(yesterday.root, yesterday.dt)
    lists = local_root.store.need("top_n", yesterday.dt)
    assert lists.rows == N * (60 - 2)
    assert yesterday.rows("interactions")["event_time"].max() < pd.Timestamp(local_root.dt, tz="UTC")


# ---------------------------------------------------------------- what is refused
def _empty_log(folder: Path) -> Path:
    folder.mkdir()
    columns = [("user", "string"), ("item", "string"), ("at", "timestamp[us, tz=UTC]"), ("kind", "string")]
    kinds = {"string": pa.string(), "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC")}
    schema = pa.schema([*[(name, kinds[kind]) for name, kind in columns], ("amount", pa.float64())])
    pq.write_table(schema.empty_table(), folder / "part-0.parquet")
    return folder


REFUSED: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "wrong key": (
        lambda folder: ["--set", "retrieval.dimm=8"],
        ("unknown key 'retrieval.dimm'", "settings.yaml", "Did you mean 'dim'?"),
    ),
    "wrong value": (
        lambda folder: ["--set", "retrieval.dim=eight"],
        ("retrieval.dim", "'eight'", "settings.yaml"),
    ),
    "missing column": (
        lambda folder: ["--set", "input.interactions.value=amoun"],
        ("no column 'amoun'", "/interactions", "Did you mean 'amount'?", "input.interactions.value"),
    ),
    "no files": (
        lambda folder: ["--set", f"input.interactions.path={folder / 'nowhere'}"],
        ("no files there", "nowhere", "input.interactions.path"),
    ),
    "empty input": (
        lambda folder: ["--set", f"input.interactions.path={_empty_log(folder / 'empty')}"],
        ("/empty", "The input is empty", "input.interactions.path"),
    ),
    "date without data": (lambda folder: ["--date", "2024-05-01"], ("no event on 2024-05-01", "--date")),
    "wrong date": (lambda folder: ["--date", "2024-13-01"], ("'2024-13-01' is no day", "YYYY-MM-DD")),
}


@pytest.fixture(scope="module")
def refused(local_root: Night, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Outcome of each refused command; the first call runs all, three at a time."""
    folder = tmp_path_factory.mktemp("refused")
    config, root = copied(local_root, folder)
    seen = pointers(root)

    def attempt(case: str) -> Finished:
        words = REFUSED[case][0](folder)
        dated = words if "--date" in words else [*words, "--date", local_root.dt]
        return recsys("clean" if "date" not in case else "run", "--config", config, *dated)

    # one after the other would be right too: each is refused before it takes the lock, or gives it back
    outcomes: dict[str, Finished] = {}
    unlocked = [case for case in REFUSED if case in ("wrong key", "wrong value", "wrong date")]
    with ThreadPoolExecutor(3) as pool:
        outcomes |= dict(zip(unlocked, pool.map(attempt, unlocked), strict=True))
    for case in REFUSED:
        if case not in outcomes:
            outcomes[case] = attempt(case)
    assert pointers(root) == seen
    return outcomes.__getitem__


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gives_one_clear_line_and_publishes_nothing(case: str, refused: Callable[[str], Finished]) -> None:
    line = complaint(refused(case))
    for part in REFUSED[case][1]:
        assert part in line
