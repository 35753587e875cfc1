"""How buckets are shared out to the tasks of the scoring job."""

from __future__ import annotations

import pytest

from recsys_spark.scoring.score import dealt


@pytest.mark.parametrize("cores", [1, 2, 16, 500])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 256])
def test_each_bucket_is_in_one_task_and_tasks_get_shorter(count: int, cores: int) -> None:
    buckets = list(range(3, 3 + count))
    shares = dealt(buckets, cores)
    assert [bucket for share in shares for bucket in share] == buckets
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=1) <= max(1, count // 8)
    assert sizes[-2 * cores :] == [1] * min(2 * cores, count)  # nobody waits long for the last ones
