"""Runs a command that ends with whoever started it: `python -m recsys_spark.training.guard COMMAND…`.

The starter holds the other end of this process's standard input. When the starter is gone, be it by SIGKILL, the
end of the input is read here, and the command is told to stop: no rank trains on for a night that nobody waits for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """Run a command to its end, or to the end of standard input; returns its exit code."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())

        def watch() -> None:
            while os.read(0, 1024):
                pass
            child.terminate()

        threading.Thread(target=watch, daemon=True).start()
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
