"""A part of the examples: the same rows whoever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.streaming import ExampleStream, Sample, count, shards
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.tables.storage import Storage

ROWS, FILES, SINCE = 600, 12, 1_000
COLUMNS = ["user_index", "item_index", "time"]


def write(folder: Path) -> tuple[list[str], dict[str, np.ndarray[Any, Any]]]:
    draw = np.random.default_rng(1)
    rows = {
        "user_index": draw.integers(2, 90, ROWS).astype(np.int32),
        "item_index": np.arange(ROWS, dtype=np.int32),
        "time": draw.integers(0, SINCE + 50, ROWS),
    }
    rows["time"][: 9 * ROWS // FILES] = 1  # nine files in a row without a new one
    names = [f"part-{number:02d}.parquet" for number in range(FILES)]
    for number, name in enumerate(names):
        part = slice(number * ROWS // FILES, (number + 1) * ROWS // FILES)
        pq.write_table(pa.table({key: values[part] for key, values in rows.items()}), folder / name)
    return names, rows


@pytest.mark.parametrize("sample", [Sample(0.3, 5, SINCE), Sample(0.0, 5, SINCE), Sample(0.3, 5), Sample(1.0, 5)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stream_gives_its_rows_once_and_no_others(tmp_path: Path, sample: Sample, ranks: int) -> None:
    names, rows = write(tmp_path)
    storage = Storage(str(tmp_path))
    counted = {name: found[0] for name, found in count(storage, names, [sample]).items()}
    files = [(storage.url(name), counted[name]) for name in names if counted[name]]
    given = []
    for rank, shard in enumerate(shards(files, ranks, 16)):
        stream = ExampleStream(shard, COLUMNS, 16, 1, rank, window=2, sample=sample)
        for batch in stream.epoch(0):
            given += batch["item_index"][batch[ROW_WEIGHT] > 0].tolist()
    expected = np.flatnonzero(sample.mask(rows))
    assert sorted(given) == expected.tolist()
    new = rows["time"] >= SINCE
    if sample.since is not None:
        assert set(np.flatnonzero(new)) <= set(given)
    share = sample.mask(rows)[~new].mean()
    assert share == pytest.approx(sample.share, abs=0.07)


def test_another_night_draws_others_and_a_stream_says_what_it_gives(tmp_path: Path) -> None:
    names, rows = write(tmp_path)
    one, other = (Sample(0.5, salt).mask(rows) for salt in (1, 2))
    assert (one & other).mean() == pytest.approx(0.25, abs=0.06)
    files = [(f"file://{tmp_path}/{name}", 50) for name in names]
    told = [ExampleStream(shards(files, 1, 16)[0], COLUMNS, 16, 1, sample=each).describe()
            for each in (None, Sample(0.5, 1), Sample(0.5, 2))]  # fmt: skip
    assert "sample" not in told[0]
    assert told[1]["sample"] != told[2]["sample"]
