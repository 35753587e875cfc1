"""What the integration tests share: programs run as a user runs them, and what they left below a root."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from recsys_spark.bootstrap.java import find_java_home
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.store import Stamp

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STAGES = (
    "clean",
    "featurize",
    "train-retrieval",
    "sources",
    "candidates",
    "train-ranker",
    "evaluate",
    "rules",
    "gate",
    "score",
    "watch",
    "publish",
    "report",
)
Edit = Callable[[TableStore, str, Path], None]  # changes the files of a run's folder
# what is small is soonest done by a Java that starts fast
_OPTIONS = "SPARK_SUBMIT_OPTS"  # of the driver's Java alone, not of the one that finds out how to start it
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss2m"


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    def __str__(self) -> str:
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class Night:
    """A whole night of one day: settings file, root, and what the command printed."""

    config: Path
    root: Path
    dt: str
    run: Finished

    @property
    def store(self) -> TableStore:
        """Tables of the root."""
        return TableStore(str(self.root))

    def rows(self, table: str) -> pd.DataFrame:
        """Rows that a reader of the day sees."""
        return rows(self.store, table, self.dt)


def environment(**more: str) -> dict[str, str]:
    """Environment of the programs: as after ``source .venv/recsys_env.sh``."""
    import pyspark

    java = find_java_home(PROJECT)
    values = {
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "JDK_JAVA_OPTIONS": JAVA_OPTIONS,
    }
    if java is not None:
        values["JAVA_HOME"] = str(java)
    return {**os.environ, **values, **more}


def execute(command: list[str | Path], timeout: float = 600, cwd: Path = PROJECT, **variables: str) -> Finished:
    """Run a program to its end."""
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command],
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr, time.monotonic() - started)


def recsys(*words: str | Path, timeout: float = 600) -> Finished:
    """Run ``recsys-spark`` to its end."""
    return execute([BIN / "recsys-spark", *words], timeout)


@contextmanager
def java_archive(path: Path) -> Iterator[Callable[[], None]]:
    """Keep the classes that Java has loaded in a file: a Java that starts with it needs half the time for a stage.

    What the first command within the block loads is written when it ends; the function that the block is given has all
    later ones of this process read it. A Java that does not fit the file goes without it.
    """
    quiet = "-Xlog:cds=off,cds+dynamic=off,class+path=off"
    before = os.environ.get(_OPTIONS)

    def use() -> None:
        os.environ[_OPTIONS] = f"{quiet} -XX:SharedArchiveFile={path}"

    os.environ[_OPTIONS] = f"{quiet} -XX:ArchiveClassesAtExit={path}"
    try:
        yield use
    finally:
        os.environ.pop(_OPTIONS)
        if before is not None:
            os.environ[_OPTIONS] = before
        path.unlink(missing_ok=True)


def run_night(config: Path, root: Path, dt: str) -> Night:
    """Run a whole night, which must end well."""
    run = recsys("run", "--config", config, "--date", dt)
    assert run.code == 0, run
    return Night(config, root, dt, run)


def complaint(finished: Finished) -> str:
    """The one line that a refused command says; fails where it is not one, or the exit code is not 2."""
    lines = [line for line in finished.err.splitlines() if line.startswith("recsys-spark:")]
    assert finished.code == 2, finished
    assert len(lines) == 1, finished
    assert "Traceback" not in finished.err, finished
    return lines[0]


def rows(store: TableStore, table: str, dt: str) -> pd.DataFrame:
    """Rows of a day's current run."""
    return read_parquet(store.storage, store.need(table, dt).folder).to_pandas()


def currents(root: Path, dt: str) -> dict[str, Manifest]:
    """Manifests that readers of a day see, by table."""
    store = TableStore(str(root))
    tables = [name for name in store.storage.names("", "folder") if not name.startswith("_")]
    return {name: found for name in tables if (found := store.current(name, dt)) is not None}


def contents(root: Path, dt: str) -> dict[str, str]:
    """Content hashes by table, but for the report, which shows times."""
    return {name: each.content_hash for name, each in currents(root, dt).items() if name != "report"}


def pointers(root: Path) -> dict[str, str]:
    """All pointers below a root, by path."""
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("_current.json"))}


def settings_beside(night: Night, folder: Path, **changes: Any) -> Path:
    """A copy of the settings with another root, ``folder / "tables"``, and changed sections."""
    tree = yaml.safe_load(night.config.read_text())
    tree["root"] = str(folder / "tables")
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "settings.yaml"
    target.write_text(yaml.safe_dump(tree))
    return target


def copied(night: Night, folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A copy of a root with its settings: the settings file and the new root."""
    config = settings_beside(night, folder, **changes)
    shutil.copytree(night.root, folder / "tables")
    return config, folder / "tables"


def plant(store: TableStore, table: str, dt: str, edit: Edit, name: str) -> Manifest:
    """A run of a model's table that is a changed copy of the one readers see, and is seen in its place."""
    old = store.need(table, dt)
    stamp = Stamp(dt, f"planted-{name}", old.stage, old.fingerprint, old.settings_hash, old.code_version, old.inputs)
    source, folder = (Path(store.storage.path(each)) for each in (old.folder, store.folder(table, stamp)))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("_manifest.json"))
    edit(store, dt, folder)
    manifest = store.seal(None, table, stamp, extra=old.extra)
    store.point(manifest)
    return manifest


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_all(processes: list[psutil.Process], patience: float = 10.0) -> None:
    """End exactly these processes: politely, then by force."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=patience)


def outliving(family: list[psutil.Process], patience: float = 30.0) -> list[str]:
    """Commands of the processes that are still at work after some time."""
    until = time.monotonic() + patience
    while True:
        alive = []
        for each in family:
            with suppress(psutil.NoSuchProcess):
                if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                    alive.append(" ".join(each.cmdline()))
        if not alive or time.monotonic() > until:
            return alive
        time.sleep(0.2)


def lines_with(text: str, pattern: str) -> list[str]:
    """Lines of an output that match."""
    return [line for line in text.splitlines() if re.search(pattern, line)]
