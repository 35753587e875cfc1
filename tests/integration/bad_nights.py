"""Nights that must be refused: what is done to a good log or to its settings, and what the error must say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bad_files import CSV, DT, NAN, middle, parquet, text, times, users

LAST = f"dt={DT}/part-0.parquet"
KEY = "TESTS_BAD_INPUT_KEY"
Tree = dict[str, Any]


def put(path: Path, holds: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(holds)


class Refused(NamedTuple):
    """What is done to the folder of a good log, what is changed in its settings, and what the error must say."""

    name: str
    harm: Callable[[Path], object] | None
    changes: Tree
    says: list[str]
    dt: str = DT


def both(holds: bytes) -> Callable[[Path], object]:
    return lambda log: [put(path, holds) for path in sorted((log / "events").glob("*/*"))]


def last(holds: bytes, name: str = LAST) -> Callable[[Path], object]:
    return lambda log: put(log / "events" / name, holds)


def beside(name: str, holds: bytes) -> Callable[[Path], object]:
    return lambda log: put(log / name, holds)


def hidden(log: Path) -> None:
    for path in (log / "events").glob("*/*"):
        path.rename(path.with_name("_SUCCESS"))


def emptied(log: Path) -> None:
    for path in (log / "events").glob("*/*"):
        path.unlink()


SHARE = ["1 of 2 files cannot be read", LAST, "clean.max_unreadable_share"]
PATH = ["input.interactions.path"]
GOOD = parquet(10)
LISTED: Tree = {"input": {"deleted_users": {"path": "{log}/deleted", "id": "id", **CSV}}}
ITEMS: Tree = {"input": {"items": {"path": "{log}/items", "id": "item", "label": "{{title}}"}}}

REFUSED = [
    Refused("no folder", lambda log: shutil.rmtree(log / "events"), {}, ["events", "no files there", *PATH]),
    Refused("folders without files", emptied, {}, ["events", "no files there", *PATH]),
    Refused("hidden files only", hidden, {}, ["events", "no files there", *PATH]),
    Refused("unknown scheme", None, {"interactions": {"path": "nosuch://x/log"}}, ["nosuch://x/log", *PATH]),
    Refused("pattern without an end", None, {"interactions": {"path": "{log}/{{a"}}, ["{a", *PATH]),
    Refused("outside the day folders", last(GOOD, "x.parquet"), {}, ["no folder dt=", "x.parquet", "day_partition"]),
    Refused("bad day", last(GOOD, "dt=2024-3-9/x.parquet"), {}, ["dt=2024-3-9/x.parquet", "day_partition"]),
    Refused("zero bytes", last(b""), {}, SHARE),
    Refused("torn footer", last(GOOD[:-9]), {}, SHARE),
    Refused("garbage in the middle", last(middle(parquet(50))), {}, SHARE),
    Refused("renamed everywhere", both(parquet(user=None, user_id=["u"])), {},
            ["no column 'user'", "Did you mean 'user_id'?", "input.interactions.user_id"]),
    Refused("optional column nowhere", None, {"interactions": {"value": "amonut"}},
            ["no column 'amonut'", "Did you mean 'amount'?", "input.interactions.value"]),
    Refused("renamed in the night's file", last(parquet(user=None, user_id=["u"])), {},
            [LAST, "missing_column 1", "clean.max_quarantine_share"]),
    Refused("list in place of an id", last(users(["a"], ["b"])), {}, [LAST, "bad_type 2"]),
    Refused("too many bad rows", last(parquet(10, kind=["view"] * 7 + [None] * 3)), {},
            [LAST, "3 of 10 rows are bad (null_key 3)", "clean.max_quarantine_share (now 0.2)"]),
    Refused("numbers for times", both(times(1710072000)), {}, ["column 'at'", "bigint", "time_unit"]),
    Refused("times for numbers", both(parquet()), {"interactions": {"time_unit": "seconds"}}, ["part-0", "bad_type 1"]),
    Refused("milliseconds for seconds", both(times(1710072000000)), {"interactions": {"time_unit": "seconds"}},
            ["bad_type 1"]),
    Refused("seconds for milliseconds", both(times(1710072000)), {"interactions": {"time_unit": "milliseconds"}},
            ["time_range 1"]),
    Refused("CSV without names", None, {"interactions": {"format": "csv"}}, ["options.header", "fields"]),
    Refused("Parquet taken for JSON", None, {"interactions": {"format": "json"}}, ["part-0", "malformed"]),
    Refused("all is later", both(times("2024-03-12")), {}, ["no row is left", "later than the day of the run"]),
    Refused("before the first day", None, {}, ["no folder of 2024-03-08", "2024-03-09", "--date"], "2024-03-08"),
    Refused("after the last day", None, {}, ["no event on 2024-03-12", DT, "--date"], "2024-03-12"),
    Refused("after the last day, again", None, {"interactions": {"path": "{good}"}},
            [f"no file came since the night of {DT}", "--date"], "2024-03-12"),
    Refused("min above max", None, {"clean": {"min_value": 5, "max_value": 1}}, ["value_range"]),
    Refused("no key", None, {"privacy": {"user_key_variable": KEY}}, [KEY, "privacy.user_key_variable"]),
    Refused("short key", beside("key", b"short"), {"privacy": {"user_key_file": "{log}/key"}}, ["key", "5 bytes"]),
    Refused("no key file", None, {"privacy": {"user_key_file": "{log}/key"}}, ["privacy.user_key_file"]),
    Refused("no list of deleted users", None, LISTED, ["deleted", "input.deleted_users.path"]),
    Refused("empty list", beside("deleted/a.csv", b""), LISTED, ["deleted/a.csv", "the list cannot be read"]),
    Refused("list without its column", beside("deleted/a.csv", text("u", header="ids")), LISTED,
            ["no column 'id'", "Did you mean 'ids'?", "input.deleted_users.id"]),
    Refused("list with one part without its column",
            lambda log: [put(log / f"deleted/{name}.csv", text("u", header=name)) for name in ("id", "user")], LISTED,
            ["no column 'id'", "input.deleted_users.id"]),
    Refused("list of lists", beside("deleted/a.parquet", users(["a"])),
            {"input": {"deleted_users": {"path": "{log}/deleted", "id": "user"}}}, ["column 'user'", "array<string>"]),
    Refused("list with a row without an id", beside("deleted/a.csv", b'id,why\nu,moved\n,left\n'), LISTED,
            ["deleted/a.csv", "1 rows of the list hold no id"]),
    Refused("list with a torn row", beside("deleted/a.json", b'{"id": "u"}\n{"id": "v"\n'),
            {"input": {"deleted_users": {"path": "{log}/deleted", "id": "id", "format": "json"}}},
            ["deleted/a.json", "1 rows of the list hold no id"]),
    Refused("torn items", beside("items/a.parquet", GOOD[:-9]), ITEMS, ["items/a.parquet", "cannot be read"]),
    Refused("label of no column", beside("items/a.parquet", GOOD), ITEMS, ["no column 'title'", "input.items"]),
    Refused("an item on too many rows", beside("items/a.parquet", GOOD), 
            {"input": {"items": {"path": "{log}/items", "id": "item"}}}, ["items/a.parquet", "duplicate_id 9"]),
]  # fmt: skip

SETTINGS: list[tuple[Tree, list[str]]] = [
    ({"claen": {}}, ["unknown key 'claen'", "'clean'"]),
    ({"clean": {"max_id_lenght": 3}}, ["unknown key 'clean.max_id_lenght'", "'max_id_length'"]),
    ({"clean": {"max_id_length": "long"}}, ["'clean.max_id_length'", "'long'"]),
    ({"clean": {"max_quarantine_share": 1.5}}, ["'clean.max_quarantine_share'", "1.5"]),
    ({"clean": {"min_value": NAN}}, ["'clean.min_value'", "nan"]),
    ({"clean": {"earliest": "2024-02-30"}}, ["'clean.earliest'", "2024-02-30"]),
    ({"clean": {"rules_off": ["null_keys"]}}, ["'clean.rules_off'", "null_keys", "time_range"]),
    ({"clean": {"rules_off": ["null_key"]}}, ["'clean.rules_off'", "null_key", "time_range"]),
    (
        {
            "input": {"users": {"path": "users", "id": "user", "label": "no {user}"}},
            "privacy": {"user_key_file": "key"},
        },
        ["input.users.label", "{user}"],
    ),
    (
        {
            "input": {"users": {"path": "users", "id": "user"}},
            "privacy": {"user_key_file": "key"},
            "features": {"user": [{"name": "who", "column": "user"}]},
        },
        ["features.user", "who"],
    ),
    ({"events": {"view": 0}}, ["events", "above 0", "'view': 0"]),
    ({"events": {"view": NAN}}, ["'events.view'", "nan"]),
    ({"events": {}}, ["'events'"]),
    ({"interactions": {"time_unit": "minutes"}}, ["'input.interactions.time_unit'", "minutes"]),
    ({"interactions": {"constant_event_type": "view"}}, ["input.interactions", "event_type", "constant_event_type"]),
    (
        {"privacy": {"user_key_file": "a", "user_key_variable": "B"}},
        ["'privacy'", "user_key_file", "user_key_variable"],
    ),
    ({"input": {"items": {"path": "p"}}}, ["'input.items.id'"]),
]
