"""One night that is killed again and again, and goes on each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from harness import STAGES, lines_with, outliving

from faults.schedule import Kill
from faults.starts import Followed
from faults.victims import family, find

ENDS_WITHIN = 300.0  # seconds for whatever must end; a hang is for ever
_RANKS_SHARE = 0.75  # of a training stage, as long as nothing better is known
_TRIES = 4
_ALONE = ("driver", "java")  # of these there is one, the first that is found


@dataclass
class Estimates:
    """How long stages take, in seconds: as in an undisturbed night, then as they took here.

    A stage that is the first one of its process takes longer: Java has not yet compiled anything.
    """

    seconds: dict[str, float]
    learned: dict[tuple[str, object], float] = field(default_factory=dict)

    def stage(self, stage: str, first: bool) -> float:
        """From its begin to its end."""
        return self.learned.get((stage, first), self.seconds[stage])

    def ranks(self, stage: str) -> float:
        """From the first sight of a rank to the end of the last."""
        return self.learned.get((stage, "ranks"), _RANKS_SHARE * self.seconds[stage])

    def learn(self, command: Followed) -> None:
        """Take over what a command has shown."""
        for stage, ended in command.ended.items():
            self.learned[stage, stage == command.first] = ended - command.begun[stage]


@dataclass(frozen=True)
class Struck:
    """A process that was killed."""

    kill: Kill
    seconds: float  # into the stage
    command: Followed


@dataclass
class Disturbed:
    """A night under kills.

    Parameters
    ----------
    start : callable
        Starts the night's command.
    also : list of psutil.Process
        Processes below which there are victims too: a cluster's daemons.
    estimates : Estimates
    tell : callable
        Is told what happens.

    Attributes
    ----------
    struck, missed : list
        Kills that hit, and those whose victim had ended before, or never came, with the reason.
    troubles : list of str
        What must not be: commands that end without one clear line, or not at all, and processes that outlive them.
    """

    start: Callable[[], Followed]
    also: list[psutil.Process]
    estimates: Estimates
    tell: Callable[[str], None]
    seed: int = 0
    struck: list[Struck] = field(default_factory=list)
    missed: list[tuple[Kill, str]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    families: list[psutil.Process] = field(default_factory=list)
    command: Followed | None = None

    def play(self, kills: list[Kill]) -> None:
        """Strike by the schedule, then let the night come to its end."""
        for kill in kills:
            why = self._strike(kill)
            if why:
                self.missed.append((kill, why))
                self.tell(f"missed {kill}: {why}")
        self._to_the_end()
        left = outliving(self.families)
        self.troubles += [f"outlived its night: {each}" for each in left]

    def stop(self) -> None:
        """End what still runs."""
        if self.command is not None:
            self.command.stop()

    # ------------------------------------------------------------ one blow
    def _strike(self, kill: Kill) -> str | None:
        """Kill one process; returns why that was not to be, if so."""
        for _ in range(_TRIES):
            command = self._in_stage(kill.stage)
            if command is None:
                return "the stage did not come"
            self._wait(kill, command)
            if command.alive() or kill.stage in command.ended:
                return self._blow(kill, command)
            self._over(None, command, [])  # of an earlier blow, before the moment came
        return "its command ended again and again"

    def _wait(self, kill: Kill, command: Followed) -> None:
        """Let the moment come."""
        begun, first = command.begun[kill.stage], command.first == kill.stage
        window = self.estimates.stage(kill.stage, first)
        if kill.victim not in _ALONE:
            sight = self._sight(kill, command)
            window = self.estimates.ranks(kill.stage) if kill.victim == "rank" else begun + window - sight
            begun = sight
        until = begun + kill.moment * window
        while time.monotonic() < until and command.alive() and kill.stage not in command.ended:
            time.sleep(min(0.005, max(0.0, until - time.monotonic())))

    def _blow(self, kill: Kill, command: Followed) -> str | None:
        victims = find(kill.victim, [command.process, *self.also])
        members = family(command.process)
        if not victims or kill.stage in command.ended or not command.alive():
            if kill.victim == "rank":
                self.estimates.learned[kill.stage, "ranks"] = 0.7 * self.estimates.ranks(kill.stage)
            self.estimates.learn(command)
            return "it had ended" if kill.stage in command.begun else "there is none"
        victim = victims[0] if kill.victim in _ALONE else random.Random(f"{self.seed} {kill.number}").choice(victims)
        now = time.monotonic()
        try:
            victim.kill()  # SIGKILL
        except psutil.NoSuchProcess:
            return "it had just ended"
        with suppress(psutil.Error):
            victim.wait(ENDS_WITHIN)
        if kill.victim in _ALONE:
            self._over(kill, command, members)
        if command.ended.get(kill.stage, now) < now:
            return "the stage had just ended"
        self.struck.append(Struck(kill, now - command.begun[kill.stage], command))
        self.tell(f"struck {kill}, {now - command.begun[kill.stage]:.2f} s into it; {command.log.name}")
        return None

    def _sight(self, kill: Kill, command: Followed) -> float:
        """When a process of the kind was first seen in the stage; now, where the stage ends without one."""
        while command.alive() and kill.stage not in command.ended:
            if find(kill.victim, [command.process, *self.also]):
                break
            time.sleep(0.03)
        return time.monotonic()

    # ------------------------------------------------------------ the command
    def _in_stage(self, stage: str) -> Followed | None:
        """Wait for a command, this one or the next ones, to be in a stage."""
        later = set(STAGES[STAGES.index(stage) + 1 :])
        for _ in range(_TRIES):
            command = self._running()
            until = time.monotonic() + ENDS_WITHIN
            while command.alive() and stage not in command.begun:
                if later & set(command.begun) or time.monotonic() > until:
                    return None
                time.sleep(0.005)
            if stage in command.begun and command.alive():
                return command
            if self._over(None, command, []) == 0:
                return None
        return None

    def _running(self) -> Followed:
        if self.command is None or not self.command.alive():
            if self.command is not None:
                self._over(None, self.command, [])
            self.command = self.start()
        return self.command

    def _over(self, kill: Kill | None, command: Followed, members: list[psutil.Process]) -> int:
        """Wait for a command's end and judge how it ended; returns its exit code."""
        self.command = None if command is self.command else self.command
        self.families += members
        try:
            code = command.finish(ENDS_WITHIN)
        except psutil.TimeoutExpired:
            self.troubles.append(f"{kill}: the command did not end; {command.log}")
            command.stop()
            return -1
        self.estimates.learn(command)
        killed = code != 0 and kill is not None and kill.victim == "driver"
        told = lines_with(command.said(), "^recsys-spark: ")
        if code != 0 and not killed and (code != 2 or len(told) != 1):
            self.troubles.append(f"{kill}: no clear error, exit code {code}, {len(told)} lines; {command.log}")
        return code

    def _to_the_end(self) -> None:
        for _ in range(_TRIES):
            command = self._running()
            code = self._over(None, command, family(command.process))
            if code == 0:
                return
            self.tell(f"the night ended with code {code}; it is run again")
        self.troubles.append(f"the night never ended well; {command.log}")
