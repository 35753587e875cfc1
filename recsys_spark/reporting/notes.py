"""What the stages noted of the run: figures, curves, times and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.reporting import words
from recsys_spark.stage import Work

PEAK = "peak_mib"  # of all processes of a stage


@dataclass(frozen=True)
class Step:
    """Time and memory of a stage."""

    name: str
    seconds: float
    time: str
    share: float
    memory: list[str]
    rows: str
    run_id: str


def steps(work: Work) -> tuple[list[Step], list[str], float, float]:
    """Stages in their order, the names of the memory columns, all seconds together, and the largest peak in MiB."""
    storage = work.store.storage
    folder = f"_stages/dt={work.dt}"
    notes = []
    for name in storage.names(folder, "file"):
        note = _json(work, f"{folder}/{name}") if name.endswith(".json") else {}
        if "stage" in note and note["stage"] != "report":
            notes.append(note)
    order = {name: place for place, name in enumerate(words.STAGES)}
    notes.sort(key=lambda note: (order.get(note["stage"], len(order)), note.get("run_id", "")))
    memory = sorted({key for note in notes for key in note if key.endswith("_mib")})
    total = sum(float(note.get("seconds", 0)) for note in notes)
    longest = max((float(note.get("seconds", 0)) for note in notes), default=0) or 1.0
    shown = [
        Step(
            name=note["stage"],
            seconds=float(note.get("seconds", 0)),
            time=words.duration(float(note.get("seconds", 0))),
            share=float(note.get("seconds", 0)) / longest,
            memory=[f"{note[key]:,.0f}" if key in note else "–" for key in memory],
            rows=", ".join(f"{table} {rows:,}" for table, rows in note.get("rows", {}).items() if rows),
            run_id=str(note.get("run_id", "")),
        )
        for note in notes
    ]
    peak = max((float(note.get(PEAK, 0)) for note in notes), default=0.0)
    return shown, [_memory_name(key) for key in memory], total, peak


def _memory_name(key: str) -> str:
    text = key.removesuffix("_mib").replace("_", " ").strip()
    return f"{'peak, all processes' if text == 'peak' else text}, MiB"


def curves(work: Work, table: str) -> dict[str, Any]:
    """Content of a model's ``curves.json``, or nothing where there is none."""
    manifest = work.inputs.get(table)
    return {} if manifest is None else _json(work, f"{manifest.folder}/curves.json")


def _json(work: Work, path: str) -> dict[str, Any]:
    """Read a side file; the page does without one that is missing or torn."""
    storage = work.store.storage
    if not storage.exists(path):
        return {}
    try:
        content = storage.read_json(path)
    except RecsysError:
        return {}
    return content if isinstance(content, dict) else {}


def metric_rows(work: Work) -> list[tuple[tuple[str, str, str, int], float | None, int]]:
    """Rows of the table ``metrics`` for the test window."""
    from pyspark.sql import functions as F

    if "metrics" not in work.inputs:
        return []
    table = work.store.read(work.spark, work.inputs["metrics"]).where(F.col(c.SPLIT) == "test")
    return [((r["model"], r["slice"], r["metric"], r["k"]), r["value"], r["users"]) for r in table.collect()]
