"""A small cleaned log written straight into tables, and what ``featurize`` must make of it, by pandas alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recsys_spark.config import Settings
from recsys_spark.cuts import Cut, cuts
from recsys_spark.features.featurize import STAGE
from recsys_spark.stage import run_stage
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DT = "2024-03-10"
END = 1_710_115_200  # its end
DAY = 86_400
NO_FEATURES = {"user": [], "item": [], "group": []}


@dataclass
class Result:
    """Outputs of a run, as frames and manifests."""

    manifests: dict[str, Manifest]
    tables: dict[str, pd.DataFrame]
    cuts: list[Cut]

    @property
    def hashes(self) -> dict[str, str]:
        return {name: manifest.content_hash for name, manifest in self.manifests.items()}


def random_log(seed: int, rows: int = 400, hot: bool = False) -> pd.DataFrame:
    """Users, items and times that meet again and again; many events on one second; one user with a third of all."""
    draw = np.random.default_rng(seed)
    users = draw.integers(0, 20, rows)
    if hot:
        users = np.where(draw.random(rows) < 0.35, 0, users)
    seconds = draw.integers(0, 190 * DAY, rows)
    seconds = np.where(draw.random(rows) < 0.3, seconds // DAY * DAY, seconds)  # midnights, cuts among them
    weights = draw.choice(np.array([1.0, 3.0, 0.1, 2.0**-7], np.float32), rows)
    log = pd.DataFrame(
        {
            "user_id": [f"u{n:02d}" for n in users],
            "item_id": [f"i{n}" for n in draw.zipf(1.5, rows) % 30],
            "time": END - 1 - seconds,
            "weight": weights,
        }
    )
    return log.drop_duplicates(ignore_index=True)


def write_log(
    spark: SparkSession,
    settings: Settings,
    log: pd.DataFrame,
    users: tuple[str, ...] = (),
    forgotten: tuple[str, ...] = (),
    dt: str = DT,
) -> None:
    """Tables that ``featurize`` reads, as if ``clean`` had written them; ``users`` are named by the users table."""
    store = TableStore(settings.root)
    stamp = Stamp(dt, f"clean-{len(log)}-{len(forgotten)}", "clean", "", "", "", {})
    at = pd.to_datetime(log["time"], unit="s", utc=True)
    rows = log.assign(event_type="view", event_time=at, value=log.get("value", 1.0), source_file="f")
    names = ["user_id", "item_id", "event_type", "event_time", "value", "weight", "source_file"]
    names += ["split"] if "split" in log else []
    frame = (
        spark.createDataFrame(rows[names]).withColumn("weight", spark_float("weight")).replace(np.nan, None, ["value"])
    )
    entities = spark.createDataFrame([(each, each) for each in users], "user_id string, label string")
    gone = [(hashlib.sha256(each.encode()).hexdigest(),) for each in forgotten]
    tables = {
        "interactions": frame.repartition(3),
        "users": entities.coalesce(1),
        "items": spark.createDataFrame([("i-alone", "x")], "item_id string, label string").coalesce(1),
        "deleted_users": spark.createDataFrame(gone, "user_hash string").coalesce(1),
    }
    for name, each in tables.items():
        store.point(store.write(each, name, stamp))


def spark_float(name: str) -> Any:
    from pyspark.sql import functions as F

    return F.col(name).cast("float")


def featurized(spark: SparkSession, settings: Settings, dt: str = DT) -> Result:
    manifests = run_stage(STAGE, spark, settings, dt, force=True)
    store = TableStore(settings.root)
    wanted = ("user_ids", "item_ids", "item_stats", "histories", "examples")
    tables = {name: store.read(spark, manifests[name]).toPandas() for name in wanted}
    assert store.storage.names("_jobs") == []
    return Result(manifests, tables, cuts(dt, settings.split))


def indexed(log: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The log with indexes; rows of ids without one are left out."""
    joined = log.merge(tables["user_ids"].rename(columns={"index": "user_index"}), on="user_id")
    return joined.merge(tables["item_ids"].rename(columns={"index": "item_index"}), on="item_id")


