"""What cleaning says of a generated log is what the generator knows of it: file by file, rule by rule, row by row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.cleaning import STAGE
from recsys_spark.config import parse_settings
from recsys_spark.generator import LogSpec, dirt, generate, truth_ledger
from recsys_spark.generator.encode import to_table
from recsys_spark.generator.plan import UNREADABLE, plan_files
from recsys_spark.generator.planted import file_rows
from recsys_spark.generator.rows import CODE
from recsys_spark.generator.settings import settings_tree
from recsys_spark.generator.world import world_of
from recsys_spark.rules import DUPLICATES, KEPT, READ, RULES, WAITING
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

SIZE: dict[str, Any] = {"rows": 12_000, "days": 5, "users": 700, "items": 150, "rows_per_file": 3_000}
TYPED: dict[str, Any] = {}
TEXT = {"text": True}
LOGS: dict[tuple[int, int], dict[str, Any]] = {  # (seed, level of dirt) → form
    (1, 0): TYPED, (1, 1): TEXT, (1, 2): TYPED,
    (2, 0): TEXT, (2, 1): {"log_format": "csv"}, (2, 2): TEXT,
    (3, 0): TYPED, (3, 1): TYPED, (3, 2): {"log_format": "json", "text": True},
}  # fmt: skip


def kept_rows(spec: LogSpec) -> Counter[tuple[Any, ...]]:
    """Rows that a night on the log's last day must keep: file, user, item, type, microseconds since 1970, event_id.

    Without the event_id where times are text: of near duplicates written in whole seconds, any may be the first.
    """
    world, last = world_of(spec), spec.days - 1
    found: Counter[tuple[Any, ...]] = Counter()
    for plan in plan_files(spec):
        if plan.kind == UNREADABLE:
            continue
        rows = file_rows(world, plan)
        good = ((rows.rule == CODE[KEPT]) & (rows.day <= last)).nonzero()[0]
        columns = to_table(world, plan, rows).take(good)
        names = [columns[name].to_pylist() for name in ("user_id", "item_id", "event_type", "event_id")]
        found.update(
            (plan.path, user, item, kind, micros, None if spec.text else key)
            for user, item, kind, key, micros in zip(*names, rows.time[good].tolist(), strict=True)
        )
    return found


@pytest.mark.parametrize(("seed", "level"), LOGS)
def test_the_ledger_is_the_truth(spark: SparkSession, tmp_path: Path, seed: int, level: int) -> None:
    from pyspark.sql import functions as F

    form = LOGS[seed, level]
    lines = "log_format" in form
    other = {"unreadable_file": 0.2} if level == 2 and not lines else {}
    if form.get("log_format") == "csv":
        other["id_form"] = 0.0  # Spark reads an empty text in quotes as null
    rates = dirt(level, other, text=form.get("text", False), lines=lines)
    spec, out = LogSpec(seed=seed, rates=rates, **SIZE, **form), str(tmp_path / "log")
    generate(spark, spec, out)
    tree = settings_tree(spec, out)
    tree["input"] = {"interactions": tree["input"]["interactions"]}
    tree |= {"features": {}, "spark": {"shuffle_partitions": 2}}
    settings = parse_settings(tree)
    outputs = run_stage(STAGE, spark, settings, spec.end_date)
    store = TableStore(settings.root)
    rows = {name: store.read(spark, outputs[name]) for name in ("interactions", "quarantine", "ledger")}

    truth = truth_ledger(out, spec.end_date)
    ledger = {(row["source_file"], row["rule"]): row["rows"] for row in rows["ledger"].collect()}
    assert ledger == truth
    told = rows["quarantine"].groupBy("source_file", "rule").count().collect()
    bad = {key: n or 1 for key, n in truth.items() if key[1] in RULES}  # an unreadable file has a row, and no rows
    assert {(row["source_file"], row["rule"]): row["count"] for row in told} == bad
    key = F.when(F.lit(not spec.text), F.col("event_key"))
    names = ("source_file", "user_id", "item_id", "event_type", F.unix_micros("event_time"), key)
    assert Counter(tuple(row) for row in rows["interactions"].select(*names).collect()) == kept_rows(spec)

    met = {rule for _, rule in truth}
    assert met <= {READ, KEPT, WAITING, *DUPLICATES, *RULES}
    planted = {name for name, share in rates if share and name in (*DUPLICATES, *RULES)}
    assert planted | {READ, KEPT} <= met
