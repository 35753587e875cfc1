"""The stage ``score`` for many users beside the kernel alone on the same vectors, and MLlib's recommendForAllUsers.

Lists of 100 by the retrieval model's vectors (``score.by: retrieval``), each user with a history that is left out. The
stage is timed whole, in a session that is there and has not worked yet: names of users, histories, lists, Parquet files
and the content hash. The kernel has the vectors and the histories in memory and writes nothing; it runs before and
after the stage, and the mean counts.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from parts import TEMPLATE, THREADS, tell

from recsys_spark import columns as c
from recsys_spark.config import Settings, load_settings
from recsys_spark.cuts import FINAL
from recsys_spark.pipeline import load_stage
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import Catalogue
from recsys_spark.spark import make_session
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import save_array
from recsys_spark.tables.store import Stamp

DT, DIM, N, SEEN, BUCKETS = "2024-03-01", 64, 100, 20, 64
SIZES = {"small": (20_000, 100_000, 20_000), "full": (100_000, 1_000_000, 100_000)}  # users, more users, items
MLLIB_USERS = {"small": 2_000, "full": 20_000}
FIRST = 2  # index of the first user and item
NOW = 1_709_000_000  # before the day ends


class Data:
    """Vectors and histories: those of a user follow from the seed."""

    def __init__(self, users: int, items: int) -> None:
        random = np.random.default_rng(1)
        self.users, self.items = users + FIRST, items + FIRST
        self.user = random.standard_normal((self.users, DIM + 1), np.float32)
        self.item = random.standard_normal((self.items, DIM + 1), np.float32)
        self.user[:, -1], self.item[:, -1] = 1.0, 0.0
        self.seen = random.integers(FIRST, self.items, (self.users, SEEN), np.int32)
        self.bucket = (np.arange(self.users) * 7919 % BUCKETS).astype(np.int32)


def write(root: str, data: Data) -> None:
    """Tables that the stage reads, as the earlier stages write them."""
    settings = settings_of(root)
    spark, store = make_session(settings), TableStore(root)
    stamp = Stamp(DT, "run", "bench", "", "", "", {})

    def rows(table: str, parts: Iterator[tuple[str, dict[str, Any]]], extra: dict[str, Any] | None = None) -> None:
        folder = Path(root, store.folder(table, stamp))
        folder.mkdir(parents=True)
        for name, columns in parts:
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        store.point(store.seal(spark, table, stamp, extra=extra))

    def by_bucket(make: Any, ending: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        for bucket in range(BUCKETS):
            index = np.flatnonzero(data.bucket[FIRST:] == bucket).astype(np.int32) + FIRST
            yield f"part-{bucket:05d}{ending}", make(bucket, index)

    def histories(bucket: int, index: np.ndarray[Any, Any]) -> dict[str, Any]:
        offsets = np.arange(0, len(index) * SEEN + 1, SEEN, dtype=np.int32)
        flat = [data.seen[index].reshape(-1), np.full(len(index) * SEEN, NOW), np.ones(len(index) * SEEN, np.float32)]
        lists = [pa.ListArray.from_arrays(pa.array(offsets), pa.array(each)) for each in flat]
        of_bucket = np.full(len(index), bucket, np.int32)
        return dict(
            zip(("user_bucket", "user_index", "items", "times", "weights"), (of_bucket, index, *lists), strict=True)
        )

    def names(index: np.ndarray[Any, Any], letter: str) -> list[str]:
        return [f"{letter}{each:09d}" for each in index.tolist()]

    rows("histories", by_bucket(histories))

    def user_ids(bucket: int, index: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"index": index, "user_id": names(index, "u"), "user_bucket": np.full(len(index), bucket, np.int32)}

    rows("user_ids", by_bucket(user_ids, "-x"), {"next_index": data.users})
    items = np.arange(FIRST, data.items, dtype=np.int32)
    rows("item_ids", iter([("part", {"index": items, "item_id": names(items, "i")})]), {"next_index": data.items})
    counts = ("events", "recent_events", "users", "recent_users", "newest_users", "earlier_users", "repeat_users",
              "first_users", "first_time")  # fmt: skip
    one = np.ones(len(items), np.int64)
    rows(
        "item_stats", iter([("part", {"cut": [FINAL] * len(items), "item_index": items, **dict.fromkeys(counts, one)})])
    )
    no_rules = [(c.ALLOWED, np.ones, bool), (c.BOOST, np.zeros, np.float32), (c.PINNED, np.zeros, np.int32),
                 (c.NEW, np.zeros, bool)]  # fmt: skip
    ruled = {name: make(len(items), kind) for name, make, kind in no_rules}
    no_caps = pa.ListArray.from_arrays(np.zeros(len(items) + 1, np.int32), pa.array([], pa.int64()))
    rows("item_rules", iter([("part", {c.ITEM_INDEX: items, **ruled, c.CAPS: no_caps})]))
    for table in ("item_windows", "user_features", "item_features", "item_neighbours", "segment_items"):
        rows(table, iter([("part", {"index": items[:1]})]))
    for side, vectors in (("user", data.user), ("item", data.item)):
        save_array(store.storage, f"{store.folder('retrieval_model', stamp)}/{side}_vectors.{FINAL}.npy", vectors)
    model = store.seal(None, "retrieval_model", stamp, extra={"model": "mf"})
    store.point(model)
    for table, file, told in (
        ("feature_spec", "spec.json", {}),
        ("ranker", "spec.json", {"retrieval_version": model.content_hash}),
    ):
        store.storage.write_json(f"{store.folder(table, stamp)}/{file}", told)
        store.point(store.seal(None, table, stamp))
    for table in ("content_model", "fusion"):  # which no setting asks for
        store.point(store.seal(None, table, stamp))
    spark.stop()


def settings_of(root: str) -> Settings:
    changes = [f"root={root}", f"buckets={BUCKETS}", f"spark.master=local[{THREADS}]", "spark.driver_memory=3g",
               f"score.n={N}", "score.by=retrieval", "score.explain=false", "rules.hide_seen=all", "gate.enabled=false",
               "features.windows=[]", "features.group=[]", "features.moment=[]"]  # fmt: skip
    return load_settings(TEMPLATE, changes)


def job(root: str) -> tuple[float, int]:
    """Seconds of the stage, and the largest worker's MiB."""
    settings = settings_of(root)
    spark, said = make_session(settings), StringIO()
    spark.range(1).count()
    started = time.perf_counter()
    with redirect_stdout(said):
        run_stage(load_stage("score"), spark, settings, DT, force=True)
    seconds = time.perf_counter() - started
    spark.stop()
    found = re.search(r"at most ([\d,]+) MiB in a worker", said.getvalue())
    assert found is not None, said.getvalue()
    return seconds, int(found[1].replace(",", ""))


