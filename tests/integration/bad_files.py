"""Files that are bad in every way we know of, and what a night must make of each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from io import BytesIO
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

DT, AT = "2024-03-10", "2024-03-10 12:00:00"
NAN, INF = float("nan"), float("inf")
HOSTILE = ["../x", "a=b", 'it\'s "quoted"', "🙂", "%2e%2e", "dt=2024-01-01", "a/b\\c", "ü|ö", "NULL", "NaN", "x" * 256]
BROKEN_IDS = ["", "  ", "a\0b", "a\tb", "\x1b[31m", "x" * 257, "x" * 1_000_000]
FAR = pa.array([2**63 - 10**6, -(10**17)], pa.timestamp("us", "UTC"))  # of the years 294247 and -1199
CSV: dict[str, Any] = {"format": "csv", "options": {"header": "true"}}


def table(rows: int = 1, **changes: Any) -> dict[str, Any]:
    """Columns of a good file, changed by name; None takes a column away."""
    good = {"user": [f"u{n}" for n in range(rows)], "item": ["i"] * rows, "at": [AT] * rows, "kind": ["view"] * rows,
            "amount": pa.array([1.0] * rows, pa.float64())}  # fmt: skip
    return {name: values for name, values in {**good, **changes}.items() if values is not None}


def parquet(rows: int = 1, **changes: Any) -> bytes:
    return written(pa.table(table(rows, **changes)))


def written(data: pa.Table, write: Callable[..., Any] = pq.write_table) -> bytes:
    buffer = BytesIO()
    write(data, buffer)
    return buffer.getvalue()


def users(*ids: Any) -> bytes:
    return parquet(len(ids), user=pa.array(ids))


def times(*times: Any) -> bytes:
    return parquet(len(times), at=list(times))


def middle(good: bytes) -> bytes:
    """Garbage where the rows are; the footer is as it was."""
    return good[:4] + bytes(300) + good[304:]


def text(*rows: str, header: str = "user,item,at,kind,amount") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def objects(*rows: Any) -> bytes:
    good = {"user": "u", "item": {"id": "i"}, "at": AT, "kind": "view", "amount": 1}
    return "\n".join(each if isinstance(each, str) else json.dumps({**good, **each}) for each in rows).encode()


class Judged(NamedTuple):
    """A file of a log, what it holds, its rows by outcome (None: it is not read), and whose rows are kept."""

    log: str
    file: str
    holds: bytes
    outcome: dict[str, int] | None
    users: set[str] | None = None


LOGS: dict[str, dict[str, Any]] = {  # what differs from a folder of Parquet files
    "parquet": {},
    "csv": CSV,
    "json": {"format": "json", "item_id": "item.id"},
    "orc": {"format": "orc"},
    "days": {"day_partition": "dt", "item_id": "what.id"},
    "seconds": {"time_unit": "seconds"},
    "mixed": {"time_unit": "mixed"},
}
GOOD, TORN, BAD, ONE = users("g1", "g2"), {"unreadable_file": 0}, {"bad_type": 1}, {"kept": 1}
TODAY, WHAT = f"dt={DT}", {"user": None, "what": [{"id": "i"}]}
ROW, LONG = f"{{}},i,{AT},view,1", text(*[f"{sha256(bytes(n)).hexdigest()},i,{AT},view,1" for n in range(4_000)])
MORE = pa.table(table(new=[1], _metadata=["x"]))
TWICE = pa.table([*table().values(), ["again"]], [*table(), "user"])

JUDGED = [
    Judged("parquet", "a good.parquet", GOOD, {"kept": 2}, {"g1", "g2"}),
    Judged("parquet", "copy of it.parquet", GOOD, {"duplicate": 2}),
    Judged("parquet", "no rows.parquet", parquet(0), {}),
    Judged("parquet", "zero bytes.parquet", b"", TORN),
    Judged("parquet", "wrong magic.parquet", b"NOPE" + GOOD[4:-4] + b"NOPE", TORN),
    Judged("parquet", "torn footer.parquet", GOOD[:-30], TORN),
    Judged("parquet", "text.parquet", text(ROW), TORN),
    Judged("parquet", "middle, 50% #1; it's [ü].parquet", middle(parquet(50)), TORN),
    Judged("parquet", "odd *?{a,b}[c]%20#&+=\\\u00a0\u2028\n🙂.parquet", users("odd"), ONE, {"odd"}),
    Judged("parquet", "hostile ids.parquet", users(*HOSTILE), {"kept": len(HOSTILE)}, set(HOSTILE)),
    Judged("parquet", "broken ids.parquet", users(*BROKEN_IDS), {"id_form": len(BROKEN_IDS)}),
    Judged("parquet", "null id.parquet", users(None, "w"), {"null_key": 1, "kept": 1}, {"w"}),
    Judged("parquet", "double.parquet", users(12345678.0, 1.5, 2.0**53, NAN, INF), {"kept": 2, "bad_type": 3},
           {"12345678", "1.5"}),
    Judged("parquet", "decimal.parquet", users(Decimal("87654321.00"), Decimal("2.50")), {"kept": 2},
           {"87654321", "2.50"}),
    Judged("parquet", "int.parquet", parquet(user=[7], item=[True]), ONE, {"7"}),
    Judged("parquet", "list.parquet", users(["l"]), BAD),
    Judged("parquet", "struct.parquet", users({"id": "s"}), BAD),
    Judged("parquet", "binary.parquet", users(b"b"), BAD),
    Judged("parquet", "added, in another order.parquet", written(MORE.select(sorted(MORE.column_names))), ONE),
    Judged("parquet", "missing column.parquet", parquet(2, user=None, usr=["a", "b"]), {"missing_column": 2}),
    Judged("parquet", "missing optional.parquet", parquet(amount=None), ONE),
    Judged("parquet", "time is a number.parquet", parquet(at=[1710072000000]), BAD),
    Judged("parquet", "far times.parquet", parquet(2, at=FAR), {"bad_type": 2}),
    Judged("parquet", "value is text.parquet", parquet(4, amount=["1e400", "NaN", "many", "2.5"]),
           {"value_range": 2, "bad_type": 1, "kept": 1}, {"u3"}),
    Judged("parquet", "value is a time.parquet", parquet(amount=pa.array([0], pa.timestamp("us"))), BAD),
    Judged("parquet", "a name twice.parquet", written(TWICE), TORN),
    Judged("parquet", "a type that Spark lacks.parquet", parquet(clock=pa.array([0], pa.time64("us"))), TORN),
    Judged("parquet", "a name that is taken.parquet", parquet(__file=["x"]), TORN),
    Judged("parquet", "leap day.parquet", times("2024-02-29", "2023-02-29"), {"kept": 1, "bad_type": 1}),
    Judged("parquet", "zones.parquet", times("2024-03-10T23:30:00-01:00", "2024-03-11T00:30:00+14:00",
                                             "2024-03-10 12:00:00 Europe/Berlin", "2024-03-10 12:00:00 Nowhere/City"),
           {"after_date": 1, "kept": 2, "bad_type": 1}),
    Judged("parquet", "no times.parquet", times("0000-01-01", "10000-01-01", "-2024-03-10", "12:30", "2024",
                                                "9999-12-31 23:59:59-12:00", "", "NaN"), {"bad_type": 8}),
    Judged("parquet", "early, late.parquet", times("0001-01-01", "1969-12-31", "9999-12-31"),
           {"time_range": 2, "after_date": 1}),
    Judged("parquet", "values.parquet", parquet(6, amount=pa.array([NAN, INF, -INF, -0.5, 0.0, 1e308])),
           {"value_range": 4, "kept": 2}),
    Judged("csv", "a good.csv", text(ROW.format("g1"), ROW.format('"a,b"')), {"kept": 2}, {"g1", "a,b"}),
    Judged("csv", "order.csv", text(f"view,1,o,{AT},i", header="kind,amount,user,at,item"), ONE, {"o"}),
    Judged("csv", "bom.csv", "\ufeff".encode() + text(ROW.format("bom")), ONE, {"bom"}),
    Judged("csv", "crlf.csv", text(ROW.format("crlf")).replace(b"\n", b"\r\n"), ONE, {"crlf"}),
    Judged("csv", "header only.csv", text(), {}),
    Judged("csv", "odd\u00a0\u2028 name.csv", text(ROW.format("odd")), ONE, {"odd"}),
    Judged("csv", "ragged.csv", text("r1,i", ROW.format("r2"), ROW.format("r3") + ",more", '"r4,i', ""),
           {"malformed": 3, "kept": 1}, {"r2"}),
    Judged("csv", "values.csv", text(*[f"v,i,{AT},view,{each}" for each in ("1e400", "NaN", "-1", "1_000", "0x10")]),
           {"value_range": 3, "bad_type": 2}),
    Judged("csv", "missing column.csv", text("m,i,view,1", header="user,item,kind,amount"), {"missing_column": 1}),
    Judged("csv", "no column.csv", text("m,i", "a,b,c", header="x,y"), {"missing_column": 2}),
    Judged("csv", "a name twice.csv", text(ROW.format("d") + ",d", header="user,item,at,kind,amount,user"), TORN),
    Judged("csv", "zero bytes.csv", b"", TORN),
    Judged("csv", "empty line.csv", b"\n" + text(ROW), TORN),
    Judged("csv", "no gzip.csv.gz", text(ROW), TORN),
    Judged("csv", "torn gzip.csv.gz", gzip.compress(LONG)[:-2_000], TORN),
    Judged("csv", "whole gzip.csv.gz", gzip.compress(text(ROW.format("z"))), ONE, {"z"}),
    Judged("json", "a good.json", objects({"user": "g1"}, {"user": "g2", "more": [1]}), {"kept": 2}, {"g1", "g2"}),
    Judged("json", "broken lines.json", objects('{"user":', "nope", "", {"user": "b"}, "42"),
           {"malformed": 3, "kept": 1}),
    Judged("json", "types.json", objects({"user": ["a"]}, {"user": {"a": 1}}, {"user": 7}, {"amount": "many"}),
           {"bad_type": 3, "kept": 1}, {"7"}),
    Judged("json", "nulls.json", objects({"user": None}, {"item": {}}, {"item": "i"}, '{"a": 1}'), {"null_key": 4}),
    Judged("json", "flat name.json", objects({"user": "f", "item": None, "item.id": "i"}), ONE, {"f"}),
    Judged("json", "no json.json", b"PAR1\x00\x01\xff\xfe", {"malformed": 1}),
    Judged("json", "zero bytes.json", b"", TORN),
    Judged("json", "no gzip.json.gz", objects({}), TORN),
    Judged("orc", "a good.orc", written(pa.table(table()), orc.write_table), ONE),
    Judged("orc", "torn.orc", written(pa.table(table(9)), orc.write_table)[:-20], TORN),
    Judged("orc", "types.orc", written(pa.table(table(user=[7.0], amount=["x"])), orc.write_table), BAD),
    Judged("days", f"{TODAY}/user=007/a.parquet", parquet(**WHAT), ONE, {"007"}),
    Judged("days", f"{TODAY}/user=a%3Ab+c/a.parquet", parquet(**WHAT), ONE, {"a:b+c"}),
    Judged("days", f"{TODAY}/user=__HIVE_DEFAULT_PARTITION__/a.parquet", parquet(**WHAT), {"null_key": 1}),
    Judged("days", f"{TODAY}/user=f/no field.parquet", parquet(user=None, what=[{"x": 1}]), {"missing_column": 1}),
    Judged("days", f"{TODAY}/user=t/days.parquet",
           parquet(5, user=None, what=[{"id": "i"}] * 5,
                   at=["2024-03-06", "2024-03-07", "2024-03-13", "2024-03-14", "2024-03-10"]),
           {"too_late": 1, "kept": 2, "after_date": 1, "future": 1}),
    Judged("days", "dt=2024-03-11/user=n/tomorrow.parquet", b"", None),
    Judged("seconds", "seconds.parquet", times(1710072000, 1710072000000, -1, -(10**12)),
           {"kept": 1, "bad_type": 2, "time_range": 1}, {"u0"}),
    Judged("mixed", "mixed.parquet", times("1710072000", "1710072000000", "1710072000000000", AT, "soon", "1e400"),
           {"kept": 4, "bad_type": 2}, {"u0", "u1", "u2", "u3"}),
]  # fmt: skip
