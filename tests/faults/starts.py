"""Running commands whose stages are followed by what they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import STAGES, end_all, environment

from faults.driver import WARM
from faults.victims import family

_LINE = re.compile(rf"^\[ *[0-9.]+ s\] ({'|'.join(STAGES)}): (.*)")
_ENDED = re.compile(r"([0-9.]+) s · peak ")
TESTS = Path(__file__).parents[1]


@dataclass
class Followed:
    """A command that runs, with what it has said of its stages.

    Parameters
    ----------
    process : psutil.Popen
        Its output is a pipe.
    log : Path
        Where its output is kept.

    Attributes
    ----------
    begun, ended : dict of str to float
        When a stage began or ended here, by this process's clock. A stage that was done before is in neither.
    first : str
        The first stage that was really done.
    """

    process: psutil.Popen
    log: Path
    begun: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    first: str = ""
    warm: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process.poll() is None

    def finish(self, patience: float) -> int:
        """Wait for its end; returns its exit code."""
        code: int = self.process.wait(patience)
        self._thread.join(5)  # what survives it may hold the pipe
        return code

    def stop(self) -> None:
        """End it and all below it."""
        if self.alive():
            end_all(family(self.process), 2)

    def _follow(self) -> None:
        with self.log.open("a") as log:
            for line in self.process.stdout:
                now = time.monotonic()
                log.write(line)
                log.flush()
                if line.strip() == WARM:
                    self.warm.set()
                if match := _LINE.match(line):
                    self._note(match[1], match[2], now)
        self.warm.set()

    def _note(self, stage: str, says: str, now: float) -> None:
        if _ENDED.match(says):
            self.ended[stage] = now
        elif stage not in self.begun and not says.startswith("done before"):
            self.begun[stage] = now
            self.first = self.first or stage


def followed(command: list[str], log: Path, cwd: Path | None = None, **variables: str) -> Followed:
    """Start a command."""
    process = psutil.Popen(
        command,
        env=environment(**variables),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return Followed(process, log)


class Drivers:
    """Drivers of local mode: one more than is asked for is always getting warm.

    Parameters
    ----------
    config : Path
        Settings that decide the session.
    folder : Path
        Of the logs.
    variables : dict
        Environment beside the usual one.
    """

    def __init__(self, config: Path, folder: Path, **variables: str) -> None:
        self.config, self.folder, self.variables = config, folder, variables
        self.count = 0
        self.spare: Followed | None = None

    def start(self, *words: str, spare: bool = True) -> Followed:
        """Have a warm driver become ``recsys-spark WORDS``."""
        chosen = self.spare or self._warming()
        assert chosen.warm.wait(300), chosen.said()
        self.spare = self._warming() if spare else None
        chosen.process.stdin.write(json.dumps(words) + "\n")
        chosen.process.stdin.flush()
        return chosen

    def close(self) -> None:
        """End the driver that nobody asked for."""
        if self.spare is not None:
            self.spare.stop()
            self.spare = None

    def _warming(self) -> Followed:
        import os

        self.count += 1
        path = os.pathsep.join([str(TESTS), str(TESTS / "integration"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "faults.driver", str(self.config)]
        return followed(command, self.folder / f"driver-{self.count}.log", PYTHONPATH=path, **self.variables)


Start = Callable[[], Followed]
