"""Cleaning and features on generated logs: time per row as the log grows, memory, skew, and the same work by peers.

    make bench-data                     200,000, 2 and 5 million rows: a quarter of an hour
    BENCH_SCALE=full make bench-data    2, 20 and 100 million rows: about an hour; needs 40 GB of disk

Each stage runs in a process of its own, begun anew, so that sizes do not warm each other. Its time is that of the
stage without Spark's start, with the compilation that a nightly job pays too. The ledger is compared with the
generator's truth, and polars and duckdb do the same cleaning on the same files, one after the other
(`data_peers.py`). Prints its tables as it goes and ends with one line of JSON. It measures; it asserts no time.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

NIGHT = "2026-01-31"
SCALES = {"small": (200_000, 2_000_000, 5_000_000), "full": (2_000_000, 20_000_000, 100_000_000)}
SKEW_ROWS = {"small": 2_000_000, "full": 10_000_000}
HEAP = "3g"
CHANGES = ["clean.near_duplicate_seconds=0", f"spark.driver_memory={HEAP}", "buckets=64"]


def main() -> None:
    if len(sys.argv) > 1:
        return _stage(*sys.argv[1:])
    scale = os.environ.get("BENCH_SCALE", "small")
    if scale not in SCALES:
        sys.exit(f"BENCH_SCALE is '{scale}': use small or full")
    sizes = [int(each) for each in os.environ["BENCH_ROWS"].split(",")] if "BENCH_ROWS" in os.environ else SCALES[scale]
    with tempfile.TemporaryDirectory(prefix="bench-data-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        found = [size(Path(folder), rows) for rows in sizes]
        skewed = skew(Path(folder), int(os.environ.get("BENCH_SKEW_ROWS", SKEW_ROWS[scale])))
    last, middle = found[-1], found[-2] if len(found) > 1 else found[-1]
    print(
        json.dumps(
            {
                "scale": scale, "cores": os.cpu_count(), "rows": last["rows"],
                "cost_growth": round(last["us_per_row"] / middle["us_per_row"], 3),
                "over_polars": round(last["clean_s"] / last["polars_s"], 2) if last.get("polars_s") else None,
                "over_duckdb": round(last["clean_s"] / last["duckdb_s"], 2) if last.get("duckdb_s") else None,
                "driver_heap_peak_gib": round(max(each["heap_mib"] for each in found) / 1024, 2),
                "ledger_exact": all(each["exact"] for each in found), **skewed,
            }
        )
    )  # fmt: skip


def size(folder: Path, rows: int) -> dict[str, Any]:
    """One size: generate, clean, featurize, peers."""
    log = folder / f"log-{rows}"
    print(f"\n{rows:,} rows", flush=True)
    made = _child("generate", str(log), str(rows), "1", "0", "0")
    print(f"  generate   {made['seconds']:8.1f} s  {rows / made['seconds']:>12,.0f} rows/s", flush=True)
    found: dict[str, Any] = {"rows": rows, "heap_mib": 0}
    for stage in ("clean", "featurize"):
        told = _child("run", str(log), stage)
        _print_stage(stage, told, rows)
        found[f"{stage}_s"] = told["seconds"]
        found["heap_mib"] = max(found["heap_mib"], told["heap_mib"])
    found["us_per_row"] = (found["clean_s"] + found["featurize_s"]) / rows * 1e6
    truth = {key: n for key, n in _truth(log).items() if n}
    found["exact"] = _ledger(log) == truth
    shutil.rmtree(log / "tables")
    for peer in ("duckdb", "polars"):
        theirs = _peer(peer, log, folder / peer)
        if theirs is None:
            continue
        same = theirs["ledger"] == {key: n for key, n in truth.items() if key[1] != "read"}
        found[f"{peer}_s"] = theirs["seconds"]
        ratio = found["clean_s"] / theirs["seconds"]
        print(f"  {peer:<10} {theirs['seconds']:8.1f} s  peak {theirs['peak_mib']:,} MiB  "
              f"same ledger: {same}  ours takes {ratio:.2f} times as long", flush=True)  # fmt: skip
    print(f"  per row    {found['us_per_row']:8.2f} µs  ledger equals the truth: {found['exact']}", flush=True)
    shutil.rmtree(log)
    return found


def skew(folder: Path, rows: int) -> dict[str, float]:
    """One user with 10 % of all rows and one item in 50 %, beside an even log of the same size."""
    seconds: dict[str, float] = {}
    worst = 0.0
    for name, user, item in (("even", "0", "0"), ("skewed", "0.1", "0.5")):
        log = folder / f"log-{name}"
        print(f"\n{rows:,} rows, {name}", flush=True)
        _child("generate", str(log), str(rows), "0", user, item)
        for stage in ("clean", "featurize"):
            told = _child("run", str(log), stage)
            _print_stage(stage, told, rows)
            seconds[name] = seconds.get(name, 0) + told["seconds"]
            worst = max(worst, told["slowest_over_median"]) if name == "skewed" else worst
        shutil.rmtree(log)
    ratio = seconds["skewed"] / seconds["even"]
    print(f"  skewed over even: {ratio:.2f}; slowest task over the median of its stage: {worst:.2f}", flush=True)
    return {"skew_over_even": round(ratio, 2), "skew_slowest_over_median": round(worst, 2)}


def _print_stage(stage: str, told: dict[str, Any], rows: int) -> None:
    peaks = ", ".join(f"{name} {mib:,}" for name, mib in sorted(told["peaks_mib"].items()))
    print(f"  {stage:<10} {told['seconds']:8.1f} s  {rows / told['seconds']:>12,.0f} rows/s  "
          f"read {told['bytes_read'] / 1e6:,.0f} MB  heap {told['heap_mib']:,} MiB  peak MiB: {peaks}  "
          f"slowest/median task {told['slowest_over_median']:.2f} ({told['slowest_where']})", flush=True)  # fmt: skip


def _child(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def _peer(peer: str, log: Path, out: Path) -> dict[str, Any] | None:
    """Time, memory and ledger of a peer; None where it cannot do it on this machine."""
    from recsys_spark.config import load_settings

    limits = load_settings(log / "settings.yaml", CHANGES).clean
    script = str(Path(__file__).with_name("data_peers.py"))
    arguments = [str(limits.activity_floor), str(limits.activity_mads), limits.earliest, str(limits.look_back_days)]
    watch = _Watch()
    command = [sys.executable, script, peer, str(log), str(out), NIGHT, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    peak = sum(watch.end().values())
    shutil.rmtree(out, ignore_errors=True)
    if done.returncode:
        print(f"  {peer:<10} ended with code {done.returncode}", flush=True)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    ledger: Counter[tuple[str, str]] = Counter()
    for file, rule, n in told["ledger"]:
        ledger[file, rule] += n
    return {"seconds": told["seconds"], "peak_mib": peak, "ledger": dict(ledger)}


def _truth(log: Path) -> dict[tuple[str, str], int]:
    from recsys_spark.generator import truth_ledger

    return truth_ledger(str(log), NIGHT)


def _ledger(log: Path) -> dict[tuple[str, str], int]:
    from recsys_spark.tables import TableStore
    from recsys_spark.tables.arrays import read_parquet

    store = TableStore(str(log / "tables"))
    lines = read_parquet(store.storage, store.need("ledger", NIGHT).folder).to_pylist()
    return {(e["source_file"], e["rule"]): e["rows"] for e in lines if e["source"] == "interactions" and e["rows"]}


def _stage(kind: str, log: str, *arguments: str) -> None:
    """In the child: generate a log, or run one stage of it, and print what it took as JSON."""
    if kind == "generate":
        return _generate(log, int(arguments[0]), int(arguments[1]), *map(float, arguments[2:]))
    from recsys_spark.config import load_settings
    from recsys_spark.pipeline import load_stage
    from recsys_spark.spark import make_session
    from recsys_spark.stage import run_stage

    with tempfile.TemporaryDirectory(prefix="bench-events-") as events:
        conf = f"spark.conf={{spark.eventLog.enabled: 'true', spark.eventLog.dir: 'file:{events}', "
        conf += f"spark.eventLog.compress: 'false', spark.local.dir: '{log}/spark'}}"
        settings = load_settings(f"{log}/settings.yaml", [*CHANGES, conf])
        spark = make_session(settings)
        watch, started = _Watch(), time.monotonic()
        run_stage(load_stage(arguments[0]), spark, settings, NIGHT)
        seconds, peaks, heap = time.monotonic() - started, watch.end(), _heap_mib(spark)
        spark.stop()
        read, ratio, where = _read_events(Path(events))
    told = {"seconds": seconds, "peaks_mib": peaks, "heap_mib": heap, "bytes_read": read,
            "slowest_over_median": ratio, "slowest_where": where}  # fmt: skip
    print("\n" + json.dumps(told))


def _generate(out: str, rows: int, level: int, hot_user: float, hot_item: float) -> None:
    from recsys_spark.config import load_settings
    from recsys_spark.generator import LogSpec, dirt, generate
    from recsys_spark.spark import make_session

    rates = dirt(level, {"near_duplicate": 0.0}, hot=hot_user > 0)
    spec = LogSpec(rows=rows, days=30, users=max(rows // 50, 1_000), items=max(rows // 500, 1_000), rates=rates,
                   hot_user_share=hot_user, hot_item_share=hot_item)  # fmt: skip
    template = Path(__file__).parents[2] / "jobs/conf/complete_journey.yaml"
    spark = make_session(load_settings(template))
    started = time.monotonic()
    generate(spark, spec, out)
    print("\n" + json.dumps({"seconds": time.monotonic() - started}))


def _heap_mib(spark: Any) -> int:
    """Largest heap that the driver's Java ever used; in local mode it does all the work."""
    pools = spark.sparkContext._jvm.java.lang.management.ManagementFactory.getMemoryPoolMXBeans()
    return sum(int(pool.getPeakUsage().getUsed()) for pool in pools if str(pool.getType()) == "Heap memory") >> 20


