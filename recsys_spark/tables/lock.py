"""One writer a root: a lock file that names its owner, and expires."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage

EXPIRES_AFTER = 24 * 3600.0  # seconds; a night that takes longer has other troubles
CLAIM_EXPIRES_AFTER = 60.0  # seconds; taking a stale lock away is a matter of milliseconds


@contextmanager
def writer_lock(storage: Storage, what: str = "the tables are") -> Iterator[None]:
    """Hold the root's lock while the block runs; ``what`` it guards is for the message.

    A lock whose owner is a dead process of this host, or that is older than a day, is taken over.

    Raises
    ------
    RecsysError
        Somebody else holds it; the message says who, and since when.
    """
    path = "_locks/writer.json"
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    content = json.dumps(owner).encode()
    while not storage.create_bytes(path, content):
        found = _content(storage, path)
        if found is None:
            continue  # given back just now
        holder = _holder(found)
        if not _is_stale(holder):
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder["since"]))
            raise RecsysError(
                f"{what} being written by process {holder['pid']} on {holder['host']} since {since}",
                storage.url(path),
                "Wait for it, or delete this file if that process is gone.",
            )
        _take_away(storage, path, found)
    try:
        yield
    finally:
        if _content(storage, path) == content:  # else it had expired, and is somebody else's now
            storage.delete_file(path)


def _content(storage: Storage, path: str) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None


def _holder(content: bytes) -> dict[str, Any]:
    """Owner that a lock names; one that names nobody is as old as can be."""
    try:
        values = json.loads(content)
        return {"host": values["host"], "pid": int(values["pid"]), "since": float(values["since"])}
    except (ValueError, TypeError, KeyError):
        return {"host": None, "pid": 0, "since": 0.0}


def _take_away(storage: Storage, path: str, stale: bytes) -> None:
    """Delete a stale lock, but never the fresh one of somebody who found the same stale lock a moment before.

    Whoever makes the file that is named after the stale content may delete it, if it is still there.
    """
    claim = f"{path}.{hashlib.sha256(stale).hexdigest()[:16]}"
    if not storage.create_bytes(claim, b""):
        time.sleep(0.05)
        if time.time() - _made(storage, claim) > CLAIM_EXPIRES_AFTER:
            storage.delete_file(claim)
        return
    try:
        if _content(storage, path) == stale:
            storage.delete_file(path)
    finally:
        storage.delete_file(claim)


def _made(storage: Storage, path: str) -> float:
    changed = storage.fs.get_file_info(storage.path(path)).mtime
    return time.time() if changed is None else float(changed.timestamp())


def _is_stale(holder: dict[str, Any]) -> bool:
    if time.time() - holder["since"] > EXPIRES_AFTER:
        return True
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
