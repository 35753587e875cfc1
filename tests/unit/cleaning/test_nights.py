"""A log in folders of days, night after night: only what is new is read, and only its days are written again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.cleaning import STAGE
from recsys_spark.cleaning.privacy import hash_id
from recsys_spark.config import Settings, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.stage import run_stage
from recsys_spark.tables import Manifest, TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Row = tuple[str | None, str, str, str, float | None, str | None]  # user, item, time, kind, amount, key
COLUMNS = {"user": pa.string(), "item": pa.string(), "at": pa.string(), "kind": pa.string(),
           "amount": pa.float64(), "key": pa.string()}  # fmt: skip

DAYS: dict[str, list[Row]] = {
    "2024-03-01": [
        ("u1", "i1", "2024-03-01 10:00:00", "view", 1.0, "a"),
        ("u1", "i1", "2024-03-01 10:00:00", "view", 1.0, "a"),  # duplicate
        ("u2", "i2", "2024-03-01 11:00:00", "view", None, "b"),
        ("u2", "i3", "2024-03-02 00:00:01", "buy", None, "c"),  # waits for its night
        (None, "i3", "2024-03-01 12:00:00", "buy", None, "d"),  # null_key
        ("u3", "i3", "2024-03-01 13:00:00", "stare", None, "e"),  # event_type
        ("u3", "i3", "2024-03-09 13:00:00", "view", None, "f"),  # future
    ],
    "2024-03-02": [
        ("u1", "i4", "2024-03-02 10:00:00", "view", 2.0, "g"),
        ("u1", "i4", "2024-03-02 10:00:00", "view", 3.0, "g"),  # redelivered
        ("u2", "i3", "2024-03-02 00:00:01", "buy", None, "c"),  # duplicate of what waited
    ],
    "2024-03-03": [
        ("u1", "i5", "2024-03-03 09:00:00", "view", 2.0, "h"),
        ("u2", "i2", "2024-03-01 11:00:00", "view", None, "b"),  # late, and kept on that day already
        ("u4", "i2", "2024-03-01 11:30:00", "view", None, "i"),  # late
        ("u4", "i2", "2024-02-01 11:30:00", "view", None, "j"),  # too_late
    ],
    "2024-03-04": [("u5", "i5", "2024-03-04 09:00:00", "buy", 2.0, "k")],
}


def put(log: Path, days: dict[str, list[Row]], name: str = "part-0.parquet") -> Path:
    for day, rows in days.items():
        folder = log / f"dt={day}"
        folder.mkdir(parents=True, exist_ok=True)
        arrays = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(COLUMNS.values())]
        pq.write_table(pa.table(arrays, names=list(COLUMNS)), folder / name)
    return log


def settings_for(root: Path, log: Path, **changes: Any) -> Settings:
    interactions = {"path": str(log), "user_id": "user", "item_id": "item", "event_time": "at", "event_type": "kind",
                    "value": "amount", "event_key": "key", "day_partition": "dt"}  # fmt: skip
    return parse_settings(
        {
            "name": "nights",
            "root": str(root),
            "input": {"interactions": interactions, **changes.pop("input", {})},
            "events": {"view": 1.0, "buy": 3.0},
            "clean": {"max_quarantine_share": 1.0, **changes.pop("clean", {})},
            "spark": {"shuffle_partitions": 2},
            **changes,
        }
    )


def night(spark: SparkSession, settings: Settings, dt: str) -> dict[str, Manifest]:
    return run_stage(STAGE, spark, settings, dt)


def hashes(outputs: dict[str, Manifest]) -> dict[str, str]:
    return {name: each.content_hash for name, each in outputs.items()}


def rules(spark: SparkSession, settings: Settings, dt: str) -> dict[str, dict[str, int]]:
    store = TableStore(settings.root)
    found: dict[str, dict[str, int]] = {}
    for row in store.read(spark, store.need("ledger", dt)).collect():
        found.setdefault(row["source_file"][3:13], {})[row["rule"]] = row["rows"]
    return found


def written(manifest: Manifest) -> set[str]:
    """Parts that a run wrote itself."""
    return {each.name.split("/")[0].removeprefix("day=") for each in manifest.files if not each.folder}


def keys(spark: SparkSession, settings: Settings, dt: str) -> list[str]:
    store = TableStore(settings.root)
    return sorted(row["event_key"] for row in store.read(spark, store.need("interactions", dt)).collect())


def test_night_after_night_is_the_same_as_all_at_once(spark: SparkSession, tmp_path: Path) -> None:
    log = put(tmp_path / "log", DAYS)
    nightly, once = settings_for(tmp_path / "nightly", log), settings_for(tmp_path / "once", log)
    outputs = {dt: night(spark, nightly, dt) for dt in DAYS}

    assert rules(spark, nightly, "2024-03-01") == {
        "2024-03-01": {"read": 7, "kept": 2, "duplicate": 1, "after_date": 1, "null_key": 1, "event_type": 1,
                       "future": 1},
    }  # fmt: skip
    last = rules(spark, nightly, "2024-03-04")
    assert last["2024-03-01"] == {
        "read": 7, "kept": 3, "duplicate": 1, "null_key": 1, "event_type": 1, "future": 1
    }  # fmt: skip
    assert last["2024-03-02"] == {"read": 3, "kept": 1, "redelivered": 1, "duplicate": 1}
    assert last["2024-03-03"] == {"read": 4, "kept": 2, "duplicate": 1, "too_late": 1}
    assert written(outputs["2024-03-02"]["interactions"]) == {"2024-03-02"}
    assert written(outputs["2024-03-03"]["interactions"]) == {"2024-03-01", "2024-03-03"}  # late rows open their day
    assert written(outputs["2024-03-04"]["interactions"]) == {"2024-03-04"}
    assert keys(spark, nightly, "2024-03-04") == ["a", "b", "c", "g", "h", "i", "k"]

    assert hashes(night(spark, once, "2024-03-04")) == hashes(outputs["2024-03-04"])
    again = run_stage(STAGE, spark, nightly, "2024-03-02", force=True)  # a back-fill reads no later folder
    assert hashes(again) == hashes(outputs["2024-03-02"])
    assert TableStore(nightly.root).need("interactions", "2024-03-04") == outputs["2024-03-04"]["interactions"]


def test_a_changed_file_is_not_added_to_what_was(spark: SparkSession, tmp_path: Path) -> None:
    log = put(tmp_path / "log", DAYS)
    settings = settings_for(tmp_path / "tables", log)
    night(spark, settings, "2024-03-01")
    put(log, {"2024-03-01": [("u9", "i9", "2024-03-01 10:00:00", "view", 1.0, "z")]})
    outputs = night(spark, settings, "2024-03-02")
    assert written(outputs["interactions"]) == {"2024-03-01", "2024-03-02"}
    assert keys(spark, settings, "2024-03-02") == ["c", "g", "z"]


def test_files_that_are_gone_or_came_late(spark: SparkSession, tmp_path: Path) -> None:
    log = put(tmp_path / "log", DAYS)
    settings = settings_for(tmp_path / "tables", log)
    night(spark, settings, "2024-03-02")
    (log / "dt=2024-03-01" / "part-0.parquet").unlink()  # raw logs are kept for some days only
    put(log, {"2024-03-02": [("u8", "i8", "2024-03-02 10:00:00", "view", 1.0, "late")]}, "part-1.parquet")
    night(spark, settings, "2024-03-03")
    assert keys(spark, settings, "2024-03-03") == ["a", "b", "c", "g", "h", "i", "late"]
    assert rules(spark, settings, "2024-03-03")["2024-03-01"]["kept"] == 3


@pytest.mark.parametrize("hashed", [False, True])
def test_a_deleted_user_is_in_no_table_of_the_next_night(
    spark: SparkSession, tmp_path: Path, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = put(tmp_path / "log", DAYS)
    users = pa.table({"user": ["u1", "u2", "u4"]})
    pq.write_table(users, tmp_path / "users.parquet")
    (tmp_path / "deleted.csv").write_text("id\nnobody\n")
    changes: dict[str, Any] = {
        "input": {
            "users": {"path": str(tmp_path / "users.parquet"), "id": "user"},
            "deleted_users": {
                "path": str(tmp_path / "deleted.csv"), "format": "csv", "options": {"header": "true"}, "id": "id"
            },
        }
    }  # fmt: skip
    key = b"0123456789abcdef0123456789abcdef"
    if hashed:
        monkeypatch.setenv("TESTS_USER_KEY", key.decode())
        changes["privacy"] = {"user_key_variable": "TESTS_USER_KEY"}
    settings = settings_for(tmp_path / "tables", log, **changes)
    store = TableStore(settings.root)

    def ids(table: str, dt: str) -> set[str | None]:
        return {row["user_id"] for row in store.read(spark, store.need(table, dt)).collect()}

    def name(user: str) -> str:
        return hash_id(user, key) if hashed else user

    night(spark, settings, "2024-03-02")
    assert ids("interactions", "2024-03-02") == {name("u1"), name("u2")}
    assert name("u3") in ids("quarantine", "2024-03-02")
    (tmp_path / "deleted.csv").write_text("id\nu2\nu3\n")
    outputs = night(spark, settings, "2024-03-03")
    assert ids("interactions", "2024-03-03") == {name("u1"), name("u4")}
    assert ids("users", "2024-03-03") == {name("u1"), name("u4")}
    assert ids("quarantine", "2024-03-03") <= {None, name("u4")}
    for table in ("interactions", "quarantine", "users"):
        for row in store.read(spark, outputs[table]).collect():
            assert not {"u2", "u3"} & {str(value) for value in row}
            assert not (hashed and "u4" in str(row))
            assert '"u2"' not in str(row)
            assert '"u3"' not in str(row)
    told = rules(spark, settings, "2024-03-03")
    assert told["2024-03-01"]["deleted_user"] == 4  # b, c, e, f
    assert told["2024-03-03"]["deleted_user"] == 1
    assert outputs["deleted_users"].rows == 2


def test_another_key_hashes_all_days_anew(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = put(tmp_path / "log", DAYS)
    settings = settings_for(tmp_path / "tables", log, privacy={"user_key_variable": "TESTS_USER_KEY"})
    store = TableStore(settings.root)
    for dt, key in (("2024-03-02", b"0123456789abcdef"), ("2024-03-03", b"fedcba9876543210")):
        monkeypatch.setenv("TESTS_USER_KEY", key.decode())
        night(spark, settings, dt)
        users = {row["user_id"] for row in store.read(spark, store.need("interactions", dt)).collect()}
        assert hash_id("u1", key) in users
        assert users <= {hash_id(f"u{n}", key) for n in range(10)}


def test_folders_that_name_users_are_refused_with_a_key(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log/who=u1").mkdir(parents=True)
    table = pa.table({"item": ["i"], "at": ["2024-03-01 10:00:00"], "kind": ["view"]})
    pq.write_table(table, tmp_path / "log/who=u1/a.parquet")
    reader = {"path": str(tmp_path / "log"), "user_id": "who", "item_id": "item", "event_time": "at",
              "event_type": "kind"}  # fmt: skip
    tree = {"name": "x", "root": str(tmp_path / "t"), "input": {"interactions": reader}, "events": {"view": 1.0}}
    night(spark, parse_settings(tree), "2024-03-01")
    monkeypatch.setenv("TESTS_USER_KEY", "0123456789abcdef")
    with pytest.raises(RecsysError, match="bring the users' ids as a column"):
        night(spark, parse_settings({**tree, "privacy": {"user_key_variable": "TESTS_USER_KEY"}}), "2024-03-01")


def test_a_key_is_never_guessable_nor_missing(spark: SparkSession, tmp_path: Path) -> None:
    log = put(tmp_path / "log", DAYS)
    (tmp_path / "key").write_text("short")
    settings = settings_for(tmp_path / "tables", log, privacy={"user_key_file": str(tmp_path / "key")})
    with pytest.raises(RecsysError, match="5 bytes") as error:
        night(spark, settings, "2024-03-01")
    assert "short" not in str(error.value)
    with pytest.raises(RecsysError, match="cannot read the key"):
        night(spark, settings_for(tmp_path / "t", log, privacy={"user_key_file": "none"}), "2024-03-01")


def test_bots_are_set_aside_by_a_robust_threshold(spark: SparkSession, tmp_path: Path) -> None:
    people = [
        (f"u{n}", f"i{k}", f"2024-03-01 10:{n:02d}:{k:02d}", "view", None, None)
        for n in range(40)
        for k in range(n % 5 + 1)
    ]
    bot = [("bot", f"i{k}", f"2024-03-01 {k // 60:02d}:{k % 60:02d}:00", "view", None, None) for k in range(600)]
    busy = [("busy", f"i{k}", f"2024-03-01 {k // 60:02d}:{k % 60:02d}:30", "view", None, None) for k in range(60)]
    log = put(tmp_path / "log", {"2024-03-01": [*people, *bot, *busy]})
    settings = settings_for(tmp_path / "tables", log, clean={"activity_floor": 100, "activity_mads": 3.0})
    night(spark, settings, "2024-03-01")
    told = rules(spark, settings, "2024-03-01")["2024-03-01"]
    assert told == {"read": len(people) + 660, "kept": len(people) + 60, "extreme_activity": 600}
    off = settings_for(tmp_path / "off", log, clean={"activity_floor": 100, "rules_off": ["extreme_activity"]})
    night(spark, off, "2024-03-01")
    assert rules(spark, off, "2024-03-01")["2024-03-01"]["kept"] == len(people) + 660


def test_near_duplicates_and_support(spark: SparkSession, tmp_path: Path) -> None:
    rows: list[Row] = [
        ("u1", "i1", "2024-03-01 10:00:00", "view", None, "a"),
        ("u1", "i1", "2024-03-01 10:00:02", "view", None, "b"),  # 2 s after a
        ("u1", "i1", "2024-03-01 10:00:04", "view", None, "c"),  # 2 s after b: a chain is one event
        ("u1", "i1", "2024-03-01 10:00:10", "view", None, "d"),
        ("u1", "i1", "2024-03-01 10:00:11", "buy", None, "e"),
        ("u1", "i2", "2024-03-01 10:00:11", "view", None, "f"),
        ("u2", "i1", "2024-03-01 10:00:01", "view", None, "g"),
    ]
    log = put(tmp_path / "log", {"2024-03-01": rows})
    settings = settings_for(tmp_path / "tables", log, clean={"near_duplicate_seconds": 3})
    night(spark, settings, "2024-03-01")
    assert keys(spark, settings, "2024-03-01") == ["a", "d", "e", "f", "g"]
    assert rules(spark, settings, "2024-03-01")["2024-03-01"] == {"read": 7, "kept": 5, "near_duplicate": 2}
    support = settings_for(
        tmp_path / "support", log, clean={"near_duplicate_seconds": 3, "min_user_events": 2, "min_item_events": 2}
    )
    night(spark, support, "2024-03-01")
    assert keys(spark, support, "2024-03-01") == ["a", "d", "e"]
    told = rules(spark, support, "2024-03-01")["2024-03-01"]
    assert told == {"read": 7, "kept": 3, "near_duplicate": 2, "min_support": 2}
