"""Ways to harm a root: tear a file as a crash does, make its disk small or read-only, set its owner's clock wrong."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import execute


def tear(path: Path, draw: random.Random) -> str:
    """Tear a file at a random place: the rest is gone, or is there as zeros, as after a crash of the machine."""
    content = path.read_bytes()
    place = draw.randrange(len(content))
    zeros = draw.random() < 0.5
    path.write_bytes(content[:place] + (b"\0" * (len(content) - place) if zeros else b""))
    return f"{path.name} of {len(content)} bytes {'is zeros from' if zeros else 'ends at'} {place}"


def may_mount() -> bool:
    """Tell whether this process may mount something."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = execute(["mount", "-t", "tmpfs", "none", folder]).code == 0
        if mounted:
            _unmount(Path(folder))
    return mounted


def in_own_mounts(command: list[str]) -> list[str] | None:
    """The command with mounts of its own, as root of a user namespace where it must be; None where that is refused."""
    for how in (["unshare", "-m"], ["unshare", "-rm"]):
        if execute([*how, "mount", "-t", "tmpfs", "none", "/mnt"]).code == 0:
            return [*how, *command]
    return None


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Make a folder a file system of its own with room for so many bytes."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "none", folder)
    try:
        yield
    finally:
        _unmount(folder)


def resize(folder: Path, size: int) -> None:
    """Give such a file system more or less room."""
    _mount("-o", f"remount,size={size}", folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write below a folder, root neither."""
    _mount("--bind", folder, folder)
    try:
        _mount("-o", "remount,ro,bind", folder)
        yield
    finally:
        _unmount(folder)


def wrong_clock(folder: Path, seconds: int) -> dict[str, str]:
    """Environment of a command whose time of day is off by so much; see ``clock.c``."""
    library = folder / "clock.so"
    if not library.exists():
        source = Path(__file__).parent / "clock.c"
        built = execute([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-o", library, source])
        assert built.code == 0, built
    return {"LD_PRELOAD": str(library), "CLOCK_OFF": str(seconds)}


def _mount(*words: str | Path) -> None:
    done = execute(["mount", *words])
    assert done.code == 0, done


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)
