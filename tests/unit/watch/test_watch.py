"""Planted days: each is the same log with one thing wrong on its last day, and must raise the right alarm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys_spark.config import Settings
from recsys_spark.stage import Work
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.store import Stamp
from recsys_spark.watch.profile import BIN, DISTINCT, ROWS
from recsys_spark.watch.watch import watch

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DT, BEFORE = "2024-03-10", "2024-03-09"
END = pd.Timestamp("2024-03-11", tz="UTC")
DAYS, USERS, ITEMS, A_DAY = 8, 300, 60, 900
Events = pd.DataFrame


def log(seed: int = 3) -> Events:
    """Eight days of 900 events: 300 users, 60 items, three kinds, values of a long tail."""
    draw = np.random.default_rng(seed)
    count = DAYS * A_DAY
    day = np.repeat(np.arange(DAYS), A_DAY)
    start = END - pd.Timedelta(days=DAYS)
    second = day * 86_400 + draw.integers(0, 86_400, count)
    return pd.DataFrame(
        {
            "user_id": [f"u{n:03d}" for n in draw.integers(0, USERS, count)],
            "item_id": [f"i{n:02d}" for n in draw.integers(0, ITEMS, count)],
            "event_type": draw.choice(["view", "buy", "cart"], count, p=[0.7, 0.2, 0.1]),
            "event_time": start + pd.to_timedelta(second, unit="s"),
            "value": np.where(draw.random(count) < 0.3, np.nan, draw.lognormal(2, 1, count).round(2)),
            "day": day,
        }
    )


def items(families: str = "abcde") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": [f"i{n:02d}" for n in range(ITEMS)],
            "attribute_family": [families[n % len(families)] for n in range(ITEMS)],
            "attribute_price": [str(5 + n) for n in range(ITEMS)],
            "label": "a thing",
        }
    )


def lists(shift: int = 0, users: int = USERS, source: str = "personal") -> pd.DataFrame:
    rows = [
        (f"u{u:03d}", r + 1, f"i{(u + r + shift) % ITEMS:02d}", 1.0 - 0.1 * r, source, "taste:i01")
        for u in range(users)
        for r in range(5)
    ]
    return pd.DataFrame(rows, columns=["user_id", "rank", "item_id", "score", "source", "reason"])


Frames = dict[str, pd.DataFrame]


def frames(**changes: Any) -> Frames:
    """A night's tables as they should be, with some of them changed."""
    return {
        "interactions": log(),
        "items": items(),
        "users": pd.DataFrame({"user_id": ["u000"], "attribute_segment": ["home"], "attribute_age": ["30"]}),
        "ledger": ledger(),
        "top_n": lists(shift=1),
        **changes,
    }


def ledger(**rules: int) -> pd.DataFrame:
    rules = {"read": DAYS * A_DAY, "kept": DAYS * A_DAY, **rules}
    lines = [("interactions", "f", rule, rows) for rule, rows in rules.items()]
    return pd.DataFrame(lines, columns=["source", "source_file", "rule", "rows"])


@dataclass(frozen=True)
class Nights:
    """Roots on which ``watch`` is run over tables that are written here.

    ``root`` has last night as it should be, and tonight's tables as they should be, not watched yet.
    """

    spark: SparkSession
    make: Callable[..., Settings]
    root: Path

    def write(self, store: TableStore, name: str, frame: pd.DataFrame, dt: str, run_id: str = "good") -> Manifest:
        """A table of a night."""
        rows = self.spark.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False))
        columns = [part.split() for part in TABLES[name].schema.split(", ") if part]
        if columns:
            rows = rows.selectExpr(
                *[f"cast({each if each in frame else 'null'} as {kind}) as {each}" for each, kind in columns]
            )
        return store.write(rows.coalesce(1), name, Stamp(dt, run_id, "clean", "", "", "", {}))

    def look(
        self, store: TableStore, dt: str, inputs: dict[str, Manifest], settings: dict[str, Any] | None = None
    ) -> tuple[Manifest, pd.DataFrame]:
        """Watch a night, and let readers see it."""
        chosen = self.make(Path(store.storage.base).parent, watch=settings or {})
        stamp = Stamp(dt, "watch", "watch", "f", "s", "0", {})
        profiles, checks = watch(Work(chosen, store, dt, stamp, inputs, self.spark))
        for manifest in (*inputs.values(), profiles, checks):
            store.point(manifest)
        return checks, read_parquet(store.storage, checks.folder).to_pandas()


