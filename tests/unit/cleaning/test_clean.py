from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.cleaning import STAGE
from recsys_spark.config import Settings, parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DT = "2024-03-10"
GOOD = "2024-03-10 12:00:00"
NAN, INF = float("nan"), float("inf")
Row = tuple[Any, Any, Any, Any, Any]  # user, item, time, kind, amount

HOSTILE = ["../x", "a=b", 'it\'s "quoted"', "🙂🙃", "%2e%2e", "dt=2024-01-01", "a/b\\c", "ü|ö", "NULL", "x" * 256]

DIRTY: list[tuple[str, Row]] = [
    ("null_key", (None, "i1", GOOD, "view", 1.0)),
    ("null_key", ("u1", None, GOOD, "view", 1.0)),
    ("null_key", ("u1", "i1", None, "view", 1.0)),
    ("null_key", ("u1", "i1", GOOD, None, 1.0)),
    ("bad_type", ("u1", "i1", "yesterday", "view", 1.0)),
    ("bad_type", ("u1", "i1", "2024-02-30 10:00:00", "view", 1.0)),
    ("bad_type", ("u1", "i1", "12:30:00", "view", 1.0)),
    ("bad_type", ("u1", "i1", "1710072000", "view", 1.0)),
    ("id_form", ("", "i1", GOOD, "view", 1.0)),
    ("id_form", ("   ", "i1", GOOD, "view", 1.0)),
    ("id_form", ("u1", "x" * 257, GOOD, "view", 1.0)),
    ("id_form", ("u1", "i\n1", GOOD, "view", 1.0)),
    ("id_form", ("u\x001", "i1", GOOD, "view", 1.0)),
    ("id_form", ("u1", "i1\x7f", GOOD, "view", 1.0)),
    ("event_type", ("u1", "i1", GOOD, "stare", 1.0)),
    ("event_type", ("u1", "i1", GOOD, "View", 1.0)),
    ("time_range", ("u1", "i1", "1989-12-31 23:59:59", "view", 1.0)),
    ("after_date", ("u1", "i1", "2024-03-11 00:00:00", "view", 1.0)),
    ("value_range", ("u1", "i1", GOOD, "view", NAN)),
    ("value_range", ("u1", "i1", GOOD, "view", -0.5)),
    ("value_range", ("u1", "i1", GOOD, "view", INF)),
    ("value_range", ("u1", "i1", GOOD, "view", -INF)),
]
KEPT: list[Row] = [
    *[(each, each, GOOD, "view", 2.0) for each in HOSTILE],
    (" u1 ", "i1", "1990-01-01 00:00:00", "view", None),
    ("u1", "i1", "2024-03-10T23:59:59.999999", "buy", 0.0),
    ("u1", "i1", "2024-03-10T12:00:00+02:00", "view", 1.0),
]
AGAIN: list[Row] = [("u1", "i1", "2024-03-10 10:00:00", "view", 1.0), ("u1", "i1", GOOD, "buy", None)]


def write(folder: Path, name: str, rows: list[Row], **types: pa.DataType) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"user": pa.string(), "item": pa.string(), "at": pa.string(), "kind": pa.string(),
               "amount": pa.float64(), **types}  # fmt: skip
    table = pa.table(
        [
            pa.array([row[place] for row in rows], kind, from_pandas=False)
            for place, kind in enumerate(columns.values())
        ],
        names=list(columns),
    )
    pq.write_table(table, folder / name)
    return folder / name


def settings_for(tmp_path: Path, log: Path | str, **overrides: Any) -> Settings:
    interactions = {
        "path": str(log), "user_id": "user", "item_id": "item", "event_time": "at", "event_type": "kind",
        "value": "amount", **overrides.pop("interactions", {}),
    }  # fmt: skip
    tree = {
        "name": "dirty",
        "root": str(tmp_path / "tables"),
        "input": {"interactions": interactions, **overrides.pop("input", {})},
        "events": {"view": 1.0, "buy": 3.0},
        "clean": {"max_quarantine_share": 1.0},
        **overrides,
    }
    return parse_settings(tree)


def clean(spark: SparkSession, settings: Settings, dt: str = DT) -> dict[str, DataFrame]:
    store = TableStore(settings.root)
    outputs = run_stage(STAGE, spark, settings, dt)
    assert set(outputs) == set(STAGE.outputs)
    return {name: store.read(spark, store.need(name, dt)) for name in outputs}


def refused(spark: SparkSession, settings: Settings, dt: str = DT) -> str:
    """The one error that a person sees; nothing was published."""
    with pytest.raises(RecsysError) as error:
        run_stage(STAGE, spark, settings, dt)
    assert "\n" not in str(error.value)
    store = TableStore(settings.root)
    assert all(store.current(name, dt) is None for name in STAGE.outputs)
    return str(error.value)


