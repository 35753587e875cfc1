"""The nights that the integration tests look at: each is run once, by the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from harness import Night, copied, recsys

if TYPE_CHECKING:
    from recsys_spark.config import Settings

YESTERDAY = "2024-03-03"
LATE = ("i007", "i061", "u011", "u042")  # ids that are first heard of after yesterday


@pytest.fixture(scope="session")
def raw(tiny_log: Any, tmp_path_factory: pytest.TempPathFactory) -> RawLog:
    """The tiny log as it stood yesterday, with bad rows and duplicates; ``arrive`` brings the days since."""
    log = RawLog(tmp_path_factory.mktemp("raw"), tiny_log)
    log.write_yesterday()
    return log


class RawLog:
    """Files of a log that grows.

    Parameters
    ----------
    folder : Path
    log : TinyLog
    """

    def __init__(self, folder: Path, log: Any) -> None:
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

    def _write(self, name: str, part: int, frame: pd.DataFrame) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, self.folder / name / f"part-{part}.parquet", coerce_timestamps="us")


@pytest.fixture(scope="session")
def yesterday(raw: RawLog, tiny_settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A root on which one night was done: all other roots begin as copies of it."""
    folder = tmp_path_factory.mktemp("yesterday")
    settings = tiny_settings(
        folder,
        input={name: {"path": str(raw.folder / name)} for name in ("interactions", "items", "users")},
        launch={"launcher": "horovodrun", "ranks": 2},
        spark={"conf": {"spark.sql.codegen.wholeStage": "false"}},
    )
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    run = recsys("run", "--config", config, "--date", YESTERDAY)
    assert run.code == 0, run
    return Night(config, folder / "tables", YESTERDAY, run)


@pytest.fixture(scope="session")
def before(yesterday: Night, raw: RawLog) -> Night:
    """Yesterday's root on the evening of the next night: the new files have arrived, nothing was run yet."""
    raw.arrive()
    return yesterday


@pytest.fixture(scope="session")
def local_root(before: Night, raw: RawLog, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The next night, in local mode with two Horovod ranks: what every other way to run is compared with."""
    config, root = copied(before, tmp_path_factory.mktemp("local"))
    run = recsys("run", "--config", config, "--date", raw.log.dt)
    assert run.code == 0, run
    return Night(config, root, raw.log.dt, run)


@pytest.fixture(scope="session")
def demo_root(local_root: Night) -> Path:
    """A root with published tables, for whatever wants to look at some."""
    return local_root.root
