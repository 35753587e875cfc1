"""A night that is killed again and again: it ends well, and readers never notice."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import (
    BIN,
    PROJECT,
    STAGES,
    Finished,
    Night,
    complaint,
    contents,
    copied,
    end_all,
    environment,
    lines_with,
    outliving,
    pointers,
    recsys,
    rows,
)

from recsys_spark.tables import TABLES, TableStore

pytestmark = pytest.mark.integration

SEED = 20240310
# what the night says when the moment is near, and the seconds within which the blow falls after that
MOMENTS = {
    "clean": (r"\] clean: raw logs", 3.0),
    "featurize": (r"\] featurize: ids", 5.0),
    "train-retrieval": (r"retrieval: 2 rank\(s\)", 0.8),
    "train-ranker": (r"ranker: 2 rank\(s\)", 0.8),
    "score": (r"\] score: top-N", 1.5),
    "publish": (r"\] publish: check", 0.5),
}


@dataclass
class Reader:
    """Reads the newest published lists in a loop, and keeps what it saw."""

    store: TableStore
    seen: list[tuple[str, int]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Read once."""
        try:
            current = self.store.latest("top_n")
            assert current is not None, "nothing is published"
            lists = rows(self.store, "top_n", current.dt)
            again = sum(lists.duplicated(["user_id", key]).sum() for key in ("rank", "item_id"))
            if len(lists) != current.rows or again:
                self.troubles.append(f"{current.dt}: {len(lists)} rows of {current.rows}, {again} of them twice")
            self.seen.append((current.dt, len(lists)))
        except Exception as error:
            self.troubles.append(repr(error))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Read all the time while the block runs."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(0.05):
                self.look()

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@dataclass(frozen=True)
class Blow:
    """What was found when a night was killed."""

    stage: str
    seen_by_readers: list[tuple[str, int]]
    said: str
    died: bool
    left: list[str]


@dataclass(frozen=True)
class Disturbed:
    """A night with all its blows, and the run that at last ended it."""

    night: Night
    blows: list[Blow]
    reader: Reader


def strike(config: Path, dt: str, stage: str, log: Path, draw: random.Random) -> tuple[bool, list[str]]:
    """Start the night and kill its driver in the middle of a stage.

    Returns whether it died of that, and the commands that outlived it for long; those are ended by process id.
    """
    near, within = MOMENTS[stage]
    command = [str(BIN / "recsys-spark"), "run", "--config", str(config), "--date", dt]
    with log.open("w") as out:
        driver = psutil.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        until = time.monotonic() + 300
        while not lines_with(log.read_text(), near):
            assert driver.poll() is None, f"ended before '{near}':\n{log.read_text()}"
            assert time.monotonic() < until, f"no '{near}':\n{log.read_text()}"
            time.sleep(0.05)
        time.sleep(draw.uniform(0, within))
        family = driver.children(recursive=True)
        driver.kill()  # SIGKILL
        died = driver.wait(30) == -9
        left = outliving(family)
    finally:
        if driver.is_running():
            family = driver.children(recursive=True)
        end_all([driver, *family])
    return died, left


