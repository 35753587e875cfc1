"""Settings under which recsys-spark runs on a generated log."""

from __future__ import annotations

from typing import Any

import yaml

from recsys_spark.config import parse_settings
from recsys_spark.generator.spec import ACTIVITY_MADS, LOOK_BACK_DAYS, NEAR_SECONDS, LogSpec

EVENTS = {"impression": 0.05, "view": 1.0, "cart": 3.0, "purchase": 5.0, "rating": 4.0}


def settings_tree(spec: LogSpec, out: str) -> dict[str, Any]:
    """Settings as plain values.

    Parameters
    ----------
    spec : LogSpec
    out : str
        The log's root, a path or URI.
    """
    window = max(1, spec.days // 10)
    tree: dict[str, Any] = {
        "name": f"generated-{spec.seed}",
        "root": f"{out}/tables",
        "buckets": 16,
        "input": {
            "interactions": _interactions(spec, out),
            "items": {"path": f"{out}/items", "id": "item_id", "label": "{title} ({brand})"},
            "users": {"path": f"{out}/users", "id": "user_id", "label": "{segment}, {country}"},
        },
        "events": dict(EVENTS),
        "clean": _clean(spec),
        "split": {"valid_days": window, "test_days": window, "ranker_windows": 3 if spec.days >= 10 else 2},
        "features": _features(window),
        "spark": {"master": "local[*]", "driver_memory": "2g", "shuffle_partitions": 8},
    }
    parse_settings(tree)  # a key that the settings no longer know is told here, not at night
    return tree


def settings_page(spec: LogSpec, out: str) -> str:
    """The settings file."""
    head = f"# {spec.rows:,} generated rows of {spec.days} days; the last is {spec.end_date}.\n"
    run = f"# recsys-spark run --config {out}/settings.yaml --date {spec.end_date}\n"
    return head + run + yaml.safe_dump(settings_tree(spec, out), sort_keys=False, allow_unicode=True)


def _interactions(spec: LogSpec, out: str) -> dict[str, Any]:
    reader: dict[str, Any] = {"path": f"{out}/events", "format": spec.log_format}
    if spec.log_format == "csv":
        reader["options"] = {"header": "true", "escape": '"'}
    mapping = {name: name for name in ("user_id", "item_id", "event_time", "event_type", "value")}
    unit = "mixed" if spec.text else "timestamp"
    return {**reader, **mapping, "event_key": "event_id", "time_unit": unit, "day_partition": "dt"}


def _clean(spec: LogSpec) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "earliest": spec.earliest.isoformat(),
        "look_back_days": LOOK_BACK_DAYS,
        "near_duplicate_seconds": NEAR_SECONDS,
        "activity_floor": spec.activity_floor,
        "activity_mads": ACTIVITY_MADS,
    }
    if spec.hot_user_share:
        rules["rules_off"] = ["extreme_activity"]
    if spec.rates:  # the faults are planted: no share of them is to stop the night
        rules |= {"max_quarantine_share": 1.0, "max_unreadable_share": 1.0}
    return rules


def _features(window: int) -> dict[str, Any]:
    return {
        "user": [{"name": "segment"}, {"name": "country"}, {"name": "age", "kind": "number", "buckets": 8}],
        "item": [
            {"name": "category"},
            {"name": "department", "column": "category", "extract": "^([^>]+?) >"},
            {"name": "brand"},
            {"name": "tags", "kind": "list"},
            {"name": "price", "kind": "number"},
        ],
        "group": ["category", "department", "brand"],
        "recent_days": 4 * window,
    }