def kernel(data: Data) -> float:
    """Seconds of the kernel alone, with the items packed before."""
    allowed = np.arange(data.items) >= FIRST
    catalogue = Catalogue(data.item, allowed)
    seen = Rows(np.arange(0, data.seen[FIRST:].size + 1, SEEN), data.seen[FIRST:].reshape(-1))
    started = time.perf_counter()
    catalogue.top_k(data.user[FIRST:], N, forbidden=seen, threads=THREADS)
    return time.perf_counter() - started


def mllib(root: str, data: Data, users: int) -> float:
    """Users a second of ``recommendForAllUsers`` by a model that is made of the same vectors."""
    import pandas as pd
    from pyspark.ml.recommendation import ALSModel

    spark = make_session(settings_of(root))
    frames = []
    for vectors, count in ((data.user, users), (data.item, data.items)):
        index = np.arange(FIRST, FIRST + count - (FIRST if vectors is data.item else 0))
        frame = pd.DataFrame({"id": index.astype(np.int32), "features": vectors[index, :DIM].tolist()})
        typed = spark.createDataFrame(frame, "id int, features array<float>").repartition(THREADS).cache()
        typed.count()
        frames.append(typed._jdf)
    java = spark._jvm.org.apache.spark.ml.recommendation.ALSModel("als", DIM, *frames)
    java.setUserCol("user")
    java.setItemCol("item")
    model = ALSModel(java)
    started = time.perf_counter()
    model.recommendForAllUsers(N).write.format("noop").mode("overwrite").save()
    seconds = time.perf_counter() - started
    spark.stop()
    return users / seconds


def run(scale: str) -> None:
    few, many, items = SIZES[scale]
    figures: dict[str, Any] = {}
    peaks, last = [], 0.0
    for users in (few, many):
        data = Data(users, items)
        with tempfile.TemporaryDirectory(prefix="bench-score-") as root:
            write(root, data)
            before = kernel(data)
            last, peak = job(root)
            alone = (before + kernel(data)) / 2
            peaks.append(peak)
            size = sum(each.stat().st_size for each in Path(root, "top_n").rglob("*.parquet"))
            print(f"  {users:,} users × {items:,} items, d = {DIM}, lists of {N}: kernel alone {alone:.1f} s "
                  f"({users / alone:,.0f} users/s), the stage {last:.1f} s ({users / last:,.0f} users/s), "
                  f"{last / alone:.2f} of it; {peak:,} MiB in a worker, {size / 1e6:,.0f} MB", flush=True)  # fmt: skip
            figures["job_over_kernel_time"] = round(last / alone, 3)
            if users == many:
                theirs = mllib(root, data, MLLIB_USERS[scale])
                print(f"  MLlib, {MLLIB_USERS[scale]:,} of the users: {theirs:,.0f} users/s", flush=True)
                figures["job_over_mllib"] = round(many / last / theirs, 1)
    figures["worker_mib"], figures["worker_growth"] = peaks[1], round(peaks[1] / peaks[0], 3)
    tell(json.loads(json.dumps(figures)))
