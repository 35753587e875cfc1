from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.streaming.prefetch import read_ahead


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("read ahead")]


def until(condition: object, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def test_all_come_in_order_and_the_thread_ends() -> None:
    assert list(read_ahead(lambda: (n for n in range(50)), 3, 30, "numbers")) == list(range(50))
    assert list(read_ahead(lambda: (n for n in range(0)), 3, 30, "numbers")) == []
    assert threads() == []


def test_it_is_ahead_but_not_further_than_it_may() -> None:
    made: list[int] = []

    def source() -> Generator[int, None, None]:
        for n in range(50):
            made.append(n)
            yield n

    with closing(read_ahead(source, 3, 30, "numbers")) as numbers:
        assert next(numbers) == 0
        assert until(lambda: len(made) == 5)  # one taken, three in the queue, one that waits for room
        time.sleep(0.3)
        assert len(made) == 5


def test_an_early_stop_closes_the_source_and_ends_the_thread() -> None:
    closed: list[str] = []

    def source() -> Generator[int, None, None]:
        try:
            yield from range(1_000)
        finally:
            closed.append(threading.current_thread().name)

    numbers = read_ahead(source, 2, 30, "numbers")
    next(numbers)
    assert len(threads()) == 1
    numbers.close()
    assert threads() == []
    assert closed == ["read ahead: numbers"]  # on the thread that made it


@pytest.mark.parametrize("error", [ValueError("torn"), RecsysError("torn", "a file", "Mend it."), SystemExit("torn")])
def test_an_error_comes_out_after_what_was_before_it(error: BaseException) -> None:
    def source() -> Generator[int, None, None]:
        yield from range(3)
        raise error

    numbers = read_ahead(source, 5, 30, "numbers")
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error), match="torn"):
        next(numbers)
    assert threads() == []


def test_a_stuck_source_is_given_up_with_a_message() -> None:
    wake = threading.Event()

    def source() -> Generator[int, None, None]:
        yield 1
        wake.wait(60)
        yield 2

    numbers = read_ahead(source, 2, 0.5, "examples of rank 1")
    assert next(numbers) == 1
    threading.Timer(1.5, wake.set).start()  # so that the end need not wait for its patience
    with pytest.raises(RecsysError, match=r"examples of rank 1: no batch came for 0\.5 seconds"):
        next(numbers)
    assert threads() == []


def test_a_slow_caller_is_no_stall() -> None:
    numbers = read_ahead(lambda: (n for n in range(3)), 1, 0.3, "numbers")
    assert next(numbers) == 0
    time.sleep(0.7)
    assert list(numbers) == [1, 2]
