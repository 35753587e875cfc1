"""Progress for a person: a bar on a terminal, plain lines elsewhere, nothing from any rank but the first."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_STARTED = time.monotonic()


def say(message: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {message}", flush=True)


def track(
    each: Iterable[T],
    total: int,
    what: str,
    show: bool = True,
    every: float = 10.0,
    first: int = 0,
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield the elements and tell how far it is.

    Parameters
    ----------
    each : iterable
    total : int
        Expected number of elements.
    what : str
        Name of the work.
    show : bool
        False on every rank but the first.
    every : float
        Seconds between plain lines where there is no terminal.
    first : int
        Elements of the total that were done before.
    note : callable, optional
        What else to tell, in place of elements a second.
    """
    if not show:
        yield from each
        return
    terminal = sys.stderr.isatty()
    started = shown = time.monotonic()
    for done, element in enumerate(each, start=first + 1):
        yield element
        now = time.monotonic()
        if now - shown < (0.2 if terminal else every) and not (terminal and done == total):
            continue
        shown = now
        rate = (done - first) / max(now - started, 1e-9)
        told = note() if note else f"{rate:.1f}/s"
        line = f"{what}: {done}/{total} · {told} · {max(total - done, 0) / rate:.0f} s left"
        if terminal:
            filled = int(24 * done / max(total, 1))
            print(f"\r\033[K{'#' * filled}{'.' * (24 - filled)} {line}", end="", file=sys.stderr, flush=True)
        else:
            say(line)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
