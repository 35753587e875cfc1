"""The checks of tonight beside those of the nights before, as small drawings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.reporting.plots import trend_plot
from recsys_spark.reporting.svg import spark
from recsys_spark.reporting.words import clean
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet

FIRST = 12  # drawings that are not folded away
_LOW_IS_BAD = ("coverage", "catalogue")
Key = tuple[str, str, str, str]  # name, source, column, kind of drift


@dataclass(frozen=True)
class Small:
    """One check over the nights; ``svg`` has a place a night, tonight's is the last."""

    name: str
    place: str
    value: str
    failed: bool
    svg: str


def nights(store: TableStore, settings: Settings, dt: str) -> list[Manifest]:
    """Checks of the nights before that are compared with tonight's; those that cannot be read are passed over."""
    last = date.fromisoformat(dt)
    found = []
    for back in range(settings.watch.days, 0, -1):
        try:
            manifest = store.current("checks", (last - timedelta(days=back)).isoformat())
        except RecsysError:
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def small_multiples(work: Work) -> list[Small]:
    """A drawing a check of tonight, those nearest to their limit first."""
    if "checks" not in work.inputs:
        return []
    manifests = [*nights(work.store, work.settings, work.dt), work.inputs["checks"]]
    tables = [_by_key(read_parquet(work.store.storage, each.folder).to_pylist()) for each in manifests]
    days = [each.dt for each in manifests]
    window = _window(work)
    found = []
    for key, row in tables[-1].items():
        of_day = {day: table[key] for day, table in zip(days, tables, strict=True) if key in table}
        found.append((nearness(row), key, _small(key, row, [of_day.get(day) for day in window])))
    return [small for *_, small in sorted(found, key=lambda each: (-each[0], each[1]))]


def volume_plot(work: Work) -> str:
    """Events and users of each of the last days, from tonight's profile; empty without one."""
    if "profiles" not in work.inputs:
        return ""
    counts: dict[tuple[str, str], float] = {}
    for row in read_parquet(work.store.storage, work.inputs["profiles"].folder).to_pylist():
        what = (row["column"], row["statistic"])
        if row[c.SOURCE] == "interactions" and what in (("", "rows"), (c.USER_ID, "distinct")):
            counts[row["day"], what[1]] = row["value"]
    if not counts:
        return ""
    days = _window(work)
    lines: dict[str, list[float | None]] = {
        name: [counts.get((day, statistic), 0.0) for day in days]
        for name, statistic in (("events", "rows"), ("users with events", "distinct"))
    }
    told = "; ".join(f"{day}: {counts.get((day, 'rows'), 0):,.0f} events" for day in days)
    return trend_plot("volume", f"Events and users of each day: {told}", days, lines, from_zero=True)


def events_of_day(work: Work) -> int | None:
    """Events of the run's day; None where the watch is off."""
    if "profiles" not in work.inputs:
        return None
    for row in read_parquet(work.store.storage, work.inputs["profiles"].folder).to_pylist():
        if (row[c.SOURCE], row["day"], row["column"], row["statistic"]) == ("interactions", work.dt, "", "rows"):
            return int(row["value"])
    return 0


def _window(work: Work) -> list[str]:
    """The days that are compared, tonight's the last."""
    last = date.fromisoformat(work.dt)
    return [(last - timedelta(days=back)).isoformat() for back in range(work.settings.watch.days, -1, -1)]


def _by_key(rows: list[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return {(r["name"], r[c.SOURCE], r["column"], r["says"][:3] if r["name"] == "drift" else ""): r for r in rows}


def nearness(row: dict[str, Any]) -> float:
    """How near a value is to its limit: 1 at the limit, 2 where it failed."""
    if row["level"] != "ok":
        return 2.0
    value, limit = max(row["value"], 0.0), row["limit"]  # fewer nulls than before are nowhere near more
    if row["name"] in _LOW_IS_BAD or (row["name"] == "volume" and limit < 1):
        value, limit = limit, value
    return min(value / limit, 1.0) if limit > 0 else 0.0


def _small(key: Key, row: dict[str, Any], rows: list[dict[str, Any] | None]) -> Small:
    name, source, column, kind = key
    values = [None if each is None else float(each["value"]) for each in rows]
    failed = [each is not None and each["level"] != "ok" for each in rows]
    place = clean(f"{source}, {column.removeprefix('attribute_')}" if column else source, 60)
    shown = f"{kind.strip()} {row['value']:.3f}".strip()
    known = ", ".join("no value" if value is None else f"{value:.3f}" for value in values)
    label = f"{f'{name} {kind}'.strip()} of {place}, by night, tonight last: {known}; limit {row['limit']:.3f}"
    value = f"{shown}, limit {row['limit']:.3f}"
    svg = spark(values, row["limit"], failed, label)
    return Small(name.replace("_", " "), place, value, row["level"] != "ok", svg)
