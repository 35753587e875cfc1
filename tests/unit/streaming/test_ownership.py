from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.streaming import deal_groups, owned_shards


@given(rows=st.lists(st.integers(0, 1_000), max_size=40), ranks=st.integers(1, 6))
def test_no_rank_has_much_more_than_the_others_can_spare(rows: list[int], ranks: int) -> None:
    owner = deal_groups(rows, ranks)
    loads = [sum(n for n, of in zip(rows, owner, strict=True) if of == rank) for rank in range(ranks)]
    assert len(owner) == len(rows)
    assert sum(loads) == sum(rows)
    assert max(loads) - min(loads) <= max(rows, default=0)


def test_the_largest_go_first_and_ties_to_the_first_rank() -> None:
    assert deal_groups([1, 5, 3, 3], 2) == [0, 0, 1, 1]
    assert deal_groups([7], 3) == [0]
    assert deal_groups([], 2) == []


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_a_rank_reads_all_files_of_its_groups_and_no_others(ranks: int) -> None:
    files = [(f"part-{group:05d}-{number:05d}.parquet", 10 + group, group) for group in range(4) for number in range(2)]
    owner = deal_groups([20 + 2 * group for group in range(4)], ranks)
    shards = owned_shards(files, owner, ranks, 8)
    for rank, shard in enumerate(shards):
        assert shard.urls == tuple(url for url, _, group in files if owner[group] == rank)
        assert shard.rows == sum(rows for _, rows, group in files if owner[group] == rank)
        assert shard.steps == -(-max(each.rows for each in shards) // 8)
        assert shard.types == files[0][0]  # also of a rank without files
    # whoever reads them, they are the same files: a checkpoint says so
    alone = owned_shards(files, [0] * 4, 1, 8)
    assert len({str({**shard.whole, "ranks": 0, "steps": 0}) for shard in [*shards, *alone]}) == 1
