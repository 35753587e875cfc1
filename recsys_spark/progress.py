"""Progress for a person: a bar on a terminal, plain lines elsewhere, nothing from any rank but the first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_STARTED = time.monotonic()


def say(message: str) -> None:
    """Print one line with the seconds since the start."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {message}", flush=True)


def track(each: Iterable[T], total: int, what: str, show: bool = True, every: float = 10.0) -> Iterator[T]:
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
    """
    if not show:
        yield from each
        return
    terminal = sys.stderr.isatty()
    started = shown = time.monotonic()
    for done, element in enumerate(each, start=1):
        yield element
        now = time.monotonic()
        if now - shown < (0.2 if terminal else every) and not (terminal and done == total):
            continue
        shown = now
        left = (now - started) / done * max(total - done, 0)
        line = f"{what}: {done}/{total} · {done / (now - started):.1f}/s · {left:.0f} s left"
        if terminal:
            filled = int(24 * done / max(total, 1))
            print(f"\r{'#' * filled}{'.' * (24 - filled)} {line}", end="", file=sys.stderr, flush=True)
        else:
            say(line)
    if terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
