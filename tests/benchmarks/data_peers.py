"""The cleaning of `bench_data.py` written for polars and for duckdb: the same rules in the same order, the same tables.

    python data_peers.py polars|duckdb LOG OUT NIGHT FLOOR MADS EARLIEST LOOK_BACK

Both read the day folders, judge every row by the first rule that it breaks, find the days that are no person's by the
same robust threshold, drop duplicates and redelivered events, write kept and quarantined rows as Parquet, and print the
ledger as JSON. They hold no ids over nights, no incremental days, no manifests: only what they can be compared in.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

EVENTS = ("impression", "view", "cart", "purchase", "rating")
WEIGHTS = {"impression": 0.05, "view": 1.0, "cart": 3.0, "purchase": 5.0, "rating": 4.0}
KEY = "user_id, item_id, event_type, event_time, value, event_id"


def with_duckdb(log: str, out: str, night: str, floor: int, mads: float, earliest: str, look_back: int) -> list:
    """Run the cleaning in duckdb; returns (file, rule, rows)."""
    import duckdb

    Path(out).mkdir(parents=True)
    db = duckdb.connect(f"{out}/work.duckdb")
    db.sql(f"set threads=2; set memory_limit='12GB'; set temp_directory='{out}/spill'; set timezone='UTC'")
    db.sql("set preserve_insertion_order=false")
    known = ", ".join(f"'{each}'" for each in EVENTS)
    control = r"'[\x00-\x1f\x7f]'"
    db.sql(f"""
        create temp table judged as
        with raw as (
            select event_id, trim(user_id) as user_id, trim(item_id) as item_id, trim(event_type) as event_type,
                   event_time, value, session_id, device,
                   regexp_extract(filename, 'events/(.*)$', 1) as file, cast(dt as date) as file_day
            from read_parquet('{log}/events/*/*.parquet', hive_partitioning=true, hive_types_autocast=false,
                              filename=true)
        )
        select *, cast(event_time at time zone 'UTC' as date) as day,
            case
              when user_id is null or item_id is null or event_type is null or event_time is null then 'null_key'
              when regexp_matches(user_id, {control}) or regexp_matches(item_id, {control}) or user_id = ''
                   or item_id = '' or length(user_id) > 256 or length(item_id) > 256 then 'id_form'
              when event_type not in ({known}) then 'event_type'
              when event_time < timestamptz '{earliest} 00:00:00+00' then 'time_range'
              when file_day - cast(event_time at time zone 'UTC' as date) > {look_back} then 'too_late'
              when cast(event_time at time zone 'UTC' as date) - file_day > {look_back} then 'future'
              when event_time >= timestamptz '{night} 00:00:00+00' + interval 1 day then 'after_date'
              when isnan(value) or isinf(value) or value < 0 then 'value_range'
            end as rule
        from raw
    """)
    db.sql("create temp table users as select day, user_id, count(*) as n from judged where rule is null group by all")
    db.sql(f"""
        create temp table extreme as
        with robust as (select day, median(ln(n)) as m from users group by day),
             spread as (select u.day, any_value(m) as m, median(abs(ln(n) - m)) as mad
                        from users u join robust using (day) group by u.day)
        select u.day, u.user_id from users u join spread s using (day)
        where n > {floor} and n > exp(s.m + {mads} * 1.4826 * s.mad)
    """)
    db.sql("""
        create temp table marked as
        select j.* exclude (rule),
               coalesce(rule, case when e.user_id is not null then 'extreme_activity' end) as rule
        from judged j left join extreme e on j.day = e.day and j.user_id = e.user_id
    """)
    db.sql("drop table judged")
    db.sql(f"""
        create temp table final as
        select * exclude (same, delivered), case when same > 1 then 'duplicate' when delivered > 1 then 'redelivered' end as rule
        from (select *, row_number() over (partition by day, event_id order by same > 1, file, {KEY}) as delivered
              from (select * exclude (rule), row_number() over (partition by {KEY} order by file) as same
                    from marked where rule is null))
    """)  # noqa: E501
    weight = " ".join(f"when '{name}' then {value}" for name, value in WEIGHTS.items())
    db.sql(f"""copy (select user_id, item_id, event_type, event_time, value, cast(case event_type {weight} end as float)
               as weight, file, event_id, day from final where rule is null)
               to '{out}/kept' (format parquet, partition_by (day))""")
    db.sql(f"""copy (select file, rule, to_json(struct_pack(event_id, user_id, item_id, event_type, event_time, value,
               session_id, device)) as raw from marked where rule is not null and rule <> 'after_date')
               to '{out}/quarantine.parquet' (format parquet)""")
    rows = db.sql("""
        select file, coalesce(rule, 'kept'), count(*) from final group by all
        union all select file, rule, count(*) from marked where rule is not null group by all
    """)
    return rows.fetchall()


def with_polars(log: str, out: str, night: str, floor: int, mads: float, earliest: str, look_back: int) -> list:
    """Run the cleaning in polars, streaming; returns (file, rule, rows)."""
    import polars as pl

    Path(out).mkdir(parents=True)
    everything = sorted(str(path) for path in Path(log, "events").glob("*/*.parquet"))
    end = datetime.fromisoformat(night).replace(tzinfo=UTC) + timedelta(days=1)
    first = datetime.fromisoformat(earliest).replace(tzinfo=UTC)
    judged = _polars_judged(everything, first, end, look_back)
    good = judged.filter(pl.col("rule").is_null())
    users = good.group_by("day", "user_id").len("n").collect(engine="streaming")
    robust = users.with_columns(pl.col("n").log().alias("l"))
    robust = robust.with_columns(pl.col("l").median().over("day").alias("m"))
    robust = robust.with_columns((pl.col("l") - pl.col("m")).abs().median().over("day").alias("mad"))
    limit = (pl.col("m") + mads * 1.4826 * pl.col("mad")).exp()
    extreme = robust.filter((pl.col("n") > floor) & (pl.col("n") > limit)).select("day", "user_id").lazy()
    marks = extreme.with_columns(pl.lit("extreme_activity").alias("bot"))

    def marked(rows: pl.LazyFrame) -> pl.LazyFrame:
        joined = rows.join(marks, on=["day", "user_id"], how="left")
        return joined.with_columns(pl.coalesce("rule", "bot").alias("rule"))

    bad = marked(judged).filter(pl.col("rule").is_not_null())
    names = ["event_id", "user_id", "item_id", "event_type", "event_time", "value", "session_id", "device"]
    raw_row = pl.struct(names).struct.json_encode().alias("raw")
    bad.filter(pl.col("rule") != "after_date").select("file", "rule", raw_row).sink_parquet(f"{out}/quarantine.parquet")
    counts = bad.group_by("file", "rule").len("rows").collect(engine="streaming").rows()
    Path(f"{out}/kept").mkdir()
    days = users["day"].unique().sort().to_list()
    del users, robust
    for day in days:  # a day at a time, from the folders that may hold it: sorting all of them at once does not fit
        near = {str(day + timedelta(days=lag)) for lag in range(-look_back, look_back + 1)}
        paths = [path for path in everything if path.split("dt=")[1][:10] in near]
        here = marked(_polars_judged(paths, first, end, look_back))
        wanted = here.filter(pl.col("rule").is_null() & (pl.col("day") == day))
        counts += _polars_day(wanted, names[:6], f"{out}/kept/{day}.parquet")
    return counts


def _polars_judged(paths: list[str], first: datetime, end: datetime, look_back: int) -> pl.LazyFrame:
    """Rows of some files with the first rule that each breaks."""
    import polars as pl

    raw = pl.scan_parquet(paths, include_file_paths="file", hive_partitioning=False)
    rows = raw.with_columns(
        *[pl.col(name).str.strip_chars(" ") for name in ("user_id", "item_id", "event_type")],
        pl.col("file").str.extract(r"events/(.*)$", 1),
        pl.col("file").str.extract(r"dt=(\d{4}-\d{2}-\d{2})", 1).str.to_date().alias("file_day"),
        pl.col("event_time").dt.date().alias("day"),
    )
    user, item, value, time_, late = (
        pl.col("user_id"), pl.col("item_id"), pl.col("value"), pl.col("event_time"),
        (pl.col("file_day") - pl.col("day")).dt.total_days(),
    )  # fmt: skip
    bad_id = [
        each.str.contains(r"[\x00-\x1f\x7f]") | (each == "") | (each.str.len_chars() > 256) for each in (user, item)
    ]
    rules = [
        (user.is_null() | item.is_null() | pl.col("event_type").is_null() | time_.is_null(), "null_key"),
        (bad_id[0] | bad_id[1], "id_form"),
        (~pl.col("event_type").is_in(list(EVENTS)), "event_type"),
        (time_ < first, "time_range"),
        (late > look_back, "too_late"),
        (late < -look_back, "future"),
        (time_ >= end, "after_date"),
        (value.is_nan() | value.is_infinite() | (value < 0), "value_range"),
    ]
    return rows.with_columns(pl.coalesce([pl.when(c).then(pl.lit(name)) for c, name in rules]).alias("rule"))


def _polars_day(rows: pl.LazyFrame, key: list[str], path: str) -> list:
    import polars as pl

    frame = rows.collect(engine="streaming").sort("file", *key)
    same = frame.select(pl.struct(key).is_first_distinct().alias("f"))["f"]
    duplicates, left = frame.filter(~same), frame.filter(same)
    first = left.select(pl.col("event_id").is_first_distinct().alias("f"))["f"]
    again, kept = left.filter(~first), left.filter(first)
    weights = pl.col("event_type").replace_strict(WEIGHTS, return_dtype=pl.Float32).alias("weight")
    kept.with_columns(weights).drop("session_id", "device", "rule", "bot", "file_day").write_parquet(path)
    counts = []
    for rule, part in (("kept", kept), ("duplicate", duplicates), ("redelivered", again)):
        counts += [(name, rule, n) for name, n in part.group_by("file").len("rows").rows()]
    return counts


def main() -> None:
    peer, log, out, night, floor, mads, earliest, look_back = sys.argv[1:]
    run = {"duckdb": with_duckdb, "polars": with_polars}[peer]
    started = time.monotonic()
    counts = run(log, out, night, int(floor), float(mads), earliest, int(look_back))
    print(json.dumps({"seconds": time.monotonic() - started, "ledger": [list(each) for each in counts if each[2]]}))


if __name__ == "__main__":
    main()
