"""Prepares what comes next on a thread of its own; its end, its error or its stall come out at the caller.

Reading, decoding and permuting release Python's lock for the most part, so that a training step does not wait for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

from recsys_spark.errors import RecsysError

T = TypeVar("T")
_LOOK = 0.2  # seconds after which a waiting thread looks whether the other one is still there


class _End:
    """Comes after the last element; holds the error that ended the source, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def read_ahead(
    make: Callable[[], Generator[T, None, None]], depth: int, timeout: float, what: str
) -> Generator[T, None, None]:
    """Yield what a generator yields, up to ``depth`` elements ahead of the caller.

    The generator is made, run and closed on the thread. The thread ends with this iterator: when it is exhausted or
    closed. One that is stuck in a system call cannot be ended, and does not keep the process alive either.

    Parameters
    ----------
    make : callable
        Makes the generator.
    depth : int
        Elements that wait at most, beside the one that is being made.
    timeout : float
        Seconds that the caller waits for one element at most.
    what : str
        What is read, for messages.

    Raises
    ------
    RecsysError
        Nothing came for so long, or the thread is gone.
    Exception
        What the generator raised.
    """
    queue: Queue[T | _End] = Queue(depth)
    stop = Event()
    thread = Thread(target=_work, args=(make, queue, stop), name=f"read ahead: {what}", daemon=True)
    thread.start()
    try:
        while True:
            item = _take(queue, thread, timeout, what)
            if not isinstance(item, _End):
                yield item
            elif item.error is None:
                return
            else:
                raise item.error
    finally:
        stop.set()
        thread.join(2 * _LOOK + 5.0)


def _work(make: Callable[[], Generator[T, None, None]], queue: Queue[T | _End], stop: Event) -> None:
    try:
        with closing(make()) as source:
            for item in source:
                if not _give(queue, item, stop):
                    return
        end = _End()
    except BaseException as error:  # whatever it is, the caller must hear of it
        end = _End(error)
    _give(queue, end, stop)


def _give(queue: Queue[T | _End], item: T | _End, stop: Event) -> bool:
    """Put an element when there is room; False where nobody wants it any more."""
    while not stop.is_set():
        try:
            queue.put(item, timeout=_LOOK)
            return True
        except Full:
            continue
    return False


def _take(queue: Queue[T | _End], thread: Thread, timeout: float, what: str) -> T | _End:
    until = time.monotonic() + timeout
    while True:
        alive = thread.is_alive()  # asked before the queue: what it gave last is there by then
        left = until - time.monotonic()
        try:
            return queue.get(timeout=max(min(_LOOK, left), 0.001))
        except Empty:
            if not alive:
                raise RecsysError("the reader's thread is gone", what, "Run again.") from None
            if left <= 0:
                raise RecsysError(
                    f"no batch came for {timeout:g} seconds",
                    what,
                    "See whether the storage answers, or raise 'read_timeout', and run again.",
                ) from None