@pytest.fixture(scope="module")
def disturbed(before: Night, raw: Any, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """A night killed once in each of six stages, then run to its end."""
    folder = tmp_path_factory.mktemp("killed")
    config, root = copied(before, folder)
    draw = random.Random(SEED)
    reader = Reader(TableStore(str(root)))
    blows = []
    with reader.looking():
        for stage in MOMENTS:
            start = len(reader.seen)
            log = folder / f"{stage}.log"
            died, left = strike(config, raw.log.dt, stage, log, draw)
            reader.look()
            blows.append(Blow(stage, reader.seen[start:], log.read_text(), died, left))
        run = recsys("run", "--config", config, "--date", raw.log.dt)
    reader.look()
    return Disturbed(Night(config, root, raw.log.dt, run), blows, reader)


def test_each_night_was_killed_in_the_stage_that_was_meant(disturbed: Disturbed) -> None:
    for blow in disturbed.blows:
        later = STAGES[STAGES.index(blow.stage) + 1 :]
        assert blow.died, blow.said
        assert not lines_with(blow.said, rf"\] ({'|'.join(later[1:]) or 'nothing'}): "), blow.said


def test_ranks_and_jvm_end_with_their_driver(disturbed: Disturbed) -> None:
    assert {blow.stage: blow.left for blow in disturbed.blows if blow.left} == {}


def test_the_night_ends_well_after_all_that(disturbed: Disturbed) -> None:
    run = disturbed.night.run
    assert run.code == 0, run
    assert run.out.splitlines()[-3].startswith("top_n:")
    # what was complete was not done again
    assert lines_with(run.out, r"\] (clean|featurize|train-retrieval|candidates): done before"), run


def test_readers_had_the_earlier_lists_in_full_all_the_time(disturbed: Disturbed, before: Night) -> None:
    whole = before.store.need("top_n", before.dt).rows
    reader = disturbed.reader

    assert reader.troubles == []
    for blow in disturbed.blows:
        assert blow.seen_by_readers
        assert set(blow.seen_by_readers) == {(before.dt, whole)}, blow.stage
    published = disturbed.night.store.need("top_n", disturbed.night.dt)
    assert reader.seen[-1] == (published.dt, published.rows)


def test_the_tables_are_those_of_an_undisturbed_night(disturbed: Disturbed, local_root: Night, before: Night) -> None:
    night = disturbed.night
    assert contents(night.root, night.dt) == contents(local_root.root, local_root.dt)
    assert contents(night.root, before.dt) == contents(local_root.root, before.dt)
    for table in ("top_n", "user_ids", "histories", "metrics"):
        assert not night.rows(table).duplicated(list(TABLES[table].key)).any()


def ended(command: list[str | Path], near: str, log: Path) -> tuple[int, list[str]]:
    """Start a command and send it SIGTERM when it has said something; its exit code, and what outlived it."""
    with log.open("w") as out:
        words = [str(word) for word in command]
        started = psutil.Popen(words, env=environment(), cwd=PROJECT, stdout=out, stderr=subprocess.STDOUT)
    family: list[psutil.Process] = []
    try:
        until = time.monotonic() + 120
        while not lines_with(log.read_text(), near):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        family = started.children(recursive=True)
        started.terminate()  # SIGTERM
        return started.wait(30), outliving(family)
    finally:
        end_all([started, *family])


def test_sigterm_ends_a_stage_with_its_java_and_ranks_and_the_next_attempt_goes_on(
    local_root: Night, tmp_path: Path
) -> None:
    config, root = copied(local_root, tmp_path)
    seen = pointers(root)
    long = ["--set", "retrieval.epochs=400", "--set", "retrieval.patience=400"]
    words = ["--config", config, "--date", local_root.dt, *long]
    submit = [BIN / "spark-submit", "--master", "local[2]", "--driver-memory", "1g"]
    by_command, by_submit = tmp_path / "command.log", tmp_path / "submit.log"

    first = ended([BIN / "recsys-spark", "train-retrieval", *words], r"epoch 2: loss", by_command)
    # the signal is Java's here, and the Python beneath it has to notice
    second = ended([*submit, PROJECT / "jobs" / "train_retrieval.py", *words], r"resumed after epoch \d", by_submit)

    for (code, left), log in ((first, by_command), (second, by_submit)):
        assert (code, left) == (143, []), log.read_text()
        assert len(lines_with(log.read_text(), "recsys-spark: ended by SIGTERM")) == 1, log.read_text()
    assert not (root / "_locks" / "writer.json").exists()
    assert pointers(root) == seen


HOLD = """
import sys, time
from recsys_spark.tables.lock import writer_lock
from recsys_spark.tables.storage import Storage
with writer_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_root_that_a_live_process_writes_is_refused(local_root: Night, tmp_path: Path) -> None:
    config, root = copied(local_root, tmp_path)
    seen = pointers(root)
    holder = psutil.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        refused: Finished = recsys("publish", "--config", config, "--date", local_root.dt)
        line = complaint(refused)
    finally:
        end_all([holder])

    assert f"process {holder.pid} on " in line
    assert "writer.json" in line
    assert pointers(root) == seen
