"""Rounds of kills on a tiny log: each on a fresh copy of a root, each compared with a night that nobody disturbed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from harness import Night, copied, java_archive, run_night
from raw_log import YESTERDAY, RawLog
from tiny import write_tiny_log

from faults.night import Disturbed, Estimates
from faults.reader import Reader
from faults.schedule import Kill
from faults.starts import Followed
from faults.verdict import Figures, compare


@dataclass(frozen=True)
class World:
    """What every round begins with and is compared with.

    Parameters
    ----------
    raw : RawLog
        With the files of the second night.
    before : Night
        Its root: one night was done.
    undisturbed : Night
        Its root: the second night was done too.
    folder : Path
        Of the rounds and their logs.
    """

    raw: RawLog
    before: Night
    undisturbed: Night
    folder: Path

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage of the undisturbed night."""
        ended = [re.search(r"\] ([a-z-]+): ([0-9.]+) s · peak", line) for line in self.undisturbed.run.out.splitlines()]
        return {match[1]: float(match[2]) for match in ended if match}

    def root(self, name: str, **changes: object) -> tuple[Path, Path]:
        """Settings and root on the evening before the second night."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        return copied(self.before, folder, **changes)

    def reader(self, root: Path) -> Reader:
        """Reader of such a root."""
        return Reader.of(root, self.undisturbed.dt, YESTERDAY, self.undisturbed.root)


@dataclass(frozen=True)
class Round:
    """A round that was played."""

    root: Path
    night: Disturbed
    reader: Reader


def play(
    world: World,
    name: str,
    kills: list[Kill],
    start: Callable[[Path], Followed],
    estimates: Estimates,
    tell: Callable[[str], None] = print,
    also: tuple[psutil.Process, ...] = (),
    seed: int = 0,
    **changes: object,
) -> Round:
    """Kill a night by the schedule, with a reader beside it, and run it to its end.

    Parameters
    ----------
    world : World
    name : str
        Folder of the round.
    kills : list of Kill
        In the order of the stages.
    start : callable
        Starts the night by a settings file.
    estimates : Estimates
    tell : callable
    also : tuple of psutil.Process
        Daemons below which there are victims.
    seed : int
        Decides which of several processes of a kind is killed.
    changes : dict
        Sections of the settings, changed.
    """
    config, root = world.root(name, **changes)
    night = Disturbed(lambda: start(config), list(also), estimates, tell, seed)
    reader = world.reader(root)
    with ExitStack() as stack:
        stack.callback(night.stop)
        with reader.looking():
            night.play(kills)
    reader.look_at_all()
    return Round(root, night, reader)


def judge(world: World, played: Round, figures: Figures) -> list[str]:
    """Add a round to the figures; returns what must not be."""
    difference = compare(played.root, world.undisturbed.root, YESTERDAY, world.undisturbed.dt)
    figures.kills += len(played.night.struck)
    figures.lost_rows += difference.lost_rows
    figures.hash_mismatches += len(difference.other)
    figures.torn_reads += len(played.reader.troubles)
    figures.unclear_ends += len(played.night.troubles)
    return [*difference.other, *played.reader.troubles, *played.night.troubles]


@contextmanager
def made_world(folder: Path, tell: Callable[[str], None]) -> Iterator[World]:
    """Write the log and do both nights."""
    for name in ("log", "raw", "yesterday"):
        (folder / name).mkdir(parents=True)
    raw = RawLog(folder / "raw", write_tiny_log(folder / "log"))
    raw.write_yesterday()
    with java_archive(folder / "java.jsa") as use:
        before = run_night(raw.write_settings(folder / "yesterday"), folder / "yesterday" / "tables", YESTERDAY)
        use()
        raw.arrive()
        tell(f"the night before: {before.run.seconds:.0f} s")
        config, root = copied(before, folder / "undisturbed")
        undisturbed = run_night(config, root, raw.log.dt)
        tell(f"the undisturbed night: {undisturbed.run.seconds:.0f} s")
        yield World(raw, before, undisturbed, folder)
