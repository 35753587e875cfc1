from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.streaming import ExampleStream, sample_rows, shards
from recsys_spark.streaming import reader as module
from recsys_spark.streaming.reader import ROW_WEIGHT

COLUMNS = ["row", "time", "weight"]
SIZES = [7, 8, 7, 7, 8]
BATCH = 4


def write(folder: Path, sizes: list[int]) -> list[tuple[str, int]]:
    """Files of so many rows; ``row`` counts through from 1, so that 0 can only be padding."""
    folder.mkdir(parents=True, exist_ok=True)
    first, files = 1, []
    for number, size in enumerate(sizes):
        rows = np.arange(first, first + size)
        table = pa.table(
            {
                "row": rows.astype(np.int32),
                "time": rows.astype(np.int64) * 10**9,
                "weight": (rows / 2).astype(np.float32),
            }
        )
        path = folder / f"part-{number}.parquet"
        pq.write_table(table, path)
        files.append((f"file://{path}", size))
        first += size
    return files


def streams(files: list[tuple[str, int]], ranks: int, window: int = 2, seed: int = 1) -> list[ExampleStream]:
    return [
        ExampleStream(shard, COLUMNS, BATCH, seed, rank, window)
        for rank, shard in enumerate(shards(files, ranks, BATCH))
    ]


def real(batches: list[dict[str, Tensor]]) -> list[int]:
    return [int(row) for batch in batches for row in batch["row"][batch[ROW_WEIGHT] > 0]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("sizes", [SIZES, [1], [4, 4], [3, 2]])
def test_every_row_once_and_the_same_number_of_steps(tmp_path: Path, ranks: int, sizes: list[int]) -> None:
    """With more ranks than files, some rank has nothing; it still takes part in every step."""
    found: list[int] = []
    for stream in streams(write(tmp_path, sizes), ranks):
        batches = list(stream.epoch(0))
        assert len(batches) == len(stream) == stream.shard.steps
        for batch in batches:
            assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
                "row": (torch.int32, (BATCH,)),
                "time": (torch.int64, (BATCH,)),
                "weight": (torch.float32, (BATCH,)),
                ROW_WEIGHT: (torch.float32, (BATCH,)),
            }
            padding = batch[ROW_WEIGHT] == 0
            assert set(batch[ROW_WEIGHT].tolist()) <= {0.0, 1.0}
            assert all((batch[name][padding] == 0).all() for name in COLUMNS)
            assert torch.equal(batch["time"], batch["row"].long() * 10**9)  # a row stays together
            assert torch.equal(batch["weight"], batch["row"] / 2)
        found += real(batches)
    assert sorted(found) == list(range(1, sum(sizes) + 1))


def test_steps_follow_the_fullest_rank() -> None:
    found = shards([("a", 9), ("b", 8), ("c", 8)], 2, 4)
    assert [(each.urls, each.rows, each.steps) for each in found] == [(("a", "c"), 17, 5), (("b",), 8, 5)]
    assert [each.steps for each in shards([], 2, 4)] == [0, 0]


def test_the_order_is_a_function_of_seed_epoch_and_rank(tmp_path: Path) -> None:
    files = write(tmp_path, SIZES)

    def order(epoch: int, seed: int = 1, rank: int = 0) -> list[int]:
        return real(list(streams(files, 2, seed=seed)[rank].epoch(epoch)))

    first = order(0)
    assert order(0) == first
    for other in (order(1), order(0, seed=2)):
        assert other != first
        assert sorted(other) == sorted(first)
    assert not set(order(0, rank=1)) & set(first)


def test_a_later_epoch_needs_no_earlier_one(tmp_path: Path) -> None:
    """A resumed run sees the batches of the uninterrupted one."""
    files = write(tmp_path, SIZES)
    (one,), (resumed,) = streams(files, 1), streams(files, 1)
    for epoch in range(3):
        expected = list(one.epoch(epoch))
    for batch, same in zip(expected, resumed.epoch(2), strict=True):
        assert all(torch.equal(batch[name], same[name]) for name in batch)


def test_rows_of_several_files_are_mixed(tmp_path: Path) -> None:
    (stream,) = streams(write(tmp_path, [50, 50]), 1)
    first = real(list(stream.epoch(0)))[:50]
    assert 10 < sum(row <= 50 for row in first) < 40


def test_without_shuffling_rows_come_as_they_lie(tmp_path: Path) -> None:
    (stream,) = streams(write(tmp_path, SIZES), 1)
    assert real(list(stream.epoch(3, shuffle=False))) == list(range(1, sum(SIZES) + 1))


@pytest.mark.parametrize("said", [6, 8, 15])
def test_other_rows_than_the_manifest_says(tmp_path: Path, said: int) -> None:
    files = write(tmp_path, [7, 7])
    (stream,) = streams([files[0], (files[1][0], said)], 1)
    with pytest.raises(RecsysError, match=f"14 rows were read, the manifest says {7 + said}"):
        list(stream.epoch(0))


