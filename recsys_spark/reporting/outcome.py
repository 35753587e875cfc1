"""What the gate and the watch said of the night, as a person reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recsys_spark.stage import Work
from recsys_spark.tables.arrays import read_parquet

WORDS = {"ok": "all is well", "alarm": "shown, but look at it", "hold": "held"}
_ORDER = {"hold": 0, "alarm": 1, "ok": 2}


@dataclass(frozen=True)
class Judgement:
    """A judge's table: its outcome, one line, and its rows, the worst first."""

    outcome: str
    says: str
    failed: list[dict[str, Any]]
    passed: list[dict[str, Any]]


def judgement(work: Work, table: str) -> Judgement | None:
    """Rows of ``checks`` or ``gate``; None where the settings have switched the stage off."""
    if table not in work.inputs:
        return None
    manifest = work.inputs[table]
    rows = read_parquet(work.store.storage, manifest.folder).to_pylist()
    rows.sort(key=lambda row: _ORDER[row["level"]])
    failed = [row for row in rows if row["level"] != "ok"]
    outcome = str(manifest.extra.get("outcome", "ok"))
    return Judgement(outcome, str(manifest.extra.get("says", "")), failed, rows[len(failed) :])
