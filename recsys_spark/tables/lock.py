"""One writer a root: a lock file that names its owner, and expires."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage

EXPIRES_AFTER = 24 * 3600.0  # seconds; a night that takes longer has other troubles


@contextmanager
def writer_lock(storage: Storage) -> Iterator[None]:
    """Hold the root's lock while the block runs.

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
        holder = json.loads(storage.read_bytes(path) or b"{}")
        if not _is_stale(holder):
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.get("since", 0)))
            raise RecsysError(
                f"the tables are being written by process {holder.get('pid')} on {holder.get('host')} since {since}",
                storage.url(path),
                "Wait for it, or delete this file if that process is gone.",
            )
        storage.delete_file(path)
    try:
        yield
    finally:
        storage.delete_file(path)


def _is_stale(holder: dict[str, object]) -> bool:
    since = float(str(holder.get("since", 0)))
    if time.time() - since > EXPIRES_AFTER:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(str(holder.get("pid"))), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
