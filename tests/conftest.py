"""What all tests share: one Spark session, a small log, and settings that run the whole night in seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.config import Settings, parse_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TINY_DATE = "2024-03-10"  # the log's last day
TINY_DAYS = 200

TINY_TREE: dict[str, Any] = {
    "name": "tiny",
    "buckets": 4,
    "input": {
        "interactions": {
            "user_id": "user",
            "item_id": "item",
            "event_time": "at",
            "event_type": "kind",
            "value": "amount",
        },
        "items": {"id": "item", "label": "{title} ({family})"},
        "users": {"id": "user"},
    },
    "events": {"view": 1.0, "buy": 3.0},
    "split": {"valid_days": 14, "test_days": 14, "ranker_windows": 2},
    "features": {
        "user": [{"name": "segment"}, {"name": "age", "kind": "number", "buckets": 4}],
        "item": [
            {"name": "family"},
            {"name": "tags", "kind": "list", "max_length": 3},
            {"name": "price", "kind": "number", "buckets": 4},
        ],
        "group": ["family"],
        "row_group_rows": 1_000,
        "min_row_groups": 2,
    },
    "retrieval": {"dim": 8, "epochs": 1, "batch_size": 512, "negatives": 32, "learning_rate": 0.05},
    "candidates": {"retrieved": 20, "own": 20},
    "ranker": {"dim": 4, "hidden": [8], "epochs": 1, "batch_size": 512},
    "evaluate": {"ks": [5, 10], "neighbours": 10},
    "gate": {"min_users": 1_000},  # models of one epoch need not be good; test_gate judges better ones
    "score": {"n": 5},
    "report": {"examples": 2},
    "spark": {"master": "local[2]", "driver_memory": "1g", "shuffle_partitions": 2},
}


@dataclass(frozen=True)
class TinyLog:
    """A generated log: the folders of its three inputs, and the same rows as frames.

    ``interactions`` has user, item, at (UTC), kind, amount; ``items`` and ``users`` have their attributes, with gaps.
    """

    folder: Path
    dt: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame


SettingsFactory = Callable[..., Settings]


# files that begin with the same nights (integration/conftest.py), which one worker runs once for them all
NIGHTS = {f"test_{name}.py" for name in ("cluster", "gate", "kill", "local", "notebook", "tracking", "tune")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests out to workers by file, and the files of ``NIGHTS`` as one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::", 1)[0]
            return "nights" if Path(path).name in NIGHTS else path

    return ByFile(config, log)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all tests."""
    from recsys_spark.spark import make_session

    folder = tmp_path_factory.mktemp("spark")
    tree = _merged(
        TINY_TREE,
        {
            "root": str(folder / "root"),
            "input": {name: {"path": "unused"} for name in ("interactions", "items", "users")},
            "spark": {
                "conf": {
                    "spark.local.dir": str(folder / "local"),
                    "spark.sql.warehouse.dir": str(folder / "warehouse"),
                    "spark.default.parallelism": "2",
                    # what is small is soonest done without compiling for it
                    "spark.sql.codegen.wholeStage": "false",
                    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
                }
            },
        },
    )
    session = make_session(parse_settings(tree), "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> TinyLog:
    """60 users, 80 items, 200 days: skewed popularity, habits, repeats, gaps, late starters, one silent user."""
    folder = tmp_path_factory.mktemp("tiny_log")
    log = _generate(folder)
    for name, frame in (("interactions", log.interactions), ("items", log.items), ("users", log.users)):
        (folder / name).mkdir()
        parts = 2 if name == "interactions" else 1
        for number in range(parts):
            part = pa.Table.from_pandas(frame.iloc[number::parts], preserve_index=False)
            pq.write_table(part, folder / name / f"part-{number}.parquet", coerce_timestamps="us")
    return log


@pytest.fixture(scope="session")
def tiny_settings(tiny_log: TinyLog) -> SettingsFactory:
    """Make settings for the tiny log: ``tiny_settings(tmp_path, score={"n": 3}, **{"retrieval.dim": 4})``.

    The root is ``tmp_path / "tables"``. Overrides are trees, merged key by key, or dotted names.
    """

    def make(tmp_path: Path, **overrides: Any) -> Settings:
        paths = {name: {"path": str(tiny_log.folder / name)} for name in ("interactions", "items", "users")}
        tree = _merged(TINY_TREE, {"root": str(tmp_path / "tables"), "input": paths})
        for key, value in overrides.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = _merged(tree, value)
        return parse_settings(tree)

    return make


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(tree)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _generate(folder: Path) -> TinyLog:
    draw = np.random.default_rng(7)
    families = ["bread", "dairy", "fruit", "tea", "soap"]
    tags = ["new", "bio", "sale", "local", "xl"]
    end = pd.Timestamp(TINY_DATE, tz="UTC") + pd.Timedelta(days=1)
    items = pd.DataFrame(
        {
            "item": [f"i{n:03d}" for n in range(80)],
            "title": [f"Thing {n}" for n in range(80)],
            "family": [None if n % 17 == 5 else families[n % 5] for n in range(80)],
            "tags": ["|".join(draw.choice(tags, n % 5, replace=False)) if n % 5 else None for n in range(80)],
            "price": [None if n % 11 == 3 else float(n % 23) + 0.5 for n in range(80)],
        }
    )
    users = pd.DataFrame(
        {
            "user": [f"u{n:03d}" for n in range(60)],
            "segment": [None if n % 13 == 4 else ("home", "office", "school")[n % 3] for n in range(60)],
            "age": [None if n % 7 == 2 else 20 + n % 40 for n in range(60)],
        }
    )
    skew = 1.0 / np.arange(1, 80) ** 0.8  # the last item is never seen
    rows = []
    for user in range(59):  # the last user is silent
        taste = skew * np.where(np.arange(79) % 5 == user % 5, 6.0, 1.0)
        first = TINY_DAYS - 10 if user % 20 == 19 else 0  # late starters
        days = np.sort(draw.uniform(first, TINY_DAYS, 75 if first == 0 else 8))
        if user % 6 == 1:  # a long gap
            days = days[(days < 60) | (days > 150)]
        if user % 10 == 3:  # left before the test window
            days = days[days < TINY_DAYS - 30]
        chosen = draw.choice(79, len(days), p=taste / taste.sum())
        for n in range(2, len(days), 3):  # what was taken before is taken again
            chosen[n] = chosen[n - 2]
        for day, item in zip(days, chosen, strict=True):
            kind = "buy" if draw.random() < 0.3 else "view"
            at = end - pd.Timedelta(seconds=int((TINY_DAYS - day) * 86_400) + 1)
            amount = float(draw.integers(1, 4)) if kind == "buy" else None
            rows.append((f"u{user:03d}", f"i{item:03d}", at, kind, amount))
    events = pd.DataFrame(rows, columns=["user", "item", "at", "kind", "amount"])
    events["at"] = events["at"].astype("datetime64[us, UTC]")
    return TinyLog(folder, TINY_DATE, events.drop_duplicates(ignore_index=True), items, users)