def expected_stats(events: pd.DataFrame, all_cuts: list[Cut], recent: int) -> pd.DataFrame:
    rows = []
    for cut in all_cuts:
        known = events[events["time"] < cut.time]
        for item, mine in known.groupby("item_index"):
            since = mine["time"] >= cut.time - recent
            earlier = ~since & (mine["time"] >= cut.time - 4 * recent)
            by_user = mine.groupby("user_index")["time"]
            first, last = by_user.min(), by_user.max()
            rows.append(
                {
                    "cut": cut.name,
                    "item_index": item,
                    "events": len(mine),
                    "recent_events": since.sum(),
                    "users": len(first),
                    "recent_users": mine.loc[since, "user_index"].nunique(),
                    "newest_users": mine.loc[mine["time"] >= cut.time - recent // 4, "user_index"].nunique(),
                    "earlier_users": mine.loc[earlier, "user_index"].nunique(),
                    "repeat_users": (last // DAY > first // DAY).sum(),
                    "first_users": (first >= cut.time - recent).sum(),
                    "first_time": first.min(),
                }
            )
    return pd.DataFrame(rows).sort_values(["cut", "item_index"], ignore_index=True)


def expected_histories(
    events: pd.DataFrame, length: int, all_cuts: list[Cut]
) -> dict[int, list[tuple[int, int, float]]]:
    """At the end and at each time when something is known: the newest events, and the last of every item."""
    times = sorted({time for cut in all_cuts for time in (cut.time, cut.until)})
    histories = {}
    for user, mine in events.groupby("user_index"):
        mine = mine.sort_values(["time", "item_index", "weight"], ignore_index=True)
        kept: set[int] = set()
        for known in (mine, *[mine[mine["time"] < time] for time in times]):
            kept |= {*known.index[-length:], *known.drop_duplicates("item_index", keep="last").index}
        mine = mine.loc[sorted(kept)]
        histories[user] = list(zip(mine["item_index"], mine["time"], mine["weight"], strict=True))
    return histories


def expected_pairs(events: pd.DataFrame, all_cuts: list[Cut]) -> dict[str, dict[tuple[int, int], tuple[int, float]]]:
    windows = [("train", 0, all_cuts[0].time), *[(each.name, each.time, each.until) for each in all_cuts[:-1]]]
    pairs: dict[str, dict[tuple[int, int], tuple[int, float]]] = {}
    for name, start, until in windows:
        inside = events[(events["time"] >= start) & (events["time"] < until)]
        pairs[name] = {}
        for key, mine in inside.groupby(["user_index", "item_index"]):
            micro = sum(math.floor(float(weight) * 1e6 + 0.5) for weight in mine["weight"])
            pairs[name][key] = (mine["time"].max(), float(np.float32(math.log1p(micro / 1e6))))
    return pairs


def check_against_pandas(result: Result, events: pd.DataFrame, settings: Settings) -> None:
    """Compare all rows with those that pandas makes of the events (indexes, and times of their windows)."""
    recent = settings.features.recent_days * DAY
    stats = result.tables["item_stats"].sort_values(["cut", "item_index"], ignore_index=True)
    expected = expected_stats(events, result.cuts, recent)
    pd.testing.assert_frame_equal(stats, expected, check_dtype=False)

    histories = expected_histories(events, settings.features.history_length, result.cuts)
    rows = {row.user_index: row for row in result.tables["histories"].itertuples()}
    assert sorted(rows) == sorted(result.tables["user_ids"]["index"])
    for user, row in rows.items():
        assert list(zip(row.items, row.times, row.weights, strict=True)) == histories.get(user, [])

    table = result.tables["examples"]
    for name, pairs in expected_pairs(events, result.cuts).items():
        part = table[table["split"] == name]
        keys = zip(part["user_index"], part["item_index"], strict=True)
        found = dict(zip(keys, zip(part["time"], part["weight"], strict=True), strict=True))
        assert len(part) == len(found)
        assert found == pairs