@pytest.mark.parametrize("harm", ["gone", "torn", "empty"])
def test_a_lost_file_is_told(tmp_path: Path, harm: str) -> None:
    files = write(tmp_path, [7, 7])
    path = tmp_path / "part-1.parquet"
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "empty" else path.read_bytes()[:-40])
    (stream,) = streams(files, 1)
    with pytest.raises(RecsysError, match=r"part-1\.parquet"):
        list(stream.epoch(0))


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    (shard,) = shards(write(tmp_path, [7]), 1, BATCH)
    with pytest.raises(RecsysError, match="price"):
        list(ExampleStream(shard, ["row", "price"], BATCH, 1).epoch(0))


def test_a_sample_is_a_file(tmp_path: Path) -> None:
    files = write(tmp_path, SIZES)
    assert sample_rows(files[1][0], ["row"])["row"].tolist() == list(range(8, 16))


def test_a_folder_with_blanks_and_signs(tmp_path: Path) -> None:
    (stream,) = streams(write(tmp_path / "my ü 100%", SIZES), 1)
    assert len(real(list(stream.epoch(0)))) == sum(SIZES)


@pytest.mark.parametrize(
    ("petastorm", "arrow", "refused"),
    [("0.12.1", "14.0.2", ""), ("0.13.1", "14.0.2", "loses row groups"), ("0.12.1", "15.0.0", "pyarrow 15")],
)
def test_known_bad_versions_are_refused(
    monkeypatch: pytest.MonkeyPatch, petastorm: str, arrow: str, refused: str
) -> None:
    monkeypatch.setattr(module, "version", {"petastorm": petastorm, "pyarrow": arrow}.__getitem__)
    module._check_versions.cache_clear()
    try:
        if refused:
            with pytest.raises(RecsysError, match=refused):
                module._check_versions()
        else:
            module._check_versions()
    finally:
        module._check_versions.cache_clear()


def test_runs_of_equal_keys_are_shuffled_whole(tmp_path: Path) -> None:
    """Users stay whole, but for one whose rows end one file and begin the next."""
    tmp_path.mkdir(exist_ok=True)
    user = np.repeat(np.arange(1, 41), np.arange(1, 41) % 7 + 1).astype(np.int32)
    files = []
    for number, part in enumerate(np.array_split(user, 3)):
        pq.write_table(pa.table({"user": part, "row": np.arange(len(part))}), tmp_path / f"{number}.parquet")
        files.append(((tmp_path / f"{number}.parquet").as_uri(), len(part)))
    stream = ExampleStream(shards(files, 1, 9)[0], ["user", "row"], 9, 5, window=3, together="user")
    orders = []
    for epoch in (0, 1, 0):
        batches = list(stream.epoch(epoch))
        found = torch.cat([batch["user"][batch[ROW_WEIGHT] > 0] for batch in batches]).numpy()
        assert np.array_equal(np.sort(found), user)
        assert np.count_nonzero(found[1:] != found[:-1]) + 1 <= 40 + len(files) - 1
        orders.append(found.tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) != orders[0]


@pytest.mark.parametrize("skip", [0, 1, 4, 7, 99])
@pytest.mark.parametrize("ahead", [0, 3])
def test_a_resumed_epoch_gives_the_rest_of_its_batches(tmp_path: Path, skip: int, ahead: int) -> None:
    files = write(tmp_path, SIZES)
    for rank, shard in enumerate(shards(files, 2, BATCH)):
        stream = ExampleStream(shard, COLUMNS, BATCH, 1, rank, window=2, ahead=ahead)
        expected = list(stream.epoch(1))[skip:]
        found = list(stream.epoch(1, skip=skip))
        assert len(found) == len(expected)
        for batch, same in zip(expected, found, strict=True):
            assert all(torch.equal(batch[name], same[name]) for name in batch)


def test_what_a_stream_says_of_itself_follows_its_batches(tmp_path: Path) -> None:
    files = write(tmp_path / "a", SIZES)
    (stream,) = streams(files, 1)
    moved = [(url.replace("/a/", "/b/"), rows) for url, rows in files]
    assert streams(moved, 1)[0].describe() == stream.describe()
    others = [
        streams(files[::-1], 1)[0],
        streams(files[:-1], 1)[0],
        streams([(files[0][0], 6), *files[1:]], 1)[0],
        streams(files, 1, seed=2)[0],
        streams(files, 1, window=3)[0],
        ExampleStream(shards(files, 1, 5)[0], COLUMNS, 5, 1, window=2),
        ExampleStream(shards(files, 1, BATCH)[0], COLUMNS[:2], BATCH, 1, window=2),
    ]
    for other in others:
        assert other.describe() != stream.describe()
    first, second = streams(files, 2)
    assert first.describe() == second.describe()
    changed = {name for name, value in first.describe().items() if value != stream.describe()[name]}
    assert changed == {"ranks", "steps"}


