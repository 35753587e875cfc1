"""The nightly job on the demo's purchases: seconds and peak memory of each stage, and the figures of the lists.

    make bench-demo                     the second quarter of the year, short windows: under 5 minutes
    BENCH_SCALE=full make bench-demo    the whole year, as `make demo` runs it

Prints its tables as it goes and ends with one line of JSON. It measures; it asserts no time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from recsys_spark.config import Settings, load_settings
from recsys_spark.pipeline import STAGES, run_stages
from recsys_spark.spark import make_session
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet

ROOT = Path(__file__).parents[2]
DATE = {"small": "2017-06-30", "full": "2017-12-31"}
SMALL = ["split.valid_days=14", "split.test_days=14", "split.ranker_windows=2", "clean.earliest=2017-04-01",
         "clean.max_quarantine_share=1.0", "retrieval.dim=32", "candidates.retrieved=100"]  # fmt: skip


def main() -> None:
    scale = os.environ.get("BENCH_SCALE", "small")
    if scale not in DATE:
        sys.exit(f"BENCH_SCALE is '{scale}': use small or full")
    with tempfile.TemporaryDirectory(prefix="bench-demo-") as folder:
        changes = [f"root={folder}", *(SMALL if scale == "small" else [])]
        settings = load_settings(ROOT / "jobs/conf/complete_journey.yaml", changes)
        figures = measure(settings, DATE[scale])
    print(json.dumps({"scale": scale, "cores": os.cpu_count(), **figures}))


def measure(settings: Settings, dt: str) -> dict[str, float]:
    """Run the night and read what it noted of itself."""
    spark = make_session(settings)
    run_stages(spark, settings, dt)
    spark.stop()
    store = TableStore(settings.root)
    figures: dict[str, float] = {}
    print(f"\n{'stage':<18}{'seconds':>10}{'peak MiB':>10}")
    for name in STAGES:
        note = store.storage.read_json(f"_stages/dt={dt}/{name}.json")
        print(f"{name:<18}{note['seconds']:>10.1f}{note['peak_mib']:>10}")
        figures[f"{name}_s"] = note["seconds"]
        figures["peak_mib"] = max(figures.get("peak_mib", 0), note["peak_mib"])
    figures["total_s"] = round(sum(v for key, v in figures.items() if key.endswith("_s")), 1)
    metrics = read_parquet(store.storage, store.need("metrics", dt).folder).to_pandas()
    chosen = metrics[(metrics["metric"] == "ndcg") & (metrics["k"] == 10)]
    table = chosen.pivot_table(index="model", columns="slice", values="value").sort_values("all")
    print(f"\nNDCG@10\n{table.round(4).to_string()}\n")
    for name in ("all", "new"):
        figures[f"ndcg10_{name}"] = round(float(table.loc["ranker", name]), 4)
        figures[f"best_baseline_ndcg10_{name}"] = round(float(table.drop(index="ranker")[name].max()), 4)
    return figures


if __name__ == "__main__":
    main()
