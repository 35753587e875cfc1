"""The ``recsys-spark`` command with its imports done and its JVM started: ``python -m faults.driver SETTINGS``.

Says "warm" when it is ready, reads the command's words as JSON from one line of standard input, and is that command
from there on. While one driver works the next one gets warm, so that a kill costs no start.
"""

from __future__ import annotations

import json
import sys
import tempfile

from recsys_spark.cli import main
from recsys_spark.config import load_settings
from recsys_spark.pipeline import STAGES, load_stage
from recsys_spark.spark import make_session

WARM = "warm"


def wait(config: str) -> None:
    """Get ready, wait for the words, and do what they say."""
    spark = make_session(load_settings(config))
    for name in STAGES:
        load_stage(name)
    with tempfile.TemporaryDirectory() as folder:  # Java loads what every stage needs
        spark.range(8).groupBy("id").count().write.mode("overwrite").parquet(folder)
        spark.read.parquet(folder).count()
    print(WARM, flush=True)
    words = sys.stdin.readline()
    if words:
        main(json.loads(words))


if __name__ == "__main__":
    wait(sys.argv[1])