def _read_events(folder: Path) -> tuple[int, float, str]:
    """Bytes read from files, and the worst ratio of slowest to median task over stages of 4 tasks and 2 s or more.

    And which stage of Spark that was: its number, the number of its tasks, its slowest task.
    """
    tasks: dict[int, list[int]] = {}
    read = 0
    for path in (each for each in folder.rglob("*") if each.is_file()):
        for line in path.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") and '"SparkListenerTaskEnd"' in line[:60] else None
            if event and event.get("Task Metrics"):
                info, metrics = event["Task Info"], event["Task Metrics"]
                tasks.setdefault(event["Stage ID"], []).append(info["Finish Time"] - info["Launch Time"])
                read += metrics["Input Metrics"]["Bytes Read"]
    ratios = [
        (max(t) / statistics.median(t), f"stage {stage}, {len(t)} tasks, {max(t) / 1000:.1f} s")
        for stage, t in tasks.items()
        if len(t) >= 4 and max(t) >= 2_000
    ]
    return read, *max(ratios, default=(1.0, "none of 2 s"))


class _Watch:
    """Peak resident memory by kind of process: this one, Java, Python workers, others."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> dict[str, int]:
        self._stop.set()
        self._thread.join()
        return self.peaks

    def _run(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            sums: Counter[str] = Counter()
            for each in [me, *me.children(recursive=True)]:
                try:
                    name = each.name()
                    kind = "driver" if each == me else "java" if name == "java" else "workers"
                    sums[kind] += each.memory_info().rss >> 20
                except psutil.Error:
                    continue  # it ended meanwhile
            for kind, mib in sums.items():
                self.peaks[kind] = max(self.peaks.get(kind, 0), mib)


if __name__ == "__main__":
    main()
