"""The nights that the integration tests look at: each is run once, by the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Night, copied, java_archive, run_night
from raw_log import YESTERDAY, RawLog


@pytest.fixture(scope="session")
def raw(tiny_log: Any, tmp_path_factory: pytest.TempPathFactory) -> RawLog:
    """The tiny log as it stood yesterday, with bad rows and duplicates; ``arrive`` brings the days since."""
    log = RawLog(tmp_path_factory.mktemp("raw"), tiny_log)
    log.write_yesterday()
    return log


@pytest.fixture(scope="session")
def yesterday(raw: RawLog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A root on which one night was done: all other roots begin as copies of it."""
    folder = tmp_path_factory.mktemp("yesterday")
    with java_archive(folder / "java.jsa") as use:
        night = run_night(raw.write_settings(folder), folder / "tables", YESTERDAY)
        use()
        yield night


@pytest.fixture(scope="session")
def before(yesterday: Night, raw: RawLog) -> Night:
    """Yesterday's root on the evening of the next night: the new files have arrived, nothing was run yet."""
    raw.arrive()
    return yesterday


@pytest.fixture(scope="session")
def local_root(before: Night, raw: RawLog, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The next night, in local mode with two Horovod ranks: what every other way to run is compared with."""
    config, root = copied(before, tmp_path_factory.mktemp("local"))
    return run_night(config, root, raw.log.dt)


@pytest.fixture(scope="session")
def demo_root(local_root: Night) -> Path:
    """A root with published tables, for whatever wants to look at some."""
    return local_root.root
