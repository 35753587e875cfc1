"""The tiny log as files that grow from one night to the next."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tiny import TINY_TREE, TinyLog, merged_tree

from recsys_spark.config import parse_settings

YESTERDAY = "2024-03-03"
LATE = ("i007", "i061", "u011", "u042")  # ids that are first heard of after yesterday


class RawLog:
    """Files of a log that grows.

    Parameters
    ----------
    folder : Path
    log : TinyLog
    """

    def __init__(self, folder: Path, log: TinyLog) -> None:
        self.folder, self.log = folder, log
        cut = pd.Timestamp(YESTERDAY, tz="UTC") + pd.Timedelta(days=1)
        events = log.interactions
        early = (events["at"] < cut) & ~events["user"].isin(LATE) & ~events["item"].isin(LATE)
        self.early, self.later = events[early], events[~early]

    def write_yesterday(self) -> None:
        """Two files of events, the second with 5 rows twice, 3 without a user and 2 of an unknown kind."""
        middle = len(self.early) // 2
        tail = self.early.iloc[middle:]
        nobody, odd = tail.head(3).assign(user=None), tail.tail(2).assign(kind="stared at")
        self._write("interactions", 0, self.early.iloc[:middle])
        self._write("interactions", 1, pd.concat([tail, tail.head(5), nobody, odd]))
        self._write("items", 0, self.log.items[~self.log.items["item"].isin(LATE)])
        self._write("users", 0, self.log.users[~self.log.users["user"].isin(LATE)])

    def arrive(self) -> None:
        """A third file of events, and newer tables of items and users."""
        self._write("interactions", 2, self.later)
        self._write("items", 0, self.log.items)
        self._write("users", 0, self.log.users)

    def write_settings(self, folder: Path) -> Path:
        """Settings of nights on this log, two ranks by horovodrun; the root is ``folder / "tables"``."""
        mine = {
            "root": str(folder / "tables"),
            "input": {name: {"path": str(self.folder / name)} for name in ("interactions", "items", "users")},
            "launch": {"launcher": "horovodrun", "ranks": 2},
            "spark": {"conf": {"spark.sql.codegen.wholeStage": "false"}},
        }
        config = folder / "settings.yaml"
        config.write_text(yaml.safe_dump(parse_settings(merged_tree(TINY_TREE, mine)).model_dump(mode="json")))
        return config

    def _write(self, name: str, part: int, frame: pd.DataFrame) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, self.folder / name / f"part-{part}.parquet", coerce_timestamps="us")
