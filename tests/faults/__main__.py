"""The whole schedule of faults on a tiny log: ``make test-faults``, about an hour on two cores.

    FAULTS_SEED=1 make test-faults          another schedule
    FAULTS_KILLS=50 make test-faults        the first kills of it
    FAULTS_ONLY=17 make test-faults         one kill alone, or some: 17,40; or other faults by name: disk_full

Ends with one line of JSON; exit code 1 where something did not hold. Logs stay where it says then.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from harness import STAGES, settings_beside
from standalone import standalone_cluster

from faults import harm
from faults.night import Estimates
from faults.rounds import World, judge, made_world, play
from faults.scenarios import NEED_MOUNTS, SCENARIOS
from faults.schedule import CLUSTER, KILLS, LOCAL, SEED, Kill, numbered, schedule
from faults.starts import Drivers, Followed, followed
from faults.verdict import Figures

TRIES = 4  # of a kill that is played alone

Start = Callable[[Path], Followed]


class Progress:
    """Prints lines with the time since the start and the time left."""

    def __init__(self, kills: int) -> None:
        self.began, self.kills, self.done = time.monotonic(), kills, 0
        self.first = 0.0  # seconds before the first kill

    def tell(self, line: str) -> None:
        """Print a line; a kill counts."""
        seconds = time.monotonic() - self.began
        self.done += line.startswith("struck")
        self.first = self.first if self.done else seconds
        pace = (seconds - self.first) / max(self.done, 1)
        left = f" · {pace * (self.kills - self.done) / 60:.0f} min left" if 0 < self.done < self.kills else ""
        print(f"[{seconds:6.0f} s] {self.done}/{self.kills}{left} · {line}", flush=True)


def main() -> int:
    """Play it all, in a place of its own where disks may be mounted."""
    inside = None if "FAULTS_INSIDE" in os.environ else harm.in_own_mounts([sys.executable, "-m", "faults"])
    if inside is not None:
        os.execvpe(inside[0], inside, {**os.environ, "FAULTS_INSIDE": "1"})
    seed, number = int(os.environ.get("FAULTS_SEED", SEED)), int(os.environ.get("FAULTS_KILLS", KILLS))
    only = os.environ.get("FAULTS_ONLY", "").replace(",", " ").split()
    numbers = [int(word) for word in only if word.isdigit()]
    asked = len(numbers) if only else number
    names = [name for name in SCENARIOS if not only or name in only]
    folder = Path(tempfile.mkdtemp(prefix="recsys_faults_"))
    progress = Progress(asked)
    progress.tell(f"seed {seed}, {asked} kills, logs in {folder}")
    figures = Figures(seed=seed)
    with made_world(folder, progress.tell) as world:
        rounds = _alone(seed, numbers) if only else schedule(seed)
        _kill(world, rounds, asked, figures, progress.tell)
        _other_faults(world, names, figures, progress.tell)
    for line in figures.failed:
        print(f"FAILED {line}")
    if not figures.failed:
        shutil.rmtree(folder)
    print(json.dumps(figures.line()))
    return 1 if figures.failed else 0


def _kill(
    world: World, rounds: Iterator[list[Kill]], asked: int, figures: Figures, tell: Callable[[str], None]
) -> None:
    """Play rounds until so many kills have hit; what missed is not counted, and further rounds make up for it."""
    estimates = {where: Estimates(world.seconds()) for where in (LOCAL, CLUSTER)}
    struck: set[int] = set()
    for count, whole in enumerate(rounds):
        kills = [kill for kill in whole if kill.number not in struck][: asked - len(struck)]
        if len(struck) == asked:
            return
        if not kills:
            continue
        where, name = kills[0].where, f"round-{count}"
        changes = {"launch": {"launcher": "spark", "ranks": 2}} if where == CLUSTER else {}
        with _starting(world, where, world.folder / f"{name}-logs") as (start, also):
            played = play(world, name, kills, start, estimates[where], tell, also, figures.seed, **changes)
        found = judge(world, played, figures)
        hit = [each.kill.number for each in played.night.struck]
        struck |= set(hit)
        figures.failed += [f"{name} (kills {', '.join(map(str, hit))}): {line}" for line in found]
        tell(f"{name}: {'; '.join(found) or 'all holds'}; {played.reader.reads} reads")
    if len(struck) < asked:
        figures.failed.append(f"{len(struck)} of {asked} kills hit")


def _alone(seed: int, numbers: list[int]) -> Iterator[list[Kill]]:
    """Kills by their numbers, those of a place together; again, as long as the caller wants more."""
    kills = sorted(numbered(seed, numbers), key=lambda kill: (STAGES.index(kill.stage), kill.moment))
    for _ in range(TRIES):
        for where in (LOCAL, CLUSTER):
            mine = [kill for kill in kills if kill.where == where]
            if mine:
                yield mine


@contextmanager
def _starting(world: World, where: str, logs: Path) -> Iterator[tuple[Start, tuple[psutil.Process, ...]]]:
    """How nights are started, and the daemons below which there are victims too."""
    logs.mkdir()
    if where == CLUSTER:
        with standalone_cluster(logs / "cluster") as cluster:
            count = iter(range(1, 1_000))

            def submit(config: Path) -> Followed:
                words = cluster.command("run", "--config", config, "--date", world.undisturbed.dt)
                log = logs / f"driver-{next(count)}.log"
                return followed(words, log, cluster.folder, **cluster.variables(cluster.python))

            yield submit, tuple(cluster.daemons)
        return
    # as on a cluster, a task is tried four times
    session = settings_beside(world.before, logs / "session", spark={"master": "local[2,4]"})
    drivers = Drivers(session, logs)
    try:
        yield lambda config: drivers.start("run", "--config", str(config), "--date", world.undisturbed.dt), ()
    finally:
        drivers.close()


def _other_faults(world: World, names: list[str], figures: Figures, tell: Callable[[str], None]) -> None:
    for name in names:
        began = time.monotonic()
        if name in NEED_MOUNTS and not harm.may_mount():
            tell(f"{name}: skipped, this user may mount nothing (neither root nor 'unshare -rm')")
            continue
        try:
            says = SCENARIOS[name](world, figures.seed)
        except Exception as error:  # the others are played all the same
            says = None
            figures.failed.append(f"{name}: {type(error).__name__}: {str(error)[:2000]}; {world.folder}")
        figures.scenarios += says is not None
        tell(f"{name}: {says or 'FAILED'} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
