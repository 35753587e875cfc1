"""A root with what the index of nights reads, and nothing else: reports, outcomes, pointers."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from recsys_spark.tables import TableStore
from recsys_spark.tables.pointer import move_pointer
from recsys_spark.tables.store import Stamp

FIRST = date(2024, 3, 1)


def day(number: int) -> str:
    """A night's date."""
    return (FIRST + timedelta(days=number)).isoformat()


def facts(number: int, **changes: Any) -> dict[str, Any]:
    """What a night keeps for the index."""
    ndcg = 0.31 + 0.002 * (number % 5)
    return {
        "top_n": f"lists{number}",
        "users": 1_000 + 10 * number,
        "rows": 20_000,
        "items": 300,
        "catalogue": 4_000,
        "events_of_day": 5_000 + 100 * (number % 7),
        "seconds": 240.0 + number,
        "peak_mib": 4_100 + 10 * number,
        "read": 100_000 + 5_000 * number,
        "kept": 99_000 + 5_000 * number,
        "dropped": {"null_key": 600, "duplicate": 400},
        "k": 10,
        "ndcg": ndcg,
        "best_plain": 0.29,
        "coverage": 0.07,
        "gate_ndcg": {"tonight": [ndcg, ndcg - 0.01, ndcg + 0.01], "repeat": [0.29, 0.28, 0.3]},
        "gate_k": 10,
        "failed": [],
        "gate": "ok",
        "watch": "ok",
        "list_change": 0.3 + 0.01 * number,
        **changes,
    }


def add_night(store: TableStore, number: int, outcome: str = "ok", shown: bool = True, **changes: Any) -> None:
    """A night that ended so, with its report; ``shown``: readers see its lists."""
    dt = day(number)
    run = f"lists{number}"
    add_outcome(store, number, outcome)
    store.storage.make_folder(f"top_n/dt={dt}/run={run}")
    if shown:
        move_pointer(store.storage, "top_n", dt, run, None)
    stamp = Stamp(dt, f"report{number}", "report", "f" * 32, "a" * 16, "0.0.0", {})
    store.storage.write_bytes(f"{store.folder('report', stamp)}/report.html", b"<!doctype html>")
    store.point(store.seal(None, "report", stamp, extra={"night": facts(number, **changes)}))


def add_outcome(store: TableStore, number: int, outcome: str, says: str = "") -> None:
    """How the last run of a night ended."""
    content = {"outcome": outcome, "says": says or f"{outcome}: 23 checks", "run_id": f"run{number}"}
    store.storage.write_json(f"_outcomes/dt={day(number)}.json", content)
