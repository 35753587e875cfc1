"""A dozen kills of the schedule that ``make test-faults`` plays in full: the night ends well, readers never notice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
import pytest
from faults.night import Estimates
from faults.rounds import Round, World, judge, play
from faults.scenarios import holder
from faults.schedule import CLUSTER, LOCAL, SEED, few, numbered, schedule, victims
from faults.starts import Drivers
from faults.verdict import Figures
from harness import (
    BIN,
    PROJECT,
    STAGES,
    Night,
    complaint,
    copied,
    end_all,
    environment,
    lines_with,
    outliving,
    pointers,
    recsys,
    settings_beside,
)
from raw_log import RawLog

pytestmark = pytest.mark.integration
DOZEN = few(next(schedule(SEED)), each=3)


@pytest.fixture(scope="module")
def world(raw: RawLog, before: Night, local_root: Night, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The evening before the night, and the night that nobody disturbed."""
    return World(raw, before, local_root, tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def killed(world: World) -> Iterator[Round]:
    """A night with a dozen kills; a task that lost its worker is tried again, as on a cluster."""
    session = settings_beside(world.before, world.folder / "session", spark={"master": "local[2,4]"})
    drivers = Drivers(session, world.folder)
    try:
        yield play(
            world,
            "round",
            DOZEN,
            lambda config: drivers.start("run", "--config", str(config), "--date", world.undisturbed.dt),
            Estimates(world.seconds()),
            seed=SEED,
        )
    finally:
        drivers.close()


def test_the_schedule_is_the_seeds_and_leaves_nothing_out() -> None:
    rounds, same, other = (list(islice(schedule(seed), 5)) for seed in (SEED, SEED, SEED + 1))
    assert rounds == same != other
    assert [kill.number for kills in rounds for kill in kills] == list(range(1, 1 + sum(map(len, rounds))))
    assert {kill.stage for kill in rounds[0] if kill.victim == "driver"} == set(STAGES)
    for kills, where in zip(rounds, [LOCAL] * 4 + [CLUSTER], strict=True):
        assert sorted((kill.stage, kill.victim) for kill in kills) == sorted(victims(where))
    assert numbered(SEED, [2, 40]) == [rounds[0][1], rounds[1][40 - len(rounds[0]) - 1]]
    assert len(DOZEN) == 12


def test_the_kills_hit(killed: Round) -> None:
    """A stage may be over before its moment comes, on a machine that is faster than it was a minute ago."""
    assert len(killed.night.struck) >= len(DOZEN) * 3 // 4, killed.night.missed
    assert {each.kill.victim for each in killed.night.struck} == {"driver", "java", "worker", "rank"}


def test_nothing_is_lost_torn_or_mixed(killed: Round, world: World) -> None:
    """Tables are those of the undisturbed night, every read was of one complete run, every end was told in one line."""
    figures = Figures(seed=SEED)
    found = judge(world, killed, figures)
    assert found == []
    assert figures.lost_rows == figures.torn_reads == figures.hash_mismatches == figures.unclear_ends == 0


def test_readers_read_all_the_time(killed: Round, world: World) -> None:
    assert killed.reader.reads > 5 * len(killed.reader.meant)
    assert set(killed.reader.seen) == set(killed.reader.meant)
    before, after = ((name, dt) for name in ("top_n",) for dt in (world.before.dt, world.undisturbed.dt))
    assert len(killed.reader.seen[before]) == len(killed.reader.seen[after]) == 1


def test_what_was_complete_is_not_done_again(killed: Round) -> None:
    assert lines_with(killed.night.struck[-1].command.said(), r"\] (clean|featurize|train-retrieval): done before")


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
    changes = ("retrieval.epochs=400", "retrieval.patience=400", "warm_start.enabled=false")
    long = [word for change in changes for word in ("--set", change)]
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


def test_a_root_that_a_live_process_writes_is_refused(local_root: Night, tmp_path: Path) -> None:
    config, root = copied(local_root, tmp_path)
    seen = pointers(root)
    with holder(root) as process:
        line = complaint(recsys("publish", "--config", config, "--date", local_root.dt))

    assert f"process {process.pid} on " in line
    assert "writer.json" in line
    assert pointers(root) == seen
