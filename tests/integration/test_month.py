"""A month of nights on one root: indexes stay, a re-run gives the same, and the end is what one run over all gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import pointers, rows

from recsys_spark.config import Settings, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.generator import LogSpec, dirt, generate, truth_ledger
from recsys_spark.generator.settings import settings_tree
from recsys_spark.pipeline import load_stage
from recsys_spark.rules import DUPLICATES
from recsys_spark.stage import run_stage
from recsys_spark.tables import Manifest, TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

SPEC = LogSpec(rows=9_000, days=30, users=120, items=60, seed=4, rates=dirt(2, {"unreadable_file": 0.1}))
NIGHTS = [SPEC.day_name(day) for day in range(SPEC.days)]
LATE, TWICE = NIGHTS[11], NIGHTS[17]  # a night that is done after NIGHTS[20] only, and one that is done twice
FEATURIZED = [*NIGHTS[5::6], NIGHTS[-1]]  # before, the log is too short to be split
Outputs = dict[str, Manifest]
Counts = dict[tuple[str, str, str], int]


def settings_for(log: str, root: str, **changes: Any) -> Settings:
    tree = settings_tree(SPEC, log)
    mine = {
        "split": {"valid_days": 1, "test_days": 1, "ranker_windows": 2},
        # floors, so that ids come when they are seen and not all with the tables of users and items
        "features": {**tree["features"], "min_user_events": 2, "min_item_events": 2},
        "spark": {"shuffle_partitions": 2},
    }
    return parse_settings({**tree, "root": root, **mine, **changes})


@dataclass
class Month:
    """A log, the root of its nights, and what each run of a night wrote, the oldest run first."""

    log: str
    settings: Settings
    runs: dict[str, list[Outputs]] = field(default_factory=dict)

    def run(self, spark: SparkSession, dt: str, force: bool = False) -> None:
        """Do a night: clean, and on some nights featurize."""
        names = ["clean", "featurize"] if dt in FEATURIZED else ["clean"]
        written: Outputs = {}
        for name in names:
            written |= run_stage(load_stage(name), spark, self.settings, dt, force=force)
        self.runs.setdefault(dt, []).append(written)


@pytest.fixture(scope="module")
def month(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Month:
    """Thirty nights."""
    folder = tmp_path_factory.mktemp("month")
    generate(spark, SPEC, str(folder / "log"))
    month = Month(str(folder / "log"), settings_for(str(folder / "log"), str(folder / "tables")))
    for dt in NIGHTS:
        if dt != LATE:
            month.run(spark, dt)
        if dt == TWICE:
            month.run(spark, dt, force=True)
        if dt == NIGHTS[20]:
            month.run(spark, LATE)
    return month


@pytest.fixture(scope="module")
def same_as_once(spark: SparkSession, month: Month, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Checks what the month's last of these nights wrote against a root that has seen these nights alone."""

    def check(*nights: str) -> None:
        settings = settings_for(month.log, str(tmp_path_factory.mktemp("once") / "tables"))
        alone = [run_stage(load_stage("clean"), spark, settings, dt) for dt in nights][-1]
        meant = {name: month.runs[nights[-1]][-1][name] for name in alone}
        assert hashes(meant) == hashes(alone)
        ledgers = [ledger_of(TableStore(each.root), nights[-1]) for each in (month.settings, settings)]
        assert counts(ledgers[0]) == counts(ledgers[1])

    return check


def hashes(outputs: Outputs) -> dict[str, str]:
    """Contents of the tables but the ledger, which ``counts`` compares."""
    return {name: each.content_hash for name, each in outputs.items() if name != "ledger"}


def ledger_of(store: TableStore, dt: str) -> Counts:
    found = rows(store, "ledger", dt)
    keys = zip(found["source"], found["source_file"], found["rule"], strict=True)
    return dict(zip(keys, found["rows"].tolist(), strict=True))


def counts(lines: Counts) -> Counts:
    """Lines of a ledger, the kinds of duplicates in files that came twice as one.

    Of a row that an earlier night dropped nothing is left to compare its copy with: the copy is then a duplicate of
    the kind that the kept row makes it.
    """
    total: Counter[tuple[str, str, str]] = Counter()
    for (source, name, rule), number in lines.items():
        twice = "/redelivered-" in name and rule in DUPLICATES
        total[source, name, "duplicate" if twice else rule] += number
    return dict(total)


def test_every_night_counts_what_is_true(month: Month) -> None:
    """Also the night that came late, and those that went on from nights before it."""
    store = TableStore(month.settings.root)
    for dt in NIGHTS:
        truth = {("interactions", *key): number for key, number in truth_ledger(month.log, dt).items()}
        found = {key: number for key, number in ledger_of(store, dt).items() if key[0] == "interactions"}
        assert counts(found) == counts(truth), dt
        assert store.need("interactions", dt) == month.runs[dt][-1]["interactions"]


def test_the_last_night_is_what_one_run_over_all_gives(month: Month, same_as_once: Callable[..., None]) -> None:
    parts = {each.folder for each in month.runs[NIGHTS[-1]][-1]["interactions"].files}
    assert len(parts) > 20  # most days are still the files of their own nights
    same_as_once(NIGHTS[-1])


def test_nights_may_be_left_out(month: Month, same_as_once: Callable[..., None]) -> None:
    """More of them than clean.look_back_days: rows that waited for one of them are not lost."""
    same_as_once(NIGHTS[3], NIGHTS[3 + month.settings.clean.look_back_days + 2])


def test_a_night_done_twice_is_the_same(month: Month) -> None:
    first, second = month.runs[TWICE]
    assert {each.run_id for each in first.values()}.isdisjoint(each.run_id for each in second.values())
    assert {name: each.content_hash for name, each in first.items()} == {
        name: each.content_hash for name, each in second.items()
    }
    assert set(second) >= {"interactions", "user_ids", "examples"}


def test_every_id_keeps_its_index(month: Month) -> None:
    store = TableStore(month.settings.root)
    for table, name in (("user_ids", "user_id"), ("item_ids", "item_id")):
        index: dict[str, int] = {}
        sizes = []
        for dt in FEATURIZED:
            found = rows(store, table, dt)
            assert found["index"].is_unique
            for each, number in zip(found[name], found["index"], strict=True):
                assert index.setdefault(each, number) == number, (table, dt, each)
            sizes.append(len(found))
        assert len(set(index.values())) == len(index)
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1] == len(index)


def test_a_root_keeps_its_buckets(spark: SparkSession, month: Month) -> None:
    before = pointers(Path(month.settings.root))
    other = settings_for(month.log, month.settings.root, buckets=month.settings.buckets + 1)
    with pytest.raises(RecsysError, match="begun with 16"):
        run_stage(load_stage("featurize"), spark, other, NIGHTS[-1])
    assert pointers(Path(month.settings.root)) == before
