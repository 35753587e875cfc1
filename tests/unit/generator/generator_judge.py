"""The rules once more, row by row in plain Python: shares no line with the generator nor with cleaning."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

COLUMNS = ["event_id", "user_id", "item_id", "event_type", "event_time", "value", "session_id", "device"]
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row | None] | None:
    """Rows of a file; None for a row that cannot be taken apart, None for a file that cannot be read."""
    if path.suffix == ".json":
        return [_json_row(line) for line in path.read_text("utf-8").split("\n") if line]
    if path.suffix == ".csv":
        lines = path.read_text("utf-8").split("\n")
        return [_csv_row(line) for line in lines[1:] if line]
    try:
        table = pq.read_table(path, partitioning=None)
    except Exception:
        return None
    assert table.column_names == COLUMNS
    return table.to_pylist()


def _json_row(line: str) -> Row | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _csv_row(line: str) -> Row | None:
    """A field without quotes and without a letter is null; the csv module cannot tell it from an empty text."""
    fields = next(csv.reader([line]))
    if len(fields) != len(COLUMNS):
        return None
    empty = next(csv.reader([re.sub(r'(^|,)""(?=,|$)', r'\1"\\0"', line)]))
    return {
        name: "" if mark == "\\0" else field or None for name, field, mark in zip(COLUMNS, fields, empty, strict=True)
    }


def time_of(raw: Any) -> int | None:
    """Microseconds since 1970; None where it is no time."""
    if isinstance(raw, datetime):
        return _micros(raw)
    if re.fullmatch(r"-?\d+", raw):
        number = int(raw)
        return number * (1_000_000 if abs(number) < 10**11 else 1_000)
    if not re.match(r"\d{4}-\d\d-\d\d", raw):
        return None
    try:
        read = datetime.fromisoformat(raw)
    except ValueError:
        return None
    return _micros(read if read.tzinfo else read.replace(tzinfo=UTC))


def _micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def number_of(raw: Any) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None


def judge(out: Path, night: str) -> tuple[Counter[tuple[str, str]], dict[str, int]]:
    """Counts by file and rule, and the most rows of a user on a day: of bots (the fewest) and of all others."""
    settings = yaml.safe_load((out / "settings.yaml").read_text())
    counts: Counter[tuple[str, str]] = Counter()
    good: list[Row] = []
    for path in sorted((out / "events").rglob("*.*")):
        file = str(path.relative_to(out / "events"))
        if file[3:13] > night:
            continue
        rows = read_rows(path)
        if rows is None:
            counts[file, "unreadable_file"] += 0
            counts[file, "read"] += 0
            continue
        counts[file, "read"] += len(rows)
        for place, raw in enumerate(rows):
            row = {"rule": "malformed"} if raw is None else _judged(raw, file, place, settings, night)
            if row["rule"]:
                counts[file, row["rule"]] += 1
            else:
                good.append(row)
    people = _extreme(good, settings)
    _repeated(good, settings)
    counts.update((row["file"], row["rule"] or "kept") for row in good)
    return counts, people


def _judged(raw: Row, file: str, place: int, settings: dict[str, Any], night: str) -> Row:
    clean = settings["clean"]
    time = None if raw["event_time"] is None else time_of(raw["event_time"])
    value = None if raw["value"] is None else number_of(raw["value"])
    day = None if time is None else date(1970, 1, 1) + timedelta(days=time // 86_400_000_000)
    lag = None if day is None else (date.fromisoformat(file[3:13]) - day).days
    ids = (raw["user_id"], raw["item_id"])
    rule = None
    if None in (*ids, raw["event_time"], raw["event_type"]):
        rule = "null_key"
    elif time is None or (raw["value"] is not None and value is None):
        rule = "bad_type"
    elif any(not each.strip() or len(each) > 256 or re.search(r"[\x00-\x1f\x7f]", each) for each in ids):
        rule = "id_form"
    elif raw["event_type"] not in settings["events"]:
        rule = "event_type"
    elif str(day) < clean["earliest"]:
        rule = "time_range"
    elif lag > clean["look_back_days"]:
        rule = "too_late"
    elif -lag > clean["look_back_days"]:
        rule = "future"
    elif str(day) > night:
        rule = "after_date"
    elif value is not None and not 0 <= value < math.inf:
        rule = "value_range"
    key = (raw["event_id"], *ids, raw["event_type"], time, value)
    return {"rule": rule, "file": file, "place": place, "day": day, "time": time, "key": key}


def _extreme(good: list[Row], settings: dict[str, Any]) -> dict[str, int]:
    clean = settings["clean"]
    by_day: dict[date, Counter[str]] = defaultdict(Counter)
    for row in good:
        by_day[row["day"]][row["key"][1]] += 1
    everybody = [(user, n) for people in by_day.values() for user, n in people.items()]
    people = {
        "others": max(n for user, n in everybody if not user.startswith("bot-")),
        "bots": min((n for user, n in everybody if user.startswith("bot-")), default=10**9),
    }
    if "extreme_activity" in clean.get("rules_off", []):
        return people
    limits = {}
    for day, counted in by_day.items():
        logs = np.log(list(counted.values()))
        spread = np.median(np.abs(logs - np.median(logs)))
        limits[day] = np.median(logs) + clean["activity_mads"] * 1.4826 * spread
    for row in good:
        number = by_day[row["day"]][row["key"][1]]
        if number > clean["activity_floor"] and np.log(number) > limits[row["day"]]:
            row["rule"] = "extreme_activity"
    return people


def _repeated(good: list[Row], settings: dict[str, Any]) -> None:
    left = sorted((row for row in good if not row["rule"]), key=lambda row: (row["file"], row["place"]))
    seen: set[Any] = set()
    for row in left:
        if row["key"] in seen:
            row["rule"] = "duplicate"
        seen.add(row["key"])
    left = sorted((row for row in left if not row["rule"]), key=lambda row: (row["file"], row["time"], row["place"]))
    events: set[Any] = set()
    for row in left:
        if (row["key"][0], row["day"]) in events:
            row["rule"] = "redelivered"
        events.add((row["key"][0], row["day"]))
    near = settings["clean"]["near_duplicate_seconds"] * 1e6
    left = sorted((row for row in left if not row["rule"]), key=lambda row: (row["key"][1:4], row["time"], row["file"]))
    for one, other in pairwise(left):
        same = one["key"][1:4] == other["key"][1:4] and one["day"] == other["day"]
        if same and other["time"] - one["time"] <= near:
            other["rule"] = "near_duplicate"
