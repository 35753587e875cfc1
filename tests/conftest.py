"""What all tests share: one Spark session, a small log, and settings that run the whole night in seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny import TINY_TREE, TinyLog, merged_tree, write_tiny_log

from recsys_spark.config import Settings, parse_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SettingsFactory = Callable[..., Settings]


# files that begin with the same nights (fixtures of integration/conftest.py), which one worker runs once for them all
_OF_NIGHTS = re.compile(r"\b(raw|before|yesterday|local_root|demo_root): (RawLog|Night|Path)\b")
NIGHTS = {
    path.name
    for path in (Path(__file__).parent / "integration").glob("test_*.py")
    if _OF_NIGHTS.search(path.read_text())
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests out to workers by file, and the files of ``NIGHTS`` as one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::", 1)[0]
            return "nights" if Path(path).name in NIGHTS else path

    return ByFile(config, log)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all tests."""
    from recsys_spark.spark import make_session

    folder = tmp_path_factory.mktemp("spark")
    tree = merged_tree(
        TINY_TREE,
        {
            "root": str(folder / "root"),
            "input": {name: {"path": "unused"} for name in ("interactions", "items", "users")},
            "spark": {
                "conf": {
                    "spark.local.dir": str(folder / "local"),
                    "spark.sql.warehouse.dir": str(folder / "warehouse"),
                    "spark.default.parallelism": "2",
                    # what is small is soonest done without compiling for it
                    "spark.sql.codegen.wholeStage": "false",
                    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
                }
            },
        },
    )
    session = make_session(parse_settings(tree), "tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> TinyLog:
    """60 users, 80 items, 200 days: skewed popularity, habits, repeats, gaps, late starters, one silent user."""
    return write_tiny_log(tmp_path_factory.mktemp("tiny_log"))


@pytest.fixture(scope="session")
def tiny_settings(tiny_log: TinyLog) -> SettingsFactory:
    """Make settings for the tiny log: ``tiny_settings(tmp_path, score={"n": 3}, **{"retrieval.dim": 4})``.

    The root is ``tmp_path / "tables"``. Overrides are trees, merged key by key, or dotted names.
    """

    def make(tmp_path: Path, **overrides: Any) -> Settings:
        paths = {name: {"path": str(tiny_log.folder / name)} for name in ("interactions", "items", "users")}
        tree = merged_tree(TINY_TREE, {"root": str(tmp_path / "tables"), "input": paths})
        for key, value in overrides.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = merged_tree(tree, value)
        return parse_settings(tree)

    return make