@pytest.fixture(scope="module")
def nights(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, tiny_settings: Callable[..., Settings]
) -> Nights:
    made = Nights(spark, tiny_settings, tmp_path_factory.mktemp("good") / "tables")
    store = TableStore(str(made.root))
    early = log().query(f"day < {DAYS - 1}")
    before = frames(interactions=early, top_n=lists(), ledger=ledger(read=6300, kept=6300))
    made.look(store, BEFORE, {name: made.write(store, name, each, BEFORE) for name, each in before.items()})
    for name, each in frames().items():
        made.write(store, name, each, DT)
    return made


@pytest.fixture
def planted(nights: Nights, tmp_path: Path) -> Callable[..., tuple[Manifest, pd.DataFrame]]:
    """Watch tonight with some tables changed."""

    def look(settings: dict[str, Any] | None = None, **changes: pd.DataFrame) -> tuple[Manifest, pd.DataFrame]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "tables"
        shutil.copytree(nights.root, folder)
        store = TableStore(str(folder))
        inputs = {name: store.manifest(name, DT, "good") for name in frames()}
        inputs |= {name: nights.write(store, name, frame, DT, "planted") for name, frame in changes.items()}
        return nights.look(store, DT, inputs, settings)

    return look


Planted = Callable[..., tuple[Manifest, pd.DataFrame]]


def failed(checks: pd.DataFrame) -> set[tuple[str, str, str]]:
    bad = checks[checks["level"] != "ok"]
    return set(zip(bad["name"], bad["source"], bad["column"], strict=True))


def test_a_good_night_is_ok(planted: Planted) -> None:
    manifest, checks = planted()
    assert manifest.extra["outcome"] == "ok", checks[checks["level"] != "ok"].to_string()
    names = {
        "freshness",
        "volume",
        "refused",
        "bots",
        "new_values",
        "nulls",
        "drift",
        "coverage",
        "catalogue",
        "list_change",
    }
    assert set(checks["name"]) == names
    assert checks.set_index("name").loc["list_change", "value"] == pytest.approx(0.2)
    assert not checks.duplicated(["name", "source", "column", "says"]).any()


def test_half_the_volume(planted: Planted) -> None:
    events = log()
    events = events[(events["day"] < DAYS - 1) | (np.arange(len(events)) % 2 == 0)]
    manifest, checks = planted(interactions=events, ledger=ledger(read=6750, kept=6750))
    assert manifest.extra["outcome"] == "alarm"
    assert ("volume", "interactions", "") in failed(checks)
    assert {name for name, *_ in failed(checks)} == {"volume"}
    row = checks[(checks["name"] == "volume") & (checks["column"] == "")].iloc[0]
    assert row["value"] == pytest.approx(0.5, abs=0.01)
    assert "450 rows, 50% of the usual 900" in row["says"]


def test_twice_the_volume(planted: Planted) -> None:
    events = log()
    extra = events[events["day"] == DAYS - 1]
    _, checks = planted(interactions=pd.concat([events, extra, extra]))
    assert ("volume", "interactions", "") in failed(checks)


def test_a_flood_of_a_new_category(planted: Planted) -> None:
    """A third of the items get a category that nobody has seen, and so do their events; and a new kind of event."""
    manifest, checks = planted(items=items("abz"))
    assert manifest.extra["outcome"] == "alarm"
    assert {("new_values", "items", "attribute_family"), ("drift", "items", "attribute_family")} <= failed(checks)
    says = checks[(checks["name"] == "new_values") & (checks["source"] == "items")]["says"].item()
    assert "33.3% of the rows have a value that none had before, most of all 'z'" in says

    events = log()
    tonight = (events["day"] == DAYS - 1) & (events.index % 3 == 0)
    events.loc[tonight, "event_type"] = "stare"
    _, checks = planted(interactions=events)
    assert ("new_values", "interactions", "event_type") in failed(checks)


