"""Peak memory of a stage: the driver with all processes below it (Java, Python workers, local ranks)."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

SAMPLE_EVERY = 1.0  # seconds


class PeakMemory:
    """Samples the resident memory of this process and its descendants while a block runs.

    Memory that processes share counts once a process, so the figure errs upwards. What runs on other hosts is not seen.

    Attributes
    ----------
    mib : int
        Largest sum seen, in MiB.
    """

    def __init__(self) -> None:
        self.mib = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        root = psutil.Process()
        while True:
            total = 0
            for process in [root, *root.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended meanwhile
            self.mib = max(self.mib, total >> 20)
            if self._stop.wait(SAMPLE_EVERY):
                return
