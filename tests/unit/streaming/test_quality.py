"""What a shuffle must do, on rows with a planted order; each bound is one that an unshuffled stream breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.streaming import ExampleStream, shards
from recsys_spark.streaming.quality import batch_spread, label_imbalance, neighbour_correlation
from recsys_spark.streaming.reader import ROW_WEIGHT

FILES, ROWS, BATCH, PARTS = 16, 1_250, 100, 20
BOUND = 4.5  # standard deviations; the draws below are fixed, so that the tests cannot fail by chance


@pytest.fixture(scope="module")
def globally_shuffled(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Rows of 20,000 times in files as the features stage writes them: each file is a random sample of all."""
    return write(tmp_path_factory.mktemp("shuffled"), np.random.default_rng(5).permutation(FILES * ROWS))


@pytest.fixture(scope="module")
def sorted_by_time(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    return write(tmp_path_factory.mktemp("sorted"), np.arange(FILES * ROWS))


def write(folder: Path, times: np.ndarray) -> list[tuple[str, int]]:
    files = []
    for number, part in enumerate(np.array_split(times, FILES)):
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table({"time": part, "file": np.full(len(part), number)}), path)
        files.append((path.as_uri(), len(part)))
    return files


def streamed(
    files: list[tuple[str, int]], ranks: int = 1, shuffle: bool = True, window: int = 8
) -> dict[str, np.ndarray]:
    """Columns in the order of an epoch, one rank after the other, and the rank of each row."""
    found: dict[str, list[np.ndarray]] = {"time": [], "file": [], "rank": []}
    for rank, shard in enumerate(shards(files, ranks, BATCH)):
        stream = ExampleStream(shard, ["time", "file"], BATCH, seed=1, rank=rank, window=window)
        for batch in stream.epoch(0, shuffle):
            real = (batch[ROW_WEIGHT] > 0).numpy()
            for name in ("time", "file"):
                found[name].append(batch[name].numpy()[real])
            found["rank"].append(np.full(int(real.sum()), rank))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def parts_of(count: int, parts: int) -> np.ndarray:
    return np.arange(count) * parts // count


def test_batches_of_a_shuffled_stream_are_random_samples(globally_shuffled: list[tuple[str, int]]) -> None:
    time = streamed(globally_shuffled)["time"]
    third = time * 3 // len(time)  # old, middle, new
    assert label_imbalance(third, parts_of(len(time), PARTS)) < BOUND
    assert abs(neighbour_correlation(time)) < BOUND
    assert abs(neighbour_correlation(time, lag=BATCH)) < BOUND
    assert batch_spread(time, BATCH) == pytest.approx(1.0, abs=0.4)


def test_files_of_a_window_are_mixed_evenly(globally_shuffled: list[tuple[str, int]]) -> None:
    file = streamed(globally_shuffled, window=FILES)["file"]
    assert label_imbalance(file, parts_of(len(file), PARTS)) < BOUND
    assert abs(neighbour_correlation(file)) < BOUND


@pytest.mark.parametrize("ranks", [2, 3])
def test_no_rank_gets_other_rows_than_the_others(globally_shuffled: list[tuple[str, int]], ranks: int) -> None:
    rows = streamed(globally_shuffled, ranks)
    assert label_imbalance(rows["time"] * 10 // len(rows["time"]), rows["rank"]) < BOUND


def test_an_unshuffled_stream_is_found_out(sorted_by_time: list[tuple[str, int]]) -> None:
    rows = streamed(sorted_by_time, shuffle=False)
    time, parts = rows["time"], parts_of(FILES * ROWS, PARTS)
    assert label_imbalance(time * 3 // len(time), parts) > 10 * BOUND
    assert label_imbalance(rows["file"], parts) > 10 * BOUND
    assert neighbour_correlation(time) > 10 * BOUND
    assert batch_spread(time, BATCH) > 50


def test_a_window_that_is_too_narrow_for_sorted_files_is_found_out(sorted_by_time: list[tuple[str, int]]) -> None:
    """Mixing inside the reader is no replacement for the global shuffle."""
    time = streamed(sorted_by_time, window=2)["time"]
    assert neighbour_correlation(time) > 3 * BOUND
    assert batch_spread(time, BATCH) > 10


def test_ranks_that_get_other_times_are_found_out(sorted_by_time: list[tuple[str, int]]) -> None:
    rows = streamed(sorted_by_time, 2)
    half = rows["file"] % 2 * 10 + rows["time"] * 10 // len(rows["time"])  # each rank has every second file
    assert label_imbalance(half, rows["rank"]) > 10 * BOUND


def test_the_deviate_of_independent_labels_is_a_standard_one() -> None:
    draw = np.random.default_rng(2)
    found = [label_imbalance(draw.integers(0, 5, 2_000), draw.integers(0, 8, 2_000)) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.2)
    assert np.std(found) == pytest.approx(1.0, abs=0.15)
    found = [neighbour_correlation(draw.normal(size=500)) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.2)
    assert np.std(found) == pytest.approx(1.0, abs=0.15)


def test_what_cannot_be_out_of_order_is_not() -> None:
    ones = np.ones(10, np.int64)
    assert label_imbalance(ones, np.arange(10)) == 0.0
    assert neighbour_correlation(ones) == 0.0
    assert batch_spread(ones, 5) == 1.0