def ledger(tables: dict[str, DataFrame], source: str = "interactions") -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in tables["ledger"].collect():
        if row["source"] == source:
            found.setdefault(row["source_file"].rsplit("/", 1)[-1], {})[row["rule"]] = row["rows"]
    return found


def plain(frame: DataFrame) -> list[tuple[Any, ...]]:
    from pyspark.sql import functions as F

    rows = frame.select("user_id", "item_id", "event_type", F.unix_micros("event_time"), "value", "weight")
    return sorted((tuple(row) for row in rows.collect()), key=repr)


def micros(text: str) -> int:
    parsed = datetime.fromisoformat(text)
    moment = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000)


def test_every_row_is_kept_a_duplicate_or_in_quarantine(spark: SparkSession, tmp_path: Path) -> None:
    bad = [row for _, row in DIRTY]
    write(tmp_path / "log", "a.parquet", [*KEPT, AGAIN[1], *bad[::2], AGAIN[1]])
    write(tmp_path / "log", "b.parquet", [*AGAIN, *bad[1::2]])
    tables = clean(spark, settings_for(tmp_path, tmp_path / "log"))

    expected = [
        (u.strip(), i, kind, micros(at), amount, {"view": 1.0, "buy": 3.0}[kind])
        for u, i, at, kind, amount in [*KEPT, AGAIN[1]]
    ]
    assert plain(tables["interactions"]) == sorted(expected, key=repr)
    # AGAIN[0] is KEPT[-1] in UTC; AGAIN[1] is twice in a.parquet and once in b.parquet
    assert ledger(tables) == {
        "a.parquet": {
            "read": len(KEPT) + 2 + len(bad[::2]), "kept": len(KEPT) + 1, "duplicate": 1,
            **Counter(rule for rule, _ in DIRTY[::2]),
        },
        "b.parquet": {
            "read": 2 + len(bad[1::2]), "duplicate": 2, **Counter(rule for rule, _ in DIRTY[1::2]),
        },
    }  # fmt: skip
    quarantine = tables["quarantine"].collect()
    broken = [(rule, row) for rule, row in DIRTY if rule != "after_date"]  # what waits stays in the log
    assert Counter(row["rule"] for row in quarantine) == Counter(rule for rule, _ in broken)
    assert {row["source_file"] for row in quarantine} == {"a.parquet", "b.parquet"}
    names = ("user", "item", "at", "kind", "amount")
    raw = {
        (row["rule"], json.dumps(json.loads(row["raw"]), sort_keys=True).replace("-Infinity", "Infinity"))
        for row in quarantine
    }
    told = {
        (rule, json.dumps({n: (str(v).title().replace("Inf", "Infinity").replace("Nan", "NaN").replace("-I", "I")
                               if (isinstance(v, float) and v in (INF, -INF)) or v != v else v)
                           for n, v in zip(names, row, strict=True)}, sort_keys=True))
        for rule, row in broken
    }  # fmt: skip
    assert raw == told


def test_a_value_below_the_setting_is_quarantined(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "log", "a.parquet", [("u", f"i{n}", GOOD, "buy", n / 2) for n in range(5)])
    tables = clean(
        spark, settings_for(tmp_path, tmp_path / "log", clean={"min_value": 1.0, "max_quarantine_share": 0.5})
    )
    assert ledger(tables) == {"a.parquet": {"read": 5, "kept": 3, "value_range": 2}}


def test_the_same_night_twice_is_the_same(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "log", "a.parquet", [*KEPT, *AGAIN, *[row for _, row in DIRTY]])
    settings = settings_for(tmp_path, tmp_path / "log")
    first = run_stage(STAGE, spark, settings, DT)
    assert run_stage(STAGE, spark, settings, DT) == first  # found done
    forced = run_stage(STAGE, spark, settings, DT, force=True)
    assert {m.run_id for m in forced.values()} != {m.run_id for m in first.values()}
    assert {n: m.content_hash for n, m in forced.items()} == {n: m.content_hash for n, m in first.items()}


FEW: list[Row] = [("u1", "i1", GOOD, "view", 1.0), ("u2", "i2", "2024-03-09 08:00:00", "buy", None)]


