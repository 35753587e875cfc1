"""Bad input of every kind: what becomes of each file, or the one line that a person is told.

``JUDGED``: files that a night reads; those of one log share one run of the stage.
``REFUSED``, ``SETTINGS``: nights that end with an error; what a good night published before is untouched, byte by byte.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from bad_files import DT, JUDGED, LOGS, Judged, parquet
from bad_nights import REFUSED, SETTINGS, Refused, Tree, put
from harness import currents, pointers

from recsys_spark.cleaning import STAGE
from recsys_spark.config import Settings, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.rules import RULES
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.content import content, content_digest, schema_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def tree_of(root: Path, log: Path, interactions: Tree | None = None, **changes: Tree) -> Tree:
    """Settings for a log, with changed sections."""
    named = {"user_id": "user", "item_id": "item", "event_time": "at", "event_type": "kind", "value": "amount"}
    tree: Tree = {
        "name": "bad",
        "root": str(root),
        "buckets": 4,
        "input": {"interactions": {"path": str(log), **named, **(interactions or {})}},
        "events": {"view": 1.0, "buy": 3.0},
        "spark": {"shuffle_partitions": 2},
    }
    for section, values in changes.items():
        old = tree.get(section)
        tree[section] = {**old, **values} if isinstance(old, dict) and section == "input" else values
    return tree


# ------------------------------------------------------------ files that are read
class Found(NamedTuple):
    """What a run made of a log: the ledger, rows in quarantine, and users of kept rows, each by file."""

    ledger: dict[str, dict[str, int]]
    quarantine: Counter[tuple[str, str]]
    kept: dict[str, list[str]]


@pytest.fixture(scope="module")
def found(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """Runs the stage on a log, once."""
    done: dict[str, Found] = {}

    def run(log: str) -> Found:
        if log not in done:
            folder = tmp_path_factory.mktemp(log)
            for each in JUDGED:
                if each.log == log:
                    put(folder / "log" / each.file, each.holds)
            limits = {"max_quarantine_share": 1.0, "max_unreadable_share": 1.0}
            settings = parse_settings(tree_of(folder / "tables", folder / "log", LOGS[log], clean=limits))
            outputs = run_stage(STAGE, spark, settings, DT)
            store = TableStore(settings.root)
            rows = {name: store.read(spark, outputs[name]).collect() for name in ("ledger", "quarantine")}
            kept = store.read(spark, outputs["interactions"]).select("source_file", "user_id").collect()
            done[log] = Found({}, Counter((row["source_file"], row["rule"]) for row in rows["quarantine"]), {})
            for row in rows["ledger"]:
                done[log].ledger.setdefault(row["source_file"], {})[row["rule"]] = row["rows"]
            for row in kept:
                done[log].kept.setdefault(row["source_file"], []).append(row["user_id"])
        return done[log]

    return run


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: f"{case.log}: {ascii(case.file)[1:-1]}")
def test_every_file_is_accounted_for(found: Callable[[str], Found], case: Judged) -> None:
    ledger, quarantine, kept = found(case.log)
    if case.outcome is None:
        assert case.file not in ledger
        return
    assert ledger[case.file] == {"read": sum(case.outcome.values()), **case.outcome}
    unreadable = {"unreadable_file": 1} if "unreadable_file" in case.outcome else {}
    told = {rule: rows for rule, rows in case.outcome.items() if rule in RULES and rows} | unreadable
    assert {rule: rows for (file, rule), rows in quarantine.items() if file == case.file} == told
    assert len(kept.get(case.file, [])) == case.outcome.get("kept", 0)
    if case.users is not None:
        assert set(kept[case.file]) == case.users


# ------------------------------------------------------------ nights that are refused
def published(root: Path) -> dict[str, str]:
    """All pointers, and a hash of every file that they make readers see."""
    store = TableStore(str(root))
    shown = dict(pointers(root))
    for manifest in currents(root, DT).values():
        assert not store.damage(manifest)
        for entry in manifest.files:
            shown[manifest.path(entry)] = sha256((root / manifest.path(entry)).read_bytes()).hexdigest()
    return shown


class Good(NamedTuple):
    """A good night: its log, its root, its settings, and what it published."""

    log: Path
    root: Path
    settings: Settings
    published: dict[str, str]


@pytest.fixture(scope="module")
def good(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Good:
    """Two days of a log and the night of the second, which every refused night then tries to do again."""
    folder = tmp_path_factory.mktemp("good")
    log, root = folder / "log", folder / "tables"
    for day in ("2024-03-09", DT):
        rows = parquet(10, at=[f"{day} 12:00:0{n}" for n in range(10)])
        put(log / "events" / f"dt={day}" / "part-0.parquet", rows)
    settings = parse_settings(tree_of(root, log / "events", {"day_partition": "dt"}))
    run_stage(STAGE, spark, settings, DT)
    return Good(log, root, settings, published(root))


def filled(values: Any, **places: Path) -> Any:
    """The same values with {log} and {good} replaced."""
    if isinstance(values, dict):
        return {key: filled(each, **places) for key, each in values.items()}
    return values.format(**places) if isinstance(values, str) else values


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_refused_night_says_why_and_leaves_the_tables_alone(
    spark: SparkSession, good: Good, tmp_path: Path, case: Refused
) -> None:
    shutil.copytree(good.log, tmp_path / "log")
    if case.harm is not None:
        case.harm(tmp_path / "log")
    changes = filled(case.changes, log=tmp_path / "log", good=good.log / "events")
    interactions = {"day_partition": "dt", **changes.pop("interactions", {})}
    settings = parse_settings(tree_of(good.root, tmp_path / "log" / "events", interactions, **changes))
    with pytest.raises(RecsysError) as error:
        run_stage(STAGE, spark, settings, case.dt)
    told = str(error.value)
    assert "\n" not in told
    assert len(told) < 1_000
    assert error.value.do
    assert [each for each in case.says if each not in told] == [], told
    assert published(good.root) == good.published


@pytest.mark.parametrize(("changes", "says"), SETTINGS)
def test_bad_settings_are_named(good: Good, changes: Tree, says: list[str]) -> None:
    with pytest.raises(RecsysError) as error:
        parse_settings(tree_of(good.root, good.log, **changes))
    told = str(error.value)
    assert "\n" not in told
    assert [each for each in says if each not in told] == [], told


def test_the_good_night_can_still_be_read(spark: SparkSession, good: Good) -> None:
    """After all that was refused: same rows, and the stage finds its work done."""
    store = TableStore(str(good.root))
    manifest = store.need("interactions", DT)
    frame = store.read(spark, manifest)
    assert content_digest(*content(frame), schema_text(frame)) == manifest.content_hash
    assert run_stage(STAGE, spark, good.settings, DT)["interactions"] == manifest
    assert published(good.root) == good.published