def test_only_the_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, SIZES)
    (tmp_path / "part-3.parquet").write_bytes((tmp_path / "part-3.parquet").read_bytes()[:-40])
    (stream,) = streams(files, 1, window=8)
    with pytest.raises(RecsysError) as error:
        list(stream.epoch(0))
    assert error.value.where == files[3][0]


def test_storage_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = shards(write(tmp_path, SIZES), 1, BATCH)
    wake = threading.Event()
    groups = module._groups

    def late(urls: tuple[str, ...], columns: list[str]) -> Iterator[dict[str, np.ndarray]]:
        wake.wait(60)
        yield from groups(urls, columns)

    monkeypatch.setattr(module, "_groups", late)
    threading.Timer(1.0, wake.set).start()  # so that the end need not wait for its patience
    stream = ExampleStream(shard, COLUMNS, BATCH, 1, rank=3, timeout=0.3)
    with pytest.raises(RecsysError, match=r"examples of rank 3, epoch 7: no batch came for 0\.3 seconds"):
        next(stream.epoch(7))


def test_no_thread_outlives_an_epoch_that_is_left(tmp_path: Path) -> None:
    (stream,) = streams(write(tmp_path, [400] * 4), 1)
    before = set(threading.enumerate())
    batches = stream.epoch(0)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before  # one of an earlier test may have ended by now


def memory_after_epochs(files: list[tuple[str, int]], epochs: int) -> list[float]:
    """Resident megabytes after each pass."""
    stream = ExampleStream(shards(files, 1, 4096)[0], ["user", "item", "time"], 4096, 1)
    process, used = psutil.Process(), []
    for epoch in range(epochs):
        assert sum(float(batch[ROW_WEIGHT].sum()) for batch in stream.epoch(epoch)) == stream.shard.rows
        used.append(process.memory_info().rss / 1e6)
    return used


def test_memory_is_flat_over_epochs(tmp_path: Path) -> None:
    """Twenty epochs of 320,000 rows; a row that was kept would be 16 bytes more, an epoch 5 MB.

    In a process of its own: what other tests left to the allocator is not the reader's.
    """
    files = []
    for number in range(8):
        rows = np.arange(40_000)
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"user": rows.astype(np.int32), "item": rows.astype(np.int32), "time": rows}), path)
        files.append((path.as_uri(), len(rows)))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        used = pool.submit(memory_after_epochs, files, 20).result()
    assert np.median(used[-5:]) - np.median(used[3:8]) < 12.0, used


@pytest.mark.parametrize(("values", "what"), [(["a", "b"], "<U1 values"), ([[1.0, 2.0], [3.0, 4.0]], "lists")])
def test_a_column_that_holds_no_numbers_is_told(tmp_path: Path, values: list[object], what: str) -> None:
    pq.write_table(pa.table({"row": [1, 2], "name": values}), tmp_path / "part-0.parquet")
    (shard,) = shards([((tmp_path / "part-0.parquet").as_uri(), 2)], 1, BATCH)
    with pytest.raises(RecsysError, match=f"column 'name' holds {what}, not numbers"):
        list(ExampleStream(shard, ["row", "name"], BATCH, 1).epoch(0))


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("other", [pa.array([1, None, 3], pa.int32()), pa.array([1, 2, 3], pa.int64())])
def test_a_file_of_another_type_is_told(tmp_path: Path, window: int, other: pa.Array) -> None:
    """Its numbers would be read as others: whether it comes in the same window or in a later one."""
    for number, row in enumerate([pa.array([7, 8, 9], pa.int32()), other]):
        pq.write_table(pa.table({"row": row}), tmp_path / f"part-{number}.parquet")
    (shard,) = shards([((tmp_path / f"part-{number}.parquet").as_uri(), 3) for number in range(2)], 1, BATCH)
    with pytest.raises(RecsysError, match=r"column 'row' is .* in some files and .* in others"):
        list(ExampleStream(shard, ["row"], BATCH, 1, window=window).epoch(0))


@pytest.mark.parametrize("ahead", [0, 1, 3, 16])
def test_how_many_batches_are_handed_over_changes_none(tmp_path: Path, ahead: int) -> None:
    files = write(tmp_path, SIZES)
    expected = list(ExampleStream(shards(files, 1, BATCH)[0], COLUMNS, BATCH, 1, window=2).epoch(1))
    found = list(ExampleStream(shards(files, 1, BATCH)[0], COLUMNS, BATCH, 1, window=2, ahead=ahead).epoch(1))
    assert len(found) == len(expected)
    for batch, same in zip(expected, found, strict=True):
        assert all(torch.equal(batch[name], same[name]) for name in batch)