@pytest.mark.parametrize("form", ["csv", "csv without header", "json", "orc", "date and timestamp"])
def test_other_formats_give_the_same_interactions(spark: SparkSession, tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame(FEW, columns=["user", "item", "at", "kind", "amount"])
    log = tmp_path / "log"
    log.mkdir()
    reader: dict[str, Any] = {"format": form.split()[0]}
    if form == "csv":
        frame.to_csv(log / "a.csv", index=False, sep=";")
        reader["options"] = {"header": "true", "sep": ";"}
    elif form.startswith("csv"):
        frame.to_csv(log / "a.csv", index=False, header=False)
        reader["fields"] = list(frame.columns)
    elif form == "json":
        lines = frame.to_json(orient="records", lines=True).strip().splitlines()
        (log / "a.json").write_text("\n\n".join(lines) + "\n")
    elif form == "orc":
        spark.createDataFrame(FEW, "user string, item string, at string, kind string, amount double").coalesce(
            1
        ).write.mode("overwrite").orc(log.as_uri())
    else:
        reader = {}
        times = [datetime.fromisoformat(row[2]) for row in FEW]
        rows = [(*row[:2], at, *row[3:]) for row, at in zip(FEW, times, strict=True)]
        write(log, "a.parquet", rows, at=pa.timestamp("us"))
    tables = clean(spark, settings_for(tmp_path, log, interactions=reader))
    assert plain(tables["interactions"]) == [
        ("u1", "i1", "view", micros(GOOD), 1.0, 1.0),
        ("u2", "i2", "buy", micros("2024-03-09 08:00:00"), None, 3.0),
    ]


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        ("seconds", pa.int64()),
        ("seconds", pa.float64()),
        ("milliseconds", pa.string()),
        ("nanoseconds", pa.int64()),
    ],
)
def test_times_as_numbers(spark: SparkSession, tmp_path: Path, unit: str, kind: pa.DataType) -> None:
    per = {"seconds": 1, "milliseconds": 1_000, "nanoseconds": 10**9}[unit]
    seconds = [micros(GOOD) // 10**6, micros("1990-01-01") // 10**6 - 1, 253_402_300_800, 10**28 // per]
    if kind == pa.int64():
        seconds = [s for s in seconds if s * per < 2**63]
    kinds = {pa.string(): str, pa.float64(): float}
    times = [kinds.get(kind, int)(s * per) for s in seconds]
    write(tmp_path / "log", "a.parquet", [("u", "i", t, "view", None) for t in times], at=kind)
    tables = clean(spark, settings_for(tmp_path, tmp_path / "log", interactions={"time_unit": unit}))
    assert plain(tables["interactions"]) == [("u", "i", "view", micros(GOOD), None, 1.0)]
    rules = Counter(row["rule"] for row in tables["quarantine"].collect())
    assert rules == {"time_range": 1, "bad_type": len(times) - 2} if len(times) > 2 else {"time_range": 1}


def test_pandas_nanoseconds(spark: SparkSession, tmp_path: Path) -> None:
    """Parquet timestamps in nanoseconds, as pandas writes them, reach Spark as numbers."""
    write(tmp_path / "log", "a.parquet", [("u", "i", pd.Timestamp(GOOD), "view", None)], at=pa.timestamp("ns"))
    told = refused(spark, settings_for(tmp_path, tmp_path / "log"))
    assert "column 'at' is of type bigint" in told
    assert "input.interactions.time_unit" in told
    settings = settings_for(tmp_path, tmp_path / "log", interactions={"time_unit": "nanoseconds"})
    assert plain(clean(spark, settings)["interactions"]) == [("u", "i", "view", micros(GOOD), None, 1.0)]


def test_bad_input_is_told_once_and_publishes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "a.parquet", FEW)

    def told(path: Path = log, dt: str = DT, **overrides: Any) -> str:
        return refused(spark, settings_for(tmp_path, path, **overrides), dt)

    message = told(interactions={"user_id": "usr"})
    assert "no column 'usr'" in message
    assert "Did you mean 'user'? Set input.interactions.user_id." in message
    assert str(log) in message
    message = told(tmp_path / "none")
    assert "no files there" in message
    assert f"{tmp_path}/none" in message
    assert "input.interactions.path" in message
    message = told(dt="2024-03-12")
    assert "no event on 2024-03-12" in message
    assert DT in message
    assert "--date" in message
    message = told(dt="2024-03-08")
    assert "no row is left" in message
    assert "'after_date'" in message
    message = told(interactions={"time_unit": "seconds", "event_time": "kind"})
    assert "no row is left" in message

    write(tmp_path / "none.parquet", "a.parquet", [])
    assert "The input is empty" in told(tmp_path / "none.parquet")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a.parquet").write_bytes(b"")
    assert "zero" in told(tmp_path / "zero")

    write(log, "b.parquet", [*FEW, *[(None, "i", GOOD, "view", 1.0)] * 3])
    message = told(clean={"max_quarantine_share": 0.5})
    assert "3 of 5 rows are bad (null_key 3)" in message
    assert "b.parquet" in message
    assert "clean.max_quarantine_share (now 0.5)" in message


