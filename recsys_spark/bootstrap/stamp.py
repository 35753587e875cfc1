"""Remembering what a virtual environment was made from, so that an unchanged one costs nothing.

The stamp lies in the environment (``.venv/recsys_stamp.json``) and is written last. While the set-up is at
work an ``INCOMPLETE`` file lies there instead: found on a later start, the environment is made afresh.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .shell import write_atomically

STAMP = "recsys_stamp.json"
INCOMPLETE = "INCOMPLETE"


def fingerprint(files: Iterable[Path], facts: Mapping[str, str]) -> str:
    """Hash the contents of some files and some facts about the machine.

    Parameters
    ----------
    files : iterable of Path
        Files whose content decides what is installed; a missing one counts as such.
    facts : mapping
        Anything else that decides it.
    """
    digest = hashlib.sha256()
    for file in sorted(files):
        content = file.read_bytes() if file.exists() else b"\0missing"
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    digest.update(json.dumps(dict(facts), sort_keys=True).encode())
    return digest.hexdigest()


def read_stamp(venv: Path) -> dict[str, Any]:
    """Return what the last finished set-up noted; empty when there was none or it cannot be read."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_current(venv: Path, key: str) -> bool:
    """Tell whether an environment is whole, was made from ``key``, and is still where it was made."""
    stamp = read_stamp(venv)
    return (
        stamp.get("key") == key
        and stamp.get("venv") == str(venv)
        and not (venv / INCOMPLETE).exists()
        and (venv / "bin" / "python").exists()
        and all(Path(path).exists() for path in stamp.get("needs", []))
    )


def must_start_afresh(venv: Path) -> bool:
    """Tell whether an environment cannot be updated in place: torn, moved, or its Python gone."""
    return (
        not (venv / "bin" / "python").exists()
        or (venv / INCOMPLETE).exists()
        or read_stamp(venv).get("venv") != str(venv)
    )


def begin(venv: Path) -> None:
    """Mark an environment as being worked on."""
    venv.mkdir(parents=True, exist_ok=True)
    (venv / INCOMPLETE).touch()


def finish(venv: Path, key: str, needs: Iterable[Path], choices: Mapping[str, str]) -> None:
    """Mark an environment as finished.

    Parameters
    ----------
    venv : Path
        The environment.
    key : str
        Its :func:`fingerprint`.
    needs : iterable of Path
        Things outside it that it cannot do without, such as Java.
    choices : mapping
        Environment variables of the user's that shaped it; later set-ups keep to them.
    """
    note = {
        "key": key,
        "venv": str(venv),
        "needs": [str(path) for path in needs],
        "choices": dict(choices),
    }
    write_atomically(venv / STAMP, json.dumps(note, indent=1) + "\n")
    (venv / INCOMPLETE).unlink(missing_ok=True)
