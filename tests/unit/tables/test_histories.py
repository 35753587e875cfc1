from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.tables.histories import UserBlock, user_blocks

Event = tuple[int, int, float]  # item, time, weight
SCHEMA = pa.schema(
    [
        ("user_bucket", pa.int32()),
        ("user_index", pa.int32()),
        ("items", pa.list_(pa.int32())),
        ("times", pa.list_(pa.int64())),
        ("weights", pa.list_(pa.float32())),
    ]
)

events = st.lists(
    st.tuples(st.integers(0, 2**31 - 1) | st.integers(0, 6), st.integers(0, 20), st.sampled_from([0.5, 1.0, 3.0])),
    max_size=8,
).map(lambda found: sorted(found, key=lambda event: event[1]))
users = st.lists(events, max_size=7)


def to_arrow(histories: list[list[Event]]) -> pa.Table:
    columns = [[[event[place] for event in history] for history in histories] for place in range(3)]
    indexes = list(range(10, 10 + len(histories)))
    return pa.table([[0] * len(histories), indexes, *columns], schema=SCHEMA)


def to_python(block: UserBlock) -> list[list[Event]]:
    assert [array.dtype for array in (block.users, block.indptr, block.items, block.times, block.weights)] == [
        np.int32, np.int64, np.int32, np.int64, np.float32,
    ]  # fmt: skip
    assert block.indptr[0] == 0
    assert block.indptr[-1] == len(block.items) == len(block.times) == len(block.weights)
    flat = list(zip(block.items.tolist(), block.times.tolist(), block.weights.tolist(), strict=True))
    return [flat[block.indptr[i] : block.indptr[i + 1]] for i in range(len(block))]


@given(users)
def test_from_arrow(histories: list[list[Event]]) -> None:
    block = UserBlock.from_arrow(to_arrow(histories))
    assert to_python(block) == histories
    assert block.users.tolist() == list(range(10, 10 + len(histories)))
    assert block.rows.tolist() == [row for row, history in enumerate(histories) for _ in history]


@given(users, st.integers(-1, 21), st.integers(-1, 21))
def test_between_and_before(histories: list[list[Event]], start: int, until: int) -> None:
    block = UserBlock.from_arrow(to_arrow(histories))
    assert to_python(block.between(start, until)) == [
        [event for event in history if start <= event[1] < until] for history in histories
    ]
    assert to_python(block.before(until)) == [[event for event in history if event[1] < until] for history in histories]


@given(users)
def test_distinct_items(histories: list[list[Event]]) -> None:
    found = UserBlock.from_arrow(to_arrow(histories)).distinct_items()
    assert found.indices.dtype == np.int32
    assert [found.row(i).tolist() for i in range(len(found))] == [
        sorted({item for item, *_ in history}) for history in histories
    ]


@given(users, st.integers(0, 8), st.integers(0, 9))
def test_slice(histories: list[list[Event]], start: int, length: int) -> None:
    block = UserBlock.from_arrow(to_arrow(histories))
    start = min(start, len(histories))
    part = block.slice(start, start + length)
    assert to_python(part) == histories[start : start + length]
    assert part.users.tolist() == block.users[start : start + length].tolist()


@given(users, st.integers(1, 9), st.lists(st.integers(0, 4), max_size=6))
def test_blocks_do_not_depend_on_the_batches(histories: list[list[Event]], size: int, cuts: list[int]) -> None:
    table = to_arrow(histories)

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for length in [*cuts, table.num_rows]:
            part = table.slice(start, length).combine_chunks()
            start += part.num_rows
            yield from part.to_batches() or [pa.RecordBatch.from_pylist([], schema=SCHEMA)]

    blocks = list(user_blocks(batches(), size))
    assert [history for block in blocks for history in to_python(block)] == histories
    assert [user for block in blocks for user in block.users] == table["user_index"].to_pylist()
    assert all(len(block) == size for block in blocks[:-1])
    assert all(0 < len(block) <= size for block in blocks)


def test_a_sliced_table_is_read_from_its_own_start() -> None:
    histories = [[(1, 1, 1.0)], [(2, 2, 1.0), (3, 3, 0.5)], [], [(4, 4, 1.0)]]
    assert to_python(UserBlock.from_arrow(to_arrow(histories).slice(1, 2))) == histories[1:3]


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_holds_somebody(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        list(user_blocks(iter(to_arrow([[(1, 1, 1.0)]]).to_batches()), size))