def test_rows_of_later_days_are_not_bad(spark: SparkSession, tmp_path: Path) -> None:
    later = [("u", f"i{n}", "2024-03-12", "view", None) for n in range(9)]
    write(tmp_path / "log", "a.parquet", [*FEW, *later])
    tables = clean(spark, settings_for(tmp_path, tmp_path / "log", clean={"max_quarantine_share": 0.0}))
    assert ledger(tables) == {"a.parquet": {"read": 11, "kept": 2, "after_date": 9}}


@pytest.mark.parametrize("harm", ["torn", "text", "zero", "middle"])
def test_an_unreadable_file_is_named_and_set_aside(spark: SparkSession, tmp_path: Path, harm: str) -> None:
    good = write(tmp_path / "log", "a.parquet", FEW * 50)
    bad = tmp_path / "log" / "b.parquet"
    whole = good.read_bytes()
    harmed = {
        "torn": whole[:-30],
        "text": b"not Parquet at all, but long enough",
        "zero": b"",
        "middle": whole[:4] + bytes(400) + whole[404:],  # its footer looks well
    }
    bad.write_bytes(harmed[harm])
    limited = settings_for(tmp_path, tmp_path / "log", clean={"max_unreadable_share": 0.4})
    message = refused(spark, limited)
    assert "1 of 2 files cannot be read" in message
    assert "b.parquet" in message
    settings = settings_for(tmp_path, tmp_path / "log", clean={"max_unreadable_share": 0.5})
    tables = clean(spark, settings)
    assert ledger(tables) == {
        "a.parquet": {"read": 100, "kept": 2, "duplicate": 98},
        "b.parquet": {"read": 0, "unreadable_file": 0},
    }
    (row,) = tables["quarantine"].collect()
    assert (row["rule"], row["source_file"]) == ("unreadable_file", "b.parquet")
    assert json.loads(row["raw"])["bytes"] == len(harmed[harm])


def test_column_names_with_signs(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.table({"user.id": ["u"], "item `id`": ["i"], "the time": [GOOD]})
    (tmp_path / "log").mkdir()
    pq.write_table(table, tmp_path / "log" / "a.parquet")
    names = {"user_id": "user.id", "item_id": "item `id`", "event_time": "the time", "event_type": None,
             "constant_event_type": "view", "value": None}  # fmt: skip
    tables = clean(spark, settings_for(tmp_path, tmp_path / "log", interactions=names))
    assert plain(tables["interactions"]) == [("u", "i", "view", micros(GOOD), None, 1.0)]


def test_a_broken_row_takes_no_good_row_away(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "log", "a.parquet", FEW)
    (tmp_path / "items.csv").write_text("sku,title\ni1,a,b\ni1,good\n12.0,twelve\n12,again\n1.0a,text\n")
    settings = settings_for(
        tmp_path,
        tmp_path / "log",
        input={
            "items": {
                "path": str(tmp_path / "items.csv"), "format": "csv", "options": {"header": "true"}, "id": "sku",
                "label": "{title}",
            }
        },
    )  # fmt: skip
    tables = clean(spark, settings)
    items = sorted(tuple(row) for row in tables["items"].select("item_id", "label").collect())
    assert [each[0] for each in items] == ["1.0a", "12", "i1"]
    assert ("i1", "good") in items
    counted = {"read": 5, "kept": 3, "malformed": 1, "duplicate_id": 1}
    assert ledger(tables, "items") == {"items.csv": counted}


def test_items_and_users(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "log", "a.parquet", FEW)
    items = pa.table(
        {
            "sku": ["i1", "i1", None, "i\t2", " i3 "],
            "title": ["Tea", "Tee", "x", "y", None],
            "year": pa.array([1999, 2000, 1, 2, None], pa.int64()),
            "tags": pa.array([["a", "b"], None, None, None, []], pa.list_(pa.string())),
        }
    )
    pq.write_table(items, tmp_path / "items.parquet")
    settings = settings_for(
        tmp_path,
        tmp_path / "log",
        input={"items": {"path": str(tmp_path / "items.parquet"), "id": "sku", "label": "{title} ({year})"}},
        features={"item": [{"name": "year", "kind": "number"}, {"name": "tags", "kind": "list"}]},
    )
    tables = clean(spark, settings)
    found = sorted(
        tuple(row) for row in tables["items"].select("item_id", "label", "attribute_year", "attribute_tags").collect()
    )
    assert found == [("i1", "Tea (1999)", "1999", "a|b"), ("i3", "", None, "")]
    assert ledger(tables, "items") == {
        "items.parquet": {"read": 5, "kept": 2, "duplicate_id": 1, "null_key": 1, "id_form": 1}
    }
    assert tables["users"].count() == 0
    broken = settings.model_copy(update={"root": str(tmp_path / "other")})
    broken = parse_settings({**broken.model_dump(mode="json"), "features": {"item": [{"name": "colour"}]}})
    message = refused(spark, broken)
    assert "no column 'colour'" in message
    assert "input.items" in message
