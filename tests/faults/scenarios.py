"""Faults that are no kill, by the real command on a root of its own: torn files, disks, two writers, locks, clocks."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from harness import end_all, environment, lines_with, pointers, settings_beside
from raw_log import YESTERDAY

from faults import harm
from faults.reader import Reader
from faults.rounds import World
from faults.starts import Drivers, Followed
from faults.verdict import compare
from recsys_spark.errors import RecsysError
from recsys_spark.tables import TABLES, TableStore
from recsys_spark.tables.lock import LOCK

ENDS_WITHIN = 600.0
HOURS = (-2, 2)

HOLD = """
import sys, time
from recsys_spark.tables import lock
from recsys_spark.tables.storage import Storage
lock.RENEW_EVERY = float(sys.argv[2])
with lock.writer_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


class Case:
    """A root and the commands that are run on it.

    Parameters
    ----------
    world : World
    name : str
        Also of the folder.
    seed : int
    done : bool
        Whether the second night was done on the root.
    """

    def __init__(self, world: World, name: str, seed: int, done: bool = False) -> None:
        self.world, self.draw = world, random.Random(f"{seed} {name}")
        self.folder = world.folder / name
        self.root = self.folder / "tables"
        night = world.undisturbed if done else world.before
        self.config = settings_beside(night, self.folder)
        self.drivers = Drivers(self.config, self.folder)
        self._from = night.root

    def fill(self) -> None:
        """Copy the tables to the root."""
        subprocess.run(["cp", "-a", f"{self._from}/.", str(self.root)], check=True)

    def start(self, *more: str, **variables: str) -> Followed:
        """Start the night."""
        drivers = Drivers(self.config, self.folder / str(len(list(self.folder.iterdir()))), **variables)
        drivers.folder.mkdir()
        words = ("run", "--config", str(self.config), "--date", self.world.undisturbed.dt, *more)
        return drivers.start(*words, spare=False)

    def run(self, *more: str, **variables: str) -> tuple[int, str]:
        """Run the night to its end: the exit code, and the one line that it says where it fails."""
        command = self.start(*more, **variables)
        try:
            return command.finish(ENDS_WITHIN), clear(command)
        finally:
            command.stop()

    def recovers(self, runs: int = 1) -> int:
        """Run the night until it ends well, at most so many times; each other run must say one clear line."""
        done = 0
        line = "it was not run"
        while line and done < runs:
            line, done = self.run()[1], done + 1
        assert not line, f"after {runs} runs: {line}"
        self.equals()
        return done

    def equals(self) -> None:
        """See that all tables are those of an undisturbed night."""
        found = compare(self.root, self.world.undisturbed.root, YESTERDAY, self.world.undisturbed.dt)
        assert found.lost_rows == 0 and not found.other, found  # noqa: PT018

    def readable(self, *without: str) -> None:
        """See that readers of the day before have every table in full."""
        reader = self.world.reader(self.root)
        for table, dt in reader.meant:
            if dt == YESTERDAY and table not in without:
                reader.look(table, dt)
                assert reader.seen.get((table, dt)), f"{table} of {dt} is missing"
        assert reader.troubles == [], reader.troubles


def clear(command: Followed) -> str:
    """The line by which a command that failed says why; there must be exactly one."""
    code, said = command.process.returncode, command.said()
    lines = lines_with(said, "^recsys-spark: ")
    assert (code, len(lines)) in ((0, 0), (2, 1), (3, 0)), f"exit code {code}, {len(lines)} clear lines; {command.log}"
    return lines[0] if lines else ""


# ---------------------------------------------------------------- torn files
def torn_tables(world: World, seed: int) -> str:
    """Files of tonight's tables are torn at random places; the next runs find out and write them again."""
    told = []
    for number in range(3):
        case = Case(world, f"torn_tables_{number}", seed, done=True)
        case.fill()
        store = TableStore(str(case.root))
        dt = world.undisturbed.dt
        tables = case.draw.sample(sorted(name for name, _ in world.reader(case.root).meant if name != "report"), 3)
        for table, kind in zip(tables, ("_current.json", "_manifest.json", "*.parquet"), strict=True):
            folder = case.root / table / f"dt={dt}"
            files = sorted(each for each in folder.rglob(kind) if each.stat().st_size)
            if not files:
                continue
            told.append(f"{table}: {harm.tear(case.draw.choice(files), case.draw)}")
            refused(store, table, dt)
        case.readable()
        runs = case.recovers(4)
        told.append(f"{runs} runs")
    return "; ".join(told)


def refused(store: TableStore, table: str, dt: str) -> None:
    """See that a torn table is never taken for a whole one."""
    try:
        manifest = store.need(table, dt)
    except RecsysError:
        return
    if store.damage(manifest):
        return
    reader = Reader(store, {(table, dt): {manifest.content_hash}})
    reader.look(table, dt)
    whole = TABLES[table].kind != "rows"  # zeros in it are found by what reads it
    assert reader.troubles or whole, f"{table} of {dt} is torn and was read"


def torn_checkpoints(world: World, seed: int) -> str:
    """A training is killed, and a file of its newest checkpoint is torn."""
    told = []
    for stage in ("retrieval", "ranker"):
        case = Case(world, f"torn_checkpoint_{stage}", seed)
        case.fill()
        command = case.start()
        try:
            until = time.monotonic() + ENDS_WITHIN
            found: list[Path] = []
            while not found and command.alive() and time.monotonic() < until:
                found = sorted((case.root / "_checkpoints").rglob(f"*{stage}*/**/_complete.json"))
                time.sleep(0.01)
            assert found, f"no checkpoint; {command.log}"
            command.process.kill()
            command.finish(60)
        finally:
            command.stop()
        time.sleep(2)  # ranks end with their driver
        files = sorted(each for each in found[-1].parent.glob("*") if each.stat().st_size)
        if files:
            told.append(harm.tear(case.draw.choice(files), case.draw))
        case.readable()
        case.recovers()
    return "; ".join(told)


