"""A real browser for the test of the pages: Chromium as Qt's web engine, out of ordinary wheels, without root."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .environments import set_up_further

PINS = (
    "PyQt6==6.11.0",
    "PyQt6-Qt6==6.11.2",
    "PyQt6-sip==13.13.0",
    "PyQt6-WebEngine==6.11.0",
    "PyQt6-WebEngine-Qt6==6.11.2",
)
ENGINE = "import PyQt6.QtWebEngineWidgets"


def set_up_browser(project: Path, env: Mapping[str, str]) -> None:
    """Bring ``.venv-browser`` up to date; about 230 MB are fetched, 530 MB lie on the disk.

    Parameters
    ----------
    project : Path
        Root of the checkout.
    env : mapping
        Environment variables; pip's own configuration applies as it is.

    Raises
    ------
    SetupError
        With one line for the person; where a library of the system is missing, its name.
    """
    set_up_further(project, ".venv-browser", PINS, "PyQt6-WebEngine", lambda python: cannot_start(python, env))


def cannot_start(python: Path, env: Mapping[str, str]) -> str:
    """Why the web engine does not load; empty where it does."""
    variables = {**os.environ, **env, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [str(python), "-c", ENGINE], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 0:
        return ""
    return missing_library(done.stderr)


def missing_library(text: str) -> str:
    """What Python's error says is missing, in one line with what to do.

    Examples
    --------
    >>> missing_library("ImportError: libnss3.so: cannot open shared object file: No such file or directory")[:43]
    "the browser needs the system's 'libnss3.so'"
    """
    found = re.search(r"(\S+\.so[.\d]*): cannot open shared object file", text)
    if found is None:
        lines = text.strip().splitlines()
        return f"the browser does not load: {lines[-1] if lines else 'no reason was given'}"
    return (
        f"the browser needs the system's '{found[1]}', which is not there; on Debian these have all: 'apt-get install "
        "libnss3 libegl1 libgl1 libxkbcommon0 libdbus-1-3 libasound2 libxcomposite1 libxdamage1 libxrandr2 libxtst6 "
        "libxkbfile1'"
    )
