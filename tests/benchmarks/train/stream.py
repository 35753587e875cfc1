"""Petastorm's batches as tensors beside raw `pyarrow.dataset`, and how long a training waits for them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from parts import TEMPLATE, THREADS, side_by_side, tell

from recsys_spark import columns as c
from recsys_spark.config import Retrieval, load_settings
from recsys_spark.spark import make_session
from recsys_spark.streaming import ExampleStream, shards
from recsys_spark.tables.examples import write_shuffled
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Alone
from recsys_spark.training.loop import fit
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.tasks.snapshot import COLUMNS

ROWS = {"small": 1_000_000, "full": 10_000_000}
TRAINED = {"small": 500_000, "full": 2_000_000}
USERS, ITEMS = 200_000, 20_000
GROUP = 250_000
WIDE = [f"f{number:02d}" for number in range(16)]  # numbers of a ranker's row


def write(folder: Path, rows: int) -> list[tuple[str, int]]:
    """Examples as featurize writes them: (file, rows)."""
    from pyspark.sql import functions as F

    spark = make_session(load_settings(TEMPLATE, [f"spark.conf={{spark.local.dir: '{folder}/spark'}}"]))
    numbers = [F.rand(10 + place).cast("float").alias(name) for place, name in enumerate(WIDE)]
    frame = spark.range(rows).select(
        F.floor(F.rand(1) * USERS).cast("int").alias(c.USER_INDEX),
        F.floor(F.pow(F.rand(2), 2.0) * ITEMS).cast("int").alias(c.ITEM_INDEX),
        (F.lit(1_500_000_000) + F.col("id")).alias(c.TIME),
        F.lit(1.0).cast("float").alias(c.WEIGHT),
        *numbers,
    )
    url = f"file:{folder}/examples"
    write_shuffled(frame, url, [c.TIME], GROUP, 1, expected_rows=rows)
    spark.stop()
    storage = Storage(url)
    return [(storage.url(name), pq.ParquetFile(storage.path(name)).metadata.num_rows) for name, _ in storage.files("")]


def against_pyarrow(files: list[tuple[str, int]], columns: list[str], repeats: int) -> dict[str, float]:
    """Rows a second, both on the machine's cores; ours are shuffled and cut into batches, pyarrow's are neither."""
    rows = sum(count for _, count in files)
    stream = ExampleStream(shards(files, 1, 4096)[0], columns, 4096, seed=1)
    paths = [url.removeprefix("file:") for url, _ in files]
    epochs = iter(range(1_000))

    def ours() -> None:
        got = sum(len(batch[columns[0]]) for batch in stream.epoch(next(epochs)))
        assert got >= rows

    def theirs() -> None:
        got = sum(batch.num_rows for batch in ds.dataset(paths).to_batches(columns=columns))
        assert got == rows

    taken = side_by_side({"ours": ours, "pyarrow": theirs}, repeats)
    return {name: rows / each.wall for name, each in taken.items()} | {
        f"{name}_cpu": rows / each.cpu for name, each in taken.items()
    }


def wait_share(folder: Path, files: list[tuple[str, int]], rows: int) -> dict[str, float]:
    """A real training, with its checkpoints, over a part of the files."""
    some: list[tuple[str, int]] = []
    for each in files:
        if sum(count for _, count in some) < rows:
            some.append(each)
    settings = Retrieval(epochs=2)
    counts = np.ones(ITEMS, np.int64)
    task = RetrievalTask(USERS, ITEMS, counts, torch.zeros(ITEMS), 1_500_000_000, None, settings, Alone())
    stream = ExampleStream(shards(some, 1, settings.batch_size)[0], COLUMNS, settings.batch_size, settings.seed)
    checkpoints = Checkpoints(Storage(f"file:{folder}"), "checkpoints", 1)
    curve = fit(task, stream, Alone(), settings, checkpoints, lambda tag, step, **values: None, "wait", 2)
    return {name: curve[-1][name] for name in ("wait_share", "samples_per_second")}


def run(scale: str) -> None:
    torch.set_num_threads(THREADS)
    repeats = 3 if scale == "small" else 5
    with tempfile.TemporaryDirectory(prefix="bench-stream-") as folder:
        files = write(Path(folder), ROWS[scale])
        found: dict[str, Any] = {}
        for name, columns in (("retrieval", COLUMNS), ("ranker", [c.USER_INDEX, c.ITEM_INDEX, *WIDE])):
            each = against_pyarrow(files, columns, repeats)
            found[name] = each["ours"] / each["pyarrow"]
            print(f"  {name:<10} {len(columns):>2} columns  ours {each['ours'] / 1e6:6.2f} M rows/s  pyarrow "
                  f"{each['pyarrow'] / 1e6:6.2f} M rows/s  ratio {found[name]:.2f}  (per core-second: "
                  f"{each['ours_cpu'] / each['pyarrow_cpu']:.2f})", flush=True)  # fmt: skip
        waits = wait_share(Path(folder), files, TRAINED[scale])
    print(
        f"  training waits for data {waits['wait_share']:.1%} of a step at {waits['samples_per_second']:,.0f} samples/s"
    )
    tell(
        {
            "stream_over_pyarrow": round(min(found.values()), 3),
            "stream_over_pyarrow_ranker": round(found["ranker"], 3),
            "stream_over_pyarrow_retrieval": round(found["retrieval"], 3),
            "data_wait_share": round(waits["wait_share"], 4),
        }
    )