# ---------------------------------------------------------------- disks
def disk_full(world: World, seed: int) -> str:
    """The disk of the root gets full in the midst of the night; with more room the night goes on."""
    told = []
    for number in range(4):
        case = Case(world, f"disk_full_{number}", seed)
        size = used(world.before.root)
        free = int(case.draw.uniform(0.05, 0.9) * (used(world.undisturbed.root) - size))
        with harm.small_disk(case.root, size + free):
            case.fill()
            code, line = case.run()
            assert code == 2, f"{free} bytes were free, exit code {code}; {case.folder}"
            assert "disk is full" in line, line
            case.readable()
            harm.resize(case.root, 1 << 30)
            case.recovers()
        told.append(f"{free >> 10} KiB free")
    return ", ".join(told)


def used(folder: Path) -> int:
    """Bytes that a folder takes on a file system with pages of 4 KiB."""
    return sum(-(-each.stat().st_size // 4096) * 4096 for each in folder.rglob("*") if each.is_file()) + (64 << 10)


def read_only_root(world: World, seed: int) -> str:
    """Nothing can be written below the root."""
    case = Case(world, "read_only", seed)
    case.root.mkdir()
    case.fill()
    with harm.read_only(case.root):
        code, line = case.run()
        assert code == 2
        assert "read-only" in line, line
        case.readable()
    case.recovers()
    return line


# ---------------------------------------------------------------- two writers
def two_at_once(world: World, seed: int) -> str:
    """Two runs of one day begin in the same moment."""
    case = Case(world, "two_at_once", seed)
    case.fill()
    both = [case.start(), case.start()]
    codes = [each.finish(ENDS_WITHIN) for each in both]
    assert sorted(codes) == [0, 2], codes
    winner, loser = both[codes.index(0)], both[codes.index(2)]
    line = clear(loser)
    assert f"process {winner.process.pid} on " in line, line
    case.equals()
    return line


def overtaken(world: World, seed: int) -> str:
    """A run is stopped, its lock goes stale, another run does the night; then the first one wakes up."""
    case = Case(world, "overtaken", seed)
    case.fill()
    command = case.start()
    try:
        until = time.monotonic() + ENDS_WITHIN
        while "candidates" not in command.begun and command.alive() and time.monotonic() < until:
            time.sleep(0.01)
        command.process.send_signal(signal.SIGSTOP)
        owner = json.loads((case.root / LOCK).read_text())
        (case.root / LOCK).write_text(json.dumps(owner | {"host": "elsewhere", "renewed": 0, "renew_every": 0.2}))
        case.recovers()
        seen = pointers(case.root)
        command.process.send_signal(signal.SIGCONT)
        assert command.finish(ENDS_WITHIN) == 2, command.log
        line = clear(command)
    finally:
        command.stop()
    assert pointers(case.root) == seen
    case.equals()
    return line


@contextmanager
def holder(root: Path, host: str = "", **variables: str) -> Iterator[psutil.Popen]:
    """A process, on another host if need be, that holds the lock of a root and renews it."""
    command = [sys.executable, "-c", HOLD, str(root), "0.2"]
    if host:
        command = ["unshare", "-u", "sh", "-c", f'hostname {host} && exec "$@"', "sh", *command]
    process = psutil.Popen(command, env=environment(**variables), stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        end_all([process])


def rewrite_lock(root: Path, **changes: Any) -> None:
    """Change what a lock says."""
    (root / LOCK).write_text(json.dumps(json.loads((root / LOCK).read_text()) | changes))


def stale_lock(world: World, seed: int) -> str:
    """The owner of a lock is dead: on this host its lock is free at once, elsewhere when it has expired."""
    case = Case(world, "stale_lock", seed, done=True)
    case.fill()
    for where in ("", "elsewhere"):
        with holder(case.root, where) as process:
            process.kill()
            process.wait(30)
        assert (case.root / LOCK).exists()
        if where:
            code, line = case.run()
            assert code == 2
            assert "on elsewhere since" in line, line
            rewrite_lock(case.root, renewed=time.time() - 601)
        case.recovers()
        assert not (case.root / LOCK).exists()
    return line


def wrong_clock(world: World, seed: int) -> str:
    """A host's clock is two hours off: its live lock is respected, its dead one is not, its night is the same."""
    line = ""
    for hours in HOURS:
        off = harm.wrong_clock(world.folder, hours * 3600)
        done = Case(world, f"lock_of_wrong_clock_{hours}", seed, done=True)
        done.fill()
        with holder(done.root, "elsewhere", **off) as process:
            code, line = done.run()
            assert code == 2, (code, done.folder)
            assert f"process {process.pid} on elsewhere" in line, line
            process.kill()
            process.wait(30)
        done.recovers()  # after a look at the lock
        case = Case(world, f"night_by_wrong_clock_{hours}", seed)
        case.fill()
        command = case.start(**off)
        assert command.finish(ENDS_WITHIN) == 0, command.log
        case.equals()
        case.recovers()  # by a right clock: nothing is to be done, and the lists are as they were
    return line


_ALL = (
    two_at_once,
    overtaken,
    stale_lock,
    wrong_clock,
    torn_tables,
    torn_checkpoints,
    disk_full,
    read_only_root,
)
SCENARIOS: dict[str, Callable[[World, int], str]] = {each.__name__: each for each in _ALL}
NEED_MOUNTS = ("disk_full", "read_only_root")
