"""What one process says of itself and its machine: `python -m recsys_spark.preflight.probe ROOT` prints it as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from typing import Any

from recsys_spark import __version__

PACKAGES = ("pyspark", "pyarrow", "numpy", "pandas", "petastorm", "torch", "horovod")
ALIKE = ("python", *PACKAGES, "recsys_spark", "code")  # what must be the same everywhere


def probe(root: str) -> dict[str, Any]:
    """Versions, size and clock of this process's machine, and whether it can read and write the root.

    Parameters
    ----------
    root : str
        Root of the tables.

    Returns
    -------
    dict
        Plain values: what ``ALIKE`` names, ``place``, ``cores``, ``memory_gib``, ``free_gib`` (of the working folder),
        ``time`` (seconds since 1970), and ``root``: empty, or why it cannot be used.
    """
    return {
        "place": place(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "pyspark": _pyspark(),
        "recsys_spark": __version__,
        "code": code_hash(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "free_gib": round(shutil.disk_usage(os.getcwd()).free / 2**30, 1),
        "root": _trouble_with(root),
        "time": time.time(),
    }


def place() -> str:
    """Host and working folder: an executor has a folder of its own."""
    return f"{socket.gethostname()}:{os.getcwd()}"


def code_hash() -> str:
    """Hash of the package's source, the same for a folder and a zip."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(resources.files("recsys_spark"), "")):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _sources(each, f"{prefix}{each.name}/")
        elif each.name.endswith(".py"):
            yield f"{prefix}{each.name}", each.read_bytes()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _pyspark() -> str:
    """Version of the one that is imported: on an executor the cluster's, whatever else is installed."""
    import pyspark

    return pyspark.__version__


def _trouble_with(root: str) -> str:
    """Write a small file, read it, delete it."""
    from recsys_spark.tables.storage import Storage

    try:
        storage = Storage(root)
        path = f"_preflight/{uuid.uuid4().hex}"
        storage.write_bytes(path, b"preflight")
        try:
            if storage.read_bytes(path) != b"preflight":
                return "what was written is not what is read"
        finally:
            storage.delete_file(path)
    except Exception as error:
        return f"cannot write and read it: {' '.join(str(error).split())[:200]}"
    return ""


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
