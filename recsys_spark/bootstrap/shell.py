"""Talking to the person and to other programs: progress lines, logged commands, locks, whole files."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

PREFIX = "recsys_spark set-up:"
TAIL_LINES = 30
STILL_RUNNING_EVERY_S = 30.0


class SetupError(Exception):
    """Something that the set-up cannot mend: its text is the one line a person needs."""


def say(text: str) -> None:
    """Print one progress line."""
    print(f"{PREFIX} {text}", flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print ``title`` now and the seconds it took afterwards."""
    say(f"{title} ...")
    start = time.monotonic()
    yield
    say(f"{title}: done in {time.monotonic() - start:.1f} s")


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    what: str,
    env: Mapping[str, str] | None = None,
    *,
    show_log: bool = True,
) -> None:
    """Run a command with its output in ``log``; when it fails, show the log's end and give up.

    Parameters
    ----------
    command : sequence of str or Path
        Program and arguments; no shell is involved.
    log : Path
        File that the command line and its output are appended to.
    what : str
        The step in words, for the error line.
    env : mapping, optional
        The whole environment of the command; this process's own by default.
    show_log : bool
        Whether a failure prints the log's last lines.

    Raises
    ------
    SetupError
        If the program cannot be started or exits with something other than 0.
    """
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(f"\n$ {shlex.join(words)}\n")
        out.flush()
        try:
            # A session of its own, so that an interrupted build can be ended with all its compilers.
            code = _wait(
                subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True),
                what,
            )
        except OSError as error:
            raise SetupError(f"{what} failed: {error}") from error
    if code != 0:
        if show_log:
            print(tail(log, TAIL_LINES), file=sys.stderr, flush=True)
        raise SetupError(f"{what} failed (exit code {code}); the whole log is {log}")


def pip_command(python: Path, verb: str) -> list[str | Path]:
    """Begin a command line of an environment's pip, without questions, bars and advertisements."""
    quiet = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
    return [python, "-m", "pip", verb, *quiet]


def _wait(process: subprocess.Popen[bytes], what: str) -> int:
    start = time.monotonic()
    while True:
        try:
            return process.wait(STILL_RUNNING_EVERY_S)
        except subprocess.TimeoutExpired:
            say(f"{what}: still running, {time.monotonic() - start:.0f} s")
        except BaseException:  # Ctrl-C or SIGTERM
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a text file."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def output_of(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str | None:
    """Return stdout and stderr of a short command, or None when it fails or does not exist."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            timeout=300,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a directory; says so when another process has it and waits.

    The lock is the kernel's and ends with the process, so a killed set-up leaves nothing stale.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process: {what}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Lend an empty folder on the file system of ``path``, from which the result can be renamed into place.

    To be called under a lock: what an earlier, killed process left of the same kind is removed.
    """
    scratch = path.with_name(f".unfinished-{path.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in one step: readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