def test_a_flood_of_bots(planted: Planted) -> None:
    events = log()
    tonight = events[events["day"] == DAYS - 1]
    bots = pd.concat([tonight.head(60).assign(user_id=f"bot{n}", item_id="i07") for n in range(6)])
    manifest, checks = planted({"hold": ["bots"]}, interactions=pd.concat([events, bots]))
    assert manifest.extra["outcome"] == "hold"
    assert ("bots", "interactions", "user_id") in failed(checks)
    says = checks[checks["name"] == "bots"]["says"].item()
    assert "28.6% of the events are by 6 users" in says


def test_an_empty_day(planted: Planted) -> None:
    events = log()
    manifest, checks = planted(interactions=events[events["day"] < DAYS - 1], ledger=ledger(read=6300, kept=6300))
    assert manifest.extra["outcome"] == "hold"
    assert {("freshness", "interactions", "event_time"), ("volume", "interactions", "")} <= failed(checks)


def test_values_that_are_gone_or_in_another_unit(planted: Planted) -> None:
    events = log()
    tonight = events["day"] == DAYS - 1
    cents = events.assign(value=np.where(tonight, events["value"] * 100, events["value"]))
    _, checks = planted(interactions=cents)
    assert ("drift", "interactions", "value") in failed(checks)
    gone = events.assign(value=np.where(tonight, np.nan, events["value"]))
    _, checks = planted(interactions=gone)
    assert ("nulls", "interactions", "value") in failed(checks)


def test_lists_that_went_wrong(planted: Planted) -> None:
    _, checks = planted(top_n=lists(shift=30))
    assert {name for name, *_ in failed(checks)} == {"list_change"}
    _, checks = planted(top_n=lists(users=200))
    assert {name for name, *_ in failed(checks)} == {"coverage"}
    same = lists().assign(item_id=lambda frame: "i" + frame["rank"].astype(str).str.zfill(2), source="popular")
    _, checks = planted(top_n=same)
    assert {("catalogue", "top_n", ""), ("drift", "top_n", "source")} <= failed(checks)


def test_rows_in_quarantine(planted: Planted) -> None:
    _, checks = planted(ledger=ledger(kept=7000, bad_type=100, deleted_user=100))
    assert ("refused", "ledger", "") in failed(checks)
    assert "11.1% of 900 new rows are in quarantine" in checks[checks["name"] == "refused"]["says"].item()


def test_the_first_night_has_only_its_own_days_and_profiles_count_what_is_there(nights: Nights, tmp_path: Path) -> None:
    shutil.copytree(nights.root, tmp_path / "tables")
    store = TableStore(str(tmp_path / "tables"))
    for table in store.storage.names("", "folder"):
        store.storage.delete_folder(f"{table}/dt={BEFORE}")
    manifest, checks = nights.look(store, DT, {name: store.manifest(name, DT, "good") for name in frames()})
    assert manifest.extra["outcome"] == "ok"
    assert set(checks["source"]) == {"interactions", "ledger"}

    events = log()
    found = read_parquet(store.storage, store.need("profiles", DT).folder).to_pandas()
    assert not found.duplicated(list(TABLES["profiles"].key)).any()
    key = ["source", "day", "column", "statistic"]
    total = found.groupby(key)["value"].sum()
    for day, rows in events.groupby(events["event_time"].dt.strftime("%Y-%m-%d")):
        assert total["interactions", day, "", ROWS] == len(rows)
        assert total["interactions", day, "user_id", DISTINCT] == rows["user_id"].nunique()
        assert total["interactions", day, "user_id", BIN] == rows["user_id"].nunique()
        assert total["interactions", day, "event_type", "category"] == len(rows)
        assert total["interactions", day, "value", BIN] == len(rows)
        kinds = found[(found["day"] == day) & (found["column"] == "event_type")].set_index("bucket")["value"]
        assert kinds.to_dict() == rows["event_type"].value_counts().to_dict()
    assert total["top_n", DT, "item_id", DISTINCT] == ITEMS
    assert total["items", DT, "attribute_price", BIN] == ITEMS
