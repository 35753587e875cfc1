"""Which rank's end is told as the cause."""

from recsys_spark.training.launch import first_lost

NOTICED = "rank {}, retrieval final epoch 2, step 18: HorovodInternalError: Horovod has been shut down."


def test_the_killed_rank_is_named_however_late_its_end_is_seen() -> None:
    noticed = [NOTICED.format(0)]
    assert first_lost([("0", "1"), ("1", "137")], noticed) == "rank 1 ended with code 137"
    assert first_lost([("1", "137"), ("0", "1")], noticed) == "rank 1 ended with code 137"


def test_a_rank_that_was_terminated_for_another_is_not_the_cause() -> None:
    assert first_lost([("0", "1"), ("2", "143"), ("1", "137")], [NOTICED.format(0)]) == "rank 1 ended with code 137"
    assert first_lost([("10", "-9"), ("1", "1")], [NOTICED.format(1)]) == "rank 10 ended with code -9"


def test_the_first_is_named_where_nothing_tells_them_apart() -> None:
    assert first_lost([("1", "1"), ("0", "1")], []) == "rank 1 ended with code 1"
    assert first_lost([("1", "1"), ("0", "1")], [NOTICED.format(0), NOTICED.format(1)]) == "rank 1 ended with code 1"
    assert first_lost([], []) is None
