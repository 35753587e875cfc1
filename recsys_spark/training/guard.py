"""Runs a command that ends with whoever started it: `python -m recsys_spark.training.guard COMMAND…`.

The starter holds the other end of this process's standard input. When the starter is gone, be it by SIGKILL, the
end of the input is read here, and the command is told to stop: no rank trains on for a night that nobody waits for.
A command that has not ended some seconds after it was told to is killed, with all that it started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import psutil

_GRACE = 10.0  # seconds; horovodrun gives its ranks five


def main(command: list[str]) -> int:
    """Run a command to its end, or to the end of standard input; returns its exit code."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:

        def stop() -> None:
            child.terminate()
            last = threading.Timer(_GRACE, _kill, [child.pid])
            last.daemon = True
            last.start()

        def watch() -> None:
            while os.read(0, 1024):
                pass
            stop()

        signal.signal(signal.SIGTERM, lambda *_: stop())

        threading.Thread(target=watch, daemon=True).start()
        return child.wait()


def _kill(pid: int) -> None:
    """Kill a process and all that it started; one that is gone is no matter."""
    with suppress(psutil.NoSuchProcess):
        command = psutil.Process(pid)
        for each in [*command.children(recursive=True), command]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
