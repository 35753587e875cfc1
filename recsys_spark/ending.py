"""What becomes of a job that its scheduler ends: SIGTERM unwinds it, and so does the end of the Java that started it.

`recsys-spark` gets the signal itself. Under ``spark-submit`` it goes to Java, which ends without a word to the Python
beneath it; a training would go on for hours, with the lock of the root, for a night that nobody waits for. Python sees
that it has lost its parent, and takes that for the signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CODE = 128 + signal.SIGTERM
_LINE = (
    b"recsys-spark: ended by SIGTERM, or with its spark-submit; ranks and Spark are ended, the lock is given back; "
    b"run it again to go on\n"
)
_ENDING = threading.Event()
_LOOK_EVERY = 0.5  # seconds
_PATIENCE = 45.0  # seconds from the end of Spark's context to that of its Java, on its way out, on a busy machine


def end_on_sigterm() -> None:
    """Have SIGTERM end this process with a line and exit code 143, after all that stands in ``finally`` was done."""
    heard = [2]  # where a last line is heard: spark-submit passes nothing on once it has got the signal itself
    if _under_spark_submit():
        with suppress(OSError):
            heard.insert(0, os.open(f"/proc/{os.getppid()}/fd/2", os.O_WRONLY | os.O_APPEND))

    def end(*_: object) -> None:
        _ENDING.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is not to break off what the first began
        with suppress(OSError):
            os.write(heard[0], _LINE)
        sys.exit(CODE)

    signal.signal(signal.SIGTERM, end)
    if _under_spark_submit():
        threading.Thread(target=_watch_parent, args=(os.getppid(),), name="parent watch", daemon=True).start()


def leave_if_java_ends(spark: SparkSession) -> None:
    """Called where something failed: whether that came of the signal, or is the first sign of ``spark-submit``'s end.

    What fails on the way out, with Java gone, hides what ended the process: it is no news of the night. And Java
    cancels jobs and closes its socket before it is gone. Returns where Spark is alive, or stays.
    """
    if _ENDING.is_set():
        sys.exit(CODE)
    if not _under_spark_submit() or _is_alive(spark):
        return
    time.sleep(_PATIENCE)  # the signal that comes when the parent is gone ends it


def stop(spark: SparkSession) -> None:
    """Stop a session; one whose Java is gone has nothing to stop."""
    with suppress(Exception):
        spark.stop()


def _under_spark_submit() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(spark: SparkSession) -> bool:
    try:
        return not spark.sparkContext._jsc.sc().isStopped()
    except Exception:
        return False
